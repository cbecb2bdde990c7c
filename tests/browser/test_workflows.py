"""The example workflows in the hands of a person: found, opened, run, and opened again from what they made."""

from collections import Counter
from pathlib import Path

import pytest

from browser.front_end import FrontEnd
from example_workflows import FOLDER, NAMES, SMALL, TRAINING, put_inputs, read_api, read_graph

ERRORS = "app.graph.nodes.filter((node) => node.has_errors).map((node) => node.title)"
PLAYS = """(id) => {
  const media = app.graph.getNodeById(id).widgets.map((widget) => widget.element?.querySelector?.("video"));
  return media.some((video) => video?.videoWidth);
}"""
# Save Video's file; of a whole story also the film and the picture of its memory
FILES_MADE = {"story_director": 3, "two_shots_by_hand": 1, "references_to_story": 3, "native_sampler": 1}


@pytest.fixture(scope="module", autouse=True)
def pictures_to_load(server):
    for name in NAMES:
        put_inputs(server.base / "input", read_api(name))


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


def types(graph: dict) -> Counter:
    return Counter(node["type"] for node in graph["nodes"])


def wait_for_graph(front_end: FrontEnd, count: int) -> None:
    front_end.page.wait_for_function("(count) => app.graph.nodes.length === count", arg=count)
    front_end.page.locator(".p-blockui-mask").wait_for(state="detached")
    front_end.page.wait_for_timeout(500)  # for what the front end finds missing


def assert_whole(front_end: FrontEnd, graph: dict) -> None:
    """Nothing of the graph is missing: no node, no model, no file to load."""
    assert types(front_end.workflow()) == types(graph)
    assert front_end.page.evaluate(ERRORS) == []
    assert front_end.page.get_by_text("errors found").count() == 0


def written(server, entry: dict) -> list[Path]:
    """The films and pictures that a run shows from the output folder, but for the shots of a film."""
    paths = [
        server.base / "output" / image["subfolder"] / image["filename"]
        for output in entry["outputs"].values()
        for image in output.get("images", [])
        if image["type"] == "output" and "storymem_shot" not in output
    ]
    return sorted(set(paths))


def make_small(front_end: FrontEnd) -> None:
    """Small sizes and few steps; and the demo's text encoder, as the host's loader knows the real one only."""
    front_end.page.evaluate(
        """(small) => {
          for (const node of app.graph.nodes)
            for (const widget of node.widgets ?? [])
              if (widget.name in small) widget.value = small[widget.name];
          const loader = app.graph.nodes.find((node) => node.type === "CLIPLoader");
          const demo = LiteGraph.createNode("StoryMemDemoCLIPLoader");
          demo.pos = loader.pos;
          app.graph.add(demo);
          demo.widgets[0].value = loader.widgets[0].value;
          const links = loader.outputs[0].links.map((number) => app.graph.getLink(number));
          for (const link of links) demo.connect(0, app.graph.getNodeById(link.target_id), link.target_slot);
          app.graph.remove(loader);
        }""",
        SMALL,
    )


@pytest.mark.parametrize("name", [*NAMES, TRAINING])
def test_it_opens_whole_from_the_template_browser_where_its_picture_is(front_end, name):
    page = front_end.page
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text("ComfyUI-StoryMem").first.click()
    card = page.get_by_test_id(f"template-workflow-{name}")
    picture = card.locator("img").element_handle()
    page.wait_for_function("(image) => image.complete && image.naturalWidth >= 600", arg=picture)
    card.click()
    wait_for_graph(front_end, len(read_graph(name)["nodes"]))
    assert_whole(front_end, read_graph(name))


def test_dropped_on_the_canvas_it_opens_whole_and_runs(front_end, server, name):
    front_end.drop(FOLDER / f"{name}.json")
    graph = read_graph(name)
    wait_for_graph(front_end, len(graph["nodes"]))
    assert_whole(front_end, graph)
    make_small(front_end)
    entry = front_end.run()
    save = next(node["id"] for node in graph["nodes"] if node["type"] == "SaveVideo")
    front_end.show(save)
    front_end.page.wait_for_function(PLAYS, arg=save)
    made = written(server, entry)
    assert len(made) == FILES_MADE[name]
    opened = types(front_end.workflow())
    for path in made:
        front_end.clear()
        front_end.drop(path)
        wait_for_graph(front_end, opened.total())
        assert types(front_end.workflow()) == opened, path.name


def test_a_saved_image_opens_its_workflow(front_end, server):
    images = front_end.add("ProbeImages", seed=1, count=1, height=32, width=48, nan=False)
    bank, save = front_end.add("StoryMemMemoryBank", (300, 0), sink=2), front_end.add("SaveImage", (900, 0))
    front_end.connect(images, "IMAGE", bank, "reference_images")
    front_end.connect(bank, "keyframes", save, "images")
    (path,) = written(server, front_end.run())
    front_end.clear()
    front_end.drop(path)
    wait_for_graph(front_end, 3)
    assert front_end.widget(bank, "sink") == 2
