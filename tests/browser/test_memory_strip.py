"""The memory on its nodes, in a real browser: what it shows, and every way to edit it."""

import json
import re

import pytest
from playwright.sync_api import Locator, expect

from browser.front_end import FrontEnd

COUNT = 8
CAPACITY, SINK = 4, 2
MARKUP = "<img src=x onerror=alert(1)>"


class Memory:
    """Pictures that become keyframes, a Memory Bank, and what its node shows."""

    def __init__(self, front_end: FrontEnd, counts: tuple[int, ...] = (COUNT,)):
        self.front_end, self.page = front_end, front_end.page
        self.extractors = []
        for seed, count in enumerate(counts):
            settings = {"count": count, "height": 160, "width": 288, "nan": False, "control_after_generate": "fixed"}
            images = front_end.add("ProbeImages", (0, 500 * seed), seed=seed, **settings)
            extractor = front_end.add(
                "StoryMemKeyframeExtractor", (300, 700 * seed), threshold=1.0, max_keyframes=count, quality="none"
            )
            front_end.connect(images, "IMAGE", extractor, "images")
            if self.extractors:
                front_end.connect(self.extractors[-1], "bank", extractor, "bank")
            self.extractors.append(extractor)
        self.bank = front_end.add("StoryMemMemoryBank", (900, 0), capacity=CAPACITY, sink=SINK)
        self.preview = front_end.add("PreviewImage", (1500, 0))
        front_end.connect(self.extractors[-1], "bank", self.bank, "bank")
        front_end.connect(self.bank, "keyframes", self.preview, "images")
        # so that the first keyframes are in sight
        front_end.page.evaluate("(id) => app.graph.getNodeById(id).setSize([520, 850])", self.bank)

    def run(self) -> list[dict]:
        """Run the graph: what the Memory Bank holds, in order."""
        entry = self.front_end.run()
        self.front_end.show(self.bank)
        expect(self.strip).not_to_contain_text(re.compile("Run|run to update"))
        return entry["outputs"][str(self.bank)]["storymem_keyframes"]

    def strip_of(self, node: int) -> Locator:
        self.page.evaluate(
            """(id) => {
              const { element } = app.graph.getNodeById(id).widgets.find((widget) => widget.name === "memory");
              element.id = `strip-${id}`;
            }""",
            node,
        )
        return self.page.locator(f"#strip-{node}")

    @property
    def strip(self) -> Locator:
        return self.strip_of(self.bank)

    @property
    def cards(self) -> Locator:
        return self.strip.get_by_role("listitem")

    def card(self, place: int) -> Locator:
        return self.cards.nth(place)

    def press(self, place: int, button: str) -> None:
        self.card(place).get_by_role("button", name=button).click()

    def label(self, place: int, text: str) -> None:
        self.press(place, "Label")
        self.card(place).get_by_role("textbox", name="Label").fill(text)
        self.page.keyboard.press("Enter")

    def drag(self, source: int, target: int) -> None:
        """Drag a card onto the left half of another one."""
        start, end = (self.card(place).get_by_role("img").bounding_box() for place in (source, target))
        self.page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(end["x"] + 15, end["y"] + 20, steps=5)
        self.page.mouse.up()

    @property
    def edits(self) -> dict:
        return json.loads(self.front_end.widget(self.bank, "edits") or "{}")

    def captions(self) -> list[str]:
        return self.cards.locator(".storymem-strip-origin").all_inner_texts()

    def marks(self) -> list[list[str]]:
        """The marks of each card."""
        return [card.locator(".storymem-strip-mark").all_inner_texts() for card in self.cards.all()]


@pytest.fixture
def memory(front_end: FrontEnd) -> Memory:
    return Memory(front_end)


def recalled(keyframes: list[dict]) -> list[int]:
    return [keyframe["frame"] for keyframe in keyframes if keyframe["recalled"]]


def frames(*numbers: int) -> list[str]:
    return [f"shot 1 · frame {number}" for number in numbers]


def test_a_run_shows_the_memory(memory: Memory):
    expect(memory.strip).to_contain_text("Run to see the memory.")
    keyframes = memory.run()
    assert recalled(keyframes) == [0, 1, 6, 7]
    expect(memory.strip).to_contain_text("8 keyframes, the next shot recalls 4")
    assert memory.captions() == frames(*range(COUNT))
    both, none, one = ["recalled", "sink"], [], ["recalled"]
    assert memory.marks() == [both, both, none, none, none, none, one, one]
    sizes = "(images) => images.map((image) => [image.complete, image.naturalWidth, image.naturalHeight])"
    memory.page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    assert memory.card(0).get_by_role("img").evaluate_all(sizes) == [[True, 288, 160]]
    assert "/view?" in memory.card(0).get_by_role("img").get_attribute("src")
    expect(memory.strip.get_by_role("button", name="Reset edits")).to_be_hidden()


def test_other_nodes_show_their_memory_to_read(memory: Memory):
    front_end = memory.front_end
    saved = front_end.add("StoryMemSaveBank", (1500, 400), filename_prefix="strip/bank")
    front_end.connect(memory.bank, "bank", saved, "bank")
    memory.run()
    loaded = front_end.add("StoryMemLoadBank", (2000, 0), bank_file="strip/bank_00001.safetensors")
    preview = front_end.add("PreviewImage", (2600, 0))
    front_end.connect(loaded, "keyframes", preview, "images")
    memory.run()
    for node, text in (
        (memory.extractors[0], "8 keyframes added, 8 in memory"),
        (loaded, "8 keyframes, the next shot recalls 4"),
    ):
        front_end.show(node)
        strip = memory.strip_of(node)
        expect(strip).to_contain_text(text)
        expect(strip.get_by_role("listitem")).to_have_count(COUNT)
        expect(strip.get_by_role("listitem").get_by_role("button")).to_have_count(0)


def test_edits_show_at_once_and_recall_follows_them(memory: Memory):
    ids = [keyframe["id"] for keyframe in memory.run()]
    memory.press(2, "Pin")
    memory.press(0, "Exclude")
    memory.label(1, "Mara")
    memory.drag(7, 3)
    assert memory.edits == {
        "keyframes": {ids[2]: {"pinned": True}, ids[0]: {"excluded": True}, ids[1]: {"label": "Mara"}},
        "order": [ids[i] for i in (0, 1, 2, 7, 3, 4, 5, 6)],
    }
    assert memory.captions() == frames(0, 1, 2, 7, 3, 4, 5, 6)
    assert memory.marks()[:3] == [["recalled", "sink", "excluded"], ["recalled", "sink"], ["pinned"]]
    expect(memory.card(1)).to_contain_text("Mara")
    expect(memory.strip).to_contain_text("Changed: run to update what is recalled.")
    keyframes = memory.run()
    assert recalled(keyframes) == [1, 2, 5, 6]
    expect(memory.strip).not_to_contain_text("Changed")
    assert memory.captions() == frames(0, 1, 2, 7, 3, 4, 5, 6)
    assert memory.marks()[:4] == [["excluded"], ["recalled", "sink"], ["recalled", "sink", "pinned"], []]
    memory.strip.get_by_role("button", name="Reset edits").click()
    assert memory.edits == {}
    assert memory.captions() == frames(*range(COUNT))
    assert recalled(memory.run()) == [0, 1, 6, 7]


def test_what_is_changed_back_is_no_edit(memory: Memory):
    memory.run()
    memory.press(2, "Pin")
    memory.press(2, "Exclude")
    memory.drag(0, 2)
    memory.label(1, "Mara")
    memory.press(2, "Unpin")
    memory.press(2, "Include")
    memory.drag(1, 0)
    memory.label(0, "")
    assert memory.front_end.widget(memory.bank, "edits") == ""
    expect(memory.strip).not_to_contain_text("Changed")


def test_edits_are_saved_with_the_workflow(memory: Memory, server):
    keyframes = memory.run()
    memory.press(0, "Exclude")
    memory.press(3, "Pin")
    memory.drag(7, 1)
    edits = memory.edits
    assert memory.front_end.api_prompt()[str(memory.bank)]["inputs"]["edits"] == json.dumps(
        edits, separators=(",", ":")
    )
    page = memory.page
    page.keyboard.press("Control+s")
    page.get_by_role("dialog").get_by_role("textbox").fill("strip")
    page.keyboard.press("Enter")
    path = server.base / "user" / "default" / "workflows" / "strip.json"
    page.wait_for_function("() => !app.extensionManager.workflow.activeWorkflow.isModified")
    memory.front_end.open()
    assert memory.edits == edits
    memory.front_end.show(memory.bank)
    expect(memory.strip).to_contain_text("Run to see the memory.")
    expect(memory.strip).to_contain_text("3 edits kept.")
    memory.front_end.clear()
    memory.front_end.load(json.loads(path.read_text()))
    assert memory.edits == edits
    after = memory.run()
    assert recalled(after) == [7, 1, 3, 6]
    assert {keyframe["id"] for keyframe in after} == {keyframe["id"] for keyframe in keyframes}
    assert memory.captions() == frames(0, 7, 1, 2, 3, 4, 5, 6)


def test_undo_and_redo(memory: Memory):
    memory.run()
    states = [memory.edits]
    for edit in (
        lambda: memory.press(1, "Pin"),
        lambda: memory.press(0, "Exclude"),
        lambda: memory.drag(2, 0),
        lambda: memory.label(0, "Mara"),
    ):
        edit()
        states.append(memory.edits)
    assert len({json.dumps(state) for state in states}) == 5
    for state in reversed(states[:-1]):
        memory.front_end.undo()
        expect(memory.cards).to_have_count(COUNT)
        assert memory.edits == state
    assert memory.captions() == frames(*range(COUNT))
    memory.page.keyboard.press("Control+y")
    memory.page.wait_for_timeout(300)  # the graph is made anew
    assert memory.edits == states[1]
    assert memory.marks()[1] == ["recalled", "sink", "pinned"]


def test_the_keyboard_reaches_everything(memory: Memory):
    keyframes = memory.run()
    ids = [keyframe["id"] for keyframe in keyframes]
    press = memory.page.keyboard.press
    memory.card(0).focus()
    press("ArrowRight")
    expect(memory.card(1)).to_be_focused()
    press("p")
    press("x")
    press("l")
    memory.page.keyboard.type("Mara")
    press("Escape")
    assert memory.edits == {"keyframes": {ids[1]: {"pinned": True, "excluded": True}}}
    expect(memory.card(1)).to_be_focused()
    press("l")
    memory.page.keyboard.type("Bo")
    press("Enter")
    press("Alt+ArrowRight")
    expect(memory.card(2)).to_be_focused()
    assert memory.captions()[:3] == frames(0, 2, 1)
    press("Alt+ArrowLeft")
    assert memory.edits == {"keyframes": {ids[1]: {"pinned": True, "excluded": True, "label": "Bo"}}}
    press("Tab")
    expect(memory.card(1).get_by_role("button").nth(0)).to_be_focused()
    press("Enter")
    assert memory.edits == {"keyframes": {ids[1]: {"excluded": True, "label": "Bo"}}}
    press("ArrowDown")
    assert memory.captions() == frames(*range(COUNT)), "keys on a button move nothing"


def test_a_drag_can_be_stopped(memory: Memory):
    memory.run()
    start, end = (memory.card(place).get_by_role("img").bounding_box() for place in (0, 2))
    memory.page.mouse.move(start["x"] + 20, start["y"] + 30)
    memory.page.mouse.down()
    memory.page.mouse.move(end["x"] + 20, end["y"] + 30, steps=5)
    memory.page.keyboard.press("Escape")
    memory.page.mouse.up()
    assert memory.edits == {}
    assert memory.captions() == frames(*range(COUNT))


def test_labels_are_text_and_break_no_layout(memory: Memory):
    dialogs = []
    memory.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    memory.run()
    width = "(element) => [element.offsetWidth, element.offsetHeight, element.scrollWidth - element.clientWidth]"
    before = [memory.card(place).evaluate(width) for place in range(3)]
    memory.label(0, MARKUP)
    memory.label(1, "x" * 2000)
    memory.label(2, "word " * 400)
    for _ in range(2):
        labels = memory.cards.locator(".storymem-strip-label")
        expect(labels.nth(0)).to_have_text(MARKUP)
        expect(labels.nth(1)).to_have_text("x" * 2000)
        assert labels.nth(0).evaluate("(label) => label.childElementCount") == 0
        assert [memory.card(place).evaluate(width) for place in range(3)] == before
        assert memory.strip.evaluate("(strip) => strip.scrollWidth - strip.clientWidth") <= 0
        keyframes = memory.run()
    assert keyframes[0]["label"] == MARKUP and keyframes[1]["label"] == "x" * 2000
    assert dialogs == []


def test_edits_of_other_memories_wait_and_unreadable_ones_can_be_reset(memory: Memory):
    memory.run()
    edit = """([id, text]) => {
      const widget = app.graph.getNodeById(id).widgets.find((widget) => widget.name === "edits");
      widget.value = text;
      widget.callback(text);
    }"""
    absent = {"0" * 16: {"pinned": True}, "1" * 16: {"label": "Mara"}}
    memory.page.evaluate(edit, [memory.bank, json.dumps({"keyframes": absent})])
    expect(memory.strip).to_contain_text("2 edits wait for keyframes that are not in this memory.")
    memory.press(0, "Pin")
    assert len(memory.edits["keyframes"]) == 3
    for text in ("{", "null", '{"order": 3}'):
        memory.page.evaluate(edit, [memory.bank, text])
        expect(memory.strip).to_contain_text("The edits cannot be read: reset them.")
        memory.press(0, "Pin")
        assert memory.front_end.widget(memory.bank, "edits") == text
    memory.strip.get_by_role("button", name="Reset edits").click()
    expect(memory.strip).not_to_contain_text("cannot be read")
    assert memory.edits == {}


def test_another_tab_and_back(memory: Memory):
    memory.run()
    memory.press(1, "Pin")
    tabs = memory.page.locator(".workflow-tabs .p-togglebutton")
    place = tabs.count() - 1
    memory.page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    memory.page.wait_for_function("() => app.graph.nodes.length === 0")
    tabs.nth(place).click()
    memory.page.wait_for_function("() => app.graph.nodes.length > 0")
    memory.front_end.show(memory.bank)
    expect(memory.cards).to_have_count(COUNT)
    assert memory.marks()[1] == ["recalled", "sink", "pinned"]


def test_the_other_renderer(memory: Memory):
    """Nodes 2.0 shows the same strip."""
    setting = "(value) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', value)"
    memory.page.evaluate(setting, True)
    try:
        memory.run()
        expect(memory.page.locator(".lg-node")).not_to_have_count(0)
        memory.press(2, "Pin")
        assert recalled(memory.run()) == [0, 1, 2, 7]
    finally:
        memory.page.evaluate(setting, False)


def test_a_hundred_keyframes(front_end: FrontEnd):
    memory = Memory(front_end, (50, 50))
    loaded = []
    front_end.page.on(
        "request", lambda request: loaded.append(request.url) if "subfolder=storymem" in request.url else 0
    )
    memory.run()
    expect(memory.cards).to_have_count(100)
    front_end.page.wait_for_timeout(500)
    assert 0 < len(set(loaded)) < 90, "pictures out of sight are not loaded"
    front_end.page.evaluate(
        "(id) => { window.before = [...document.querySelectorAll(`#strip-${id} li`)] }", memory.bank
    )
    memory.card(99).scroll_into_view_if_needed()
    memory.press(99, "Pin")
    memory.card(99).focus()
    front_end.page.keyboard.press("Alt+ArrowLeft")
    kept = "(id) => [...document.querySelectorAll(`#strip-${id} li`)].filter((card) => before.includes(card)).length"
    assert front_end.page.evaluate(kept, memory.bank) == 100, "no card is made anew"
    assert memory.captions()[-2:] == ["shot 2 · frame 49", "shot 2 · frame 48"]
    assert recalled(memory.run()) == [0, 1, 49, 48]
