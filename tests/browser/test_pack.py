"""The pack in the front end: it loads quietly, explains itself, and speaks the user's language."""

import json

import pytest

from browser.front_end import FrontEnd

PACK = "custom_nodes.ComfyUI-StoryMem"


@pytest.fixture
def nodes(server) -> dict[str, dict]:
    return {name: node for name, node in server.client.object_info().items() if node["python_module"] == PACK}


@pytest.fixture
def setting(front_end, server):
    """Changes a setting of the front end for one test, and opens the page again under it."""
    before = {}

    def change(name: str, value: object) -> None:
        before[name] = front_end.page.evaluate("(name) => app.extensionManager.setting.get(name)", name)
        save(name, value)
        front_end.open()
        front_end.clear()

    def save(name: str, value: object) -> None:
        body = {"data": json.dumps({name: value}), "headers": {"Content-Type": "application/json"}}
        assert front_end.page.request.post(f"{server.client.url}/settings", **body).ok

    yield change
    for name, value in before.items():
        save(name, value)


def add_all(front_end: FrontEnd, nodes: dict) -> dict[str, int]:
    return {name: front_end.add(name, (700 * (i % 6), 1200 * (i // 6))) for i, name in enumerate(nodes)}


@pytest.mark.parametrize("vue_nodes", [False, True])
def test_every_node_draws_without_a_complaint(front_end, setting, nodes, vue_nodes):
    """Under both of the front end's node renderers; the console is watched by the fixture."""
    setting("Comfy.VueNodes.Enabled", vue_nodes)
    ids = add_all(front_end, nodes)
    front_end.show()
    front_end.page.wait_for_timeout(2000)
    assert [node["type"] for node in front_end.workflow()["nodes"]] == list(ids)


def test_the_help_panel_shows_every_page_with_its_picture(front_end, nodes):
    page = front_end.page
    for name, node in nodes.items():
        front_end.clear()
        page.evaluate("(id) => app.canvas.selectItems([app.graph.getNodeById(id)])", front_end.add(name, (0, 0)))
        front_end.show()
        info = page.get_by_test_id("info-button")
        if info.is_visible():
            info.click()
        page.locator(".node-help-content h1", has_text=node["display_name"]).wait_for()
        pictures = page.locator(".node-help-content img")
        pictures.first.wait_for()
        for picture in pictures.element_handles():
            page.wait_for_function("(picture) => picture.complete && picture.naturalWidth > 500", arg=picture)
    # it asks for a page in the user's language first, and logs the 404 before it takes the page there is
    front_end.messages[:] = [entry for entry in front_end.messages if "/docs/StoryMem" not in entry[1]]


def test_a_search_for_what_it_does_finds_a_node(front_end):
    page = front_end.page
    for word, found in (("consistency", "Memory Bank"), ("multi-shot", "Story Director")):
        page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        page.wait_for_function("() => document.activeElement.tagName === 'INPUT'")
        page.keyboard.type(word)
        page.get_by_role("option").filter(has_text=found).first.wait_for()
        page.keyboard.press("Escape")
        page.wait_for_function("() => document.activeElement.tagName !== 'INPUT'")


def test_it_speaks_chinese_where_the_front_end_does(front_end, setting, server):
    texts = server.client._json("/i18n")["zh"]["nodeDefs"]["StoryMemSampler"]
    setting("Comfy.Locale", "zh")
    node = front_end.add("StoryMemSampler")
    shown = front_end.page.evaluate(
        """(id) => {
          const node = app.graph.getNodeById(id);
          const slots = node.inputs.filter((slot) => !slot.widget).map((slot) => [slot.name, slot.localized_name]);
          const widgets = node.widgets.map((widget) => [widget.name, widget.label]);
          return { title: node.title, names: Object.fromEntries([...slots, ...widgets]) };
        }""",
        node,
    )
    assert shown["title"] == texts["display_name"]
    names = {name: text["name"] for name, text in texts["inputs"].items()}
    assert {name: shown["names"][name] for name in names} == names
