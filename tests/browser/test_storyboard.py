"""The storyboard on Story Script, in a real browser: what it shows, every way to edit it, and the films it makes."""

import json
import re
import shutil
import uuid

import pytest
from playwright.sync_api import Locator, expect

from browser.front_end import FrontEnd
from host_graph import DIRECTOR, HIGH, sampler_defaults
from tools.client import NodeError

MARKUP = "<img src=x onerror=alert(1)>"
STORY = """{
  "story_name": "The Fox", // a note
  "scenes": [
    {
      "scene_num": 1,
      "video_prompts": [
        "a fox",
        "it runs", // fast
        "a house"
      ],
      "cut": [true, false, true], // false continues
      "length": [5, 9, null],
    },
    { "scene_num": 4, "video_prompts": ["dusk"], "cut": [true], "characters": [["Ann", "Bob"]] },
  ],
}
"""
PROMPTS = ["a fox", "it runs", "a house", "dusk"]


def edited(*pairs: tuple[str, str], text: str = STORY) -> str:
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


class Board:
    """A Story Script and what its node shows."""

    def __init__(self, front_end: FrontEnd, script: str = STORY):
        self.front_end, self.page = front_end, front_end.page
        self.node = front_end.add("StoryMemScript", (0, 0), script=script)
        self.page.evaluate("(id) => app.graph.getNodeById(id).setSize([520, 800])", self.node)
        front_end.show(self.node)
        self.summary = self.page.locator(".storymem-board-summary")
        self.cards = self.page.locator(".storymem-board-card")
        self.text = self.page.locator("textarea.comfy-multiline-input")

    @property
    def script(self) -> str:
        return self.front_end.widget(self.node, "script")

    def prompt(self, number: int) -> Locator:
        return self.card(number).get_by_label("Prompt")

    def card(self, number: int) -> Locator:
        return self.cards.nth(number - 1)

    def grip(self, number: int) -> Locator:
        return self.card(number).get_by_role("button", name="Move shot")

    def prompts(self) -> list[str]:
        return [field.input_value() for field in self.cards.get_by_label("Prompt").all()]

    def states(self) -> list[str]:
        return self.page.locator(".storymem-board-state").all_inner_texts()

    def press(self, name: str, nth: int = 0) -> None:
        self.page.locator(".storymem-board").get_by_role("button", name=name, exact=True).nth(nth).click()

    def leave(self) -> None:
        """Click on the empty canvas; not so soon after the last time that it counts as a double click."""
        self.page.wait_for_timeout(500)
        self.page.mouse.click(1450, 900)

    def set_text(self, text: str) -> None:
        """Replace the text, as a person who types it."""
        self.press("Text")
        self.text.first.fill(text)
        self.press("Cards")


@pytest.fixture
def board(front_end: FrontEnd) -> Board:
    board = Board(front_end)
    expect(board.summary).to_have_text("4 shots")
    return board


def test_the_cards_show_the_script(board: Board):
    assert board.prompts() == PROMPTS
    beginnings = [card.get_by_label("How the shot begins").input_value() for card in board.cards.all()]
    assert beginnings == ["cut", "continued", "cut", "cut"]
    assert [card.get_by_label("Length in frames").input_value() for card in board.cards.all()] == ["5", "9", "", ""]
    assert board.card(4).get_by_label("Characters").input_value() == "Ann, Bob"
    expect(board.page.locator(".storymem-board-scene h3")).to_have_text(["Scene 1", "Scene 4"])
    assert board.front_end.api_prompt()[str(board.node)]["inputs"] == {"script": STORY}, "the text alone is sent"


def test_the_text_shows_on_the_cards(board: Board):
    board.set_text(edited(('"a house"', '"a mill", "a mill at night"'), ("false, true]", "false, false, true]")))
    assert board.prompts() == ["a fox", "it runs", "a mill", "a mill at night", "dusk"]
    expect(board.card(4).get_by_label("How the shot begins")).to_have_value("cut")
    expect(board.summary).to_have_text("1 fault")  # length has an entry less


def test_what_a_card_says_is_written_into_the_text(board: Board):
    board.prompt(2).fill('it "runs"\nfast')
    text = edited(('"it runs"', r'"it \"runs\"\nfast"'))
    assert board.script == text
    board.card(3).get_by_label("Length in frames").fill("33")
    text = edited(("[5, 9, null]", "[5, 9, 33]"), text=text)
    board.card(1).get_by_label("Length in frames").fill("")
    text = edited(("[5, 9, 33]", "[null, 9, 33]"), text=text)
    board.card(4).get_by_label("Characters").fill("Ann, 安娜 ,")
    text = edited(('["Ann", "Bob"]', '["Ann","安娜"]'), text=text)
    assert board.script == text
    board.card(3).get_by_label("How the shot begins").select_option("motion_frames")
    new = '"length": [null, 9, 33],\n      "transition": [null, null, "motion_frames"],'
    text = edited(("[true, false, true]", "[true, false, false]"), ('"length": [null, 9, 33],', new), text=text)
    assert board.script == text
    board.card(3).get_by_label("How the shot begins").select_option("cut")
    text = edited(("[true, false, false]", "[true, false, true]"), ('"motion_frames"', "null"), text=text)
    assert board.script == text
    expect(board.summary).to_have_text("4 shots")


def test_shots_are_added_and_deleted(board: Board):
    board.press("Add shot")
    expect(board.prompt(4)).to_be_focused()
    board.page.keyboard.type("a bird")
    assert board.prompts() == ["a fox", "it runs", "a house", "a bird", "dusk"]
    board.press("Add scene")
    assert board.prompts()[-1] == ""
    board.prompt(6).fill("night")
    expect(board.summary).to_have_text("6 shots")
    board.press("Delete shot 2")
    board.press("Delete shot 4")  # the only one of its scene
    assert board.prompts() == ["a fox", "a house", "a bird", "night"]
    expect(board.summary).to_have_text("4 shots")
    expect(board.page.locator(".storymem-board-scene h3")).to_have_text(["Scene 1", "Scene 5"])
    for comment in ("// a note", "// false continues"):
        assert comment in board.script


def test_shots_are_dragged(board: Board):
    board.grip(3).drag_to(board.card(1), target_position={"x": 200, "y": 4})
    assert board.prompts() == ["a house", "a fox", "it runs", "dusk"]
    board.grip(1).drag_to(board.card(4), target_position={"x": 200, "y": 100})  # into the other scene, to its end
    assert board.prompts() == ["a fox", "it runs", "dusk", "a house"]
    house = '"video_prompts": ["dusk", "a house"], "cut": [true, true], "characters": [["Ann", "Bob"], null]'
    assert board.script == edited(
        ('        "it runs", // fast\n        "a house"\n', '        "it runs" // fast\n'),
        ("[true, false, true]", "[true, false]"),
        ("[5, 9, null]", "[5, 9]"),
        ('"video_prompts": ["dusk"], "cut": [true], "characters": [["Ann", "Bob"]]', house),
    )
    expect(board.grip(4)).to_be_focused()


def test_shots_are_moved_by_keyboard(board: Board):
    board.grip(3).focus()
    board.page.keyboard.press("ArrowUp")
    assert board.prompts() == ["a fox", "a house", "it runs", "dusk"]
    expect(board.grip(2)).to_be_focused()
    for _ in range(2):
        board.page.keyboard.press("ArrowDown")
    expect(board.page.get_by_role("region", name="Scene 4").get_by_label("Prompt")).to_have_count(2)
    assert board.prompts() == ["a fox", "it runs", "a house", "dusk"], "in the next scene now, as its first"
    for _ in range(5):
        board.page.keyboard.press("ArrowDown")
    assert board.prompts() == ["a fox", "it runs", "dusk", "a house"], "the end is the end"
    board.card(4).get_by_label("Scene").select_option("Scene 1")
    assert board.prompts() == ["a fox", "it runs", "a house", "dusk"]
    expect(board.card(3).get_by_label("Scene")).to_be_focused()


def test_all_of_a_card_is_reached_by_keyboard(board: Board):
    board.grip(1).focus()
    reached = []
    for _ in range(7):
        reached.append(board.page.evaluate("() => document.activeElement.ariaLabel"))
        board.page.keyboard.press("Tab")
    fields = ["Scene", "Delete shot 1", "Prompt", "How the shot begins", "Length in frames"]
    assert reached == ["Move shot 1", *fields, "Characters, with commas between"]


def test_every_edit_is_undone(board: Board):
    def move():
        board.grip(1).focus()
        board.page.keyboard.press("ArrowDown")

    def write():
        board.prompt(1).fill("a wolf")
        board.leave()

    edits = [
        write,
        move,
        lambda: board.card(2).get_by_label("How the shot begins").select_option("cut"),
        lambda: board.press("Delete shot 2"),
        lambda: board.press("Add scene"),
    ]
    board.leave()  # the state to come back to
    for edit in edits:
        edit()
        assert board.script != STORY
        board.leave()
        board.front_end.undo()
        expect(board.prompt(1)).to_have_value("a fox")
        assert (board.script, board.prompts()) == (STORY, PROMPTS), edit
        board.page.wait_for_function(
            "() => !app.extensionManager.workflow.activeWorkflow.changeTracker._restoringState"
        )
    board.prompt(1).press("End")
    board.page.keyboard.type("es")
    board.page.keyboard.press("Control+z")  # in a field: the field's own undo
    assert board.script.count('"a fox') == 1 and board.prompts()[1:] == PROMPTS[1:]


def test_a_saved_workflow_has_the_edits_and_the_view(board: Board):
    board.prompt(1).fill("a wolf")
    workflow = board.front_end.workflow()
    (node,) = workflow["nodes"]
    assert node["widgets_values"] == [edited(('"a fox"', '"a wolf"'))]
    board.front_end.open()  # the page is loaded again
    board.front_end.load(workflow)
    board.front_end.show(board.node)
    assert board.prompts() == ["a wolf", *PROMPTS[1:]]
    expect(board.text).to_be_hidden()
    board.press("Text")
    expect(board.text).to_have_value(node["widgets_values"][0])
    board.front_end.load(board.front_end.workflow())
    expect(board.text).to_be_visible()
    expect(board.cards.first).to_be_hidden()


def test_an_invalid_edit_shows_on_its_card_and_blocks_the_queue(board: Board):
    preview = board.front_end.add("PreviewAny", (700, 0))
    board.front_end.connect(board.node, "shots", preview, "source")
    board.card(2).get_by_label("Length in frames").fill("10")
    board.card(1).get_by_label("How the shot begins").select_option("continued")
    fault = "10 frames are not 4n+1. Write 9 or 13"
    expect(board.card(2)).to_contain_text(f"length: {fault}")
    expect(board.card(1)).to_contain_text("cut: the first shot of a story has nothing to continue")
    expect(board.card(3)).not_to_contain_text("Write")
    expect(board.summary).to_have_text("2 faults")
    with pytest.raises(KeyError):
        board.front_end.run()  # the answer names no prompt
    assert board.front_end.client._json("/queue")["queue_running"] == []
    board.page.get_by_role("button", name="View details").click()
    board.page.get_by_role("button", name="Info for Story Script - script").click()
    expect(board.page.get_by_text(f"scene 1, shot 2, length: {fault}")).to_be_visible()
    # of the refused prompt, and of the front end's attempt to look the node up in its makers' registry
    refused = [text for _, text in board.front_end.messages if re.search("/api/prompt|PromptExecution|api.comfy", text)]
    assert len(refused) >= 2
    messages = [message for message in board.front_end.messages if message[1] not in refused]
    board.front_end.messages = messages
    board.card(2).get_by_label("Length in frames").fill("13")
    board.card(1).get_by_label("How the shot begins").select_option("cut")
    expect(board.summary).to_have_text("4 shots")
    expect(board.card(2)).not_to_contain_text("Write")
    assert board.front_end.run()["outputs"][str(preview)]["text"] == ["4"]


def test_a_fault_of_no_card_stands_above_the_cards(board: Board):
    board.set_text(edited(('"The Fox"', '""'), ('"scene_num": 4', '"scene_num": 1'), ('["dusk"]', '["dusk", "night"]')))
    notice = board.page.locator(".storymem-board-notice")
    expect(notice).to_have_text("story, story_name: it is empty. Write a text")
    scene = board.page.locator(".storymem-board-scene").nth(1)
    expect(scene).to_contain_text("an earlier scene has the same scene_num")
    expect(scene).to_contain_text("cut: it has 1 entries, video_prompts has 2")
    assert board.prompts()[-1] == "night"
    board.card(5).get_by_label("How the shot begins").select_option("cut")
    expect(scene).not_to_contain_text("it has 1 entries, video_prompts has 2. Write one entry for every prompt cut")
    board.set_text("{")
    expect(notice).to_have_text(re.compile("line 1, column 2: not JSON"))
    expect(board.cards).to_have_count(0)
    board.set_text(STORY)
    expect(board.summary).to_have_text("4 shots")
    assert board.prompts() == PROMPTS


def test_any_text_is_shown_as_text(board: Board):
    long = "x" * 2000
    story = {
        "story_name": "S",
        MARKUP: 1,
        "scenes": [
            {"scene_num": 1, "video_prompts": [MARKUP, long], "cut": [True, MARKUP], "characters": [[MARKUP], [long]]},
            {"scene_num": MARKUP, "video_prompts": ["a"], "cut": [long]},
        ],
    }
    board.set_text(json.dumps(story))
    expect(board.summary).to_have_text("4 faults")
    assert board.prompts() == [MARKUP, long, "a"]
    assert board.card(1).get_by_label("Characters").input_value() == MARKUP
    expect(board.card(2)).to_contain_text(f"'{MARKUP}' is neither true nor false")
    expect(board.page.locator(".storymem-board-scene h3").nth(1)).to_have_text(f'Scene "{MARKUP}"')
    assert board.page.locator("[onerror]").count() == 0
    frame = board.page.locator(".storymem-board").bounding_box()
    for part in board.page.locator(".storymem-board *").all():
        if box := part.bounding_box():
            assert box["x"] >= frame["x"] - 1 and box["x"] + box["width"] <= frame["x"] + frame["width"] + 1
    board.prompt(1).fill(long + MARKUP)
    assert json.loads(board.script)["scenes"][0]["video_prompts"][0] == long + MARKUP


def test_a_file_is_shown_and_not_edited(board: Board, server):
    name = f"{uuid.uuid4().hex}.json"
    (server.base / "input" / name).write_text(STORY)
    board.set_text(name)
    expect(board.summary).to_have_text("4 shots, in a file: change it there")
    assert board.prompts() == PROMPTS
    expect(board.prompt(1)).not_to_be_editable()
    for control in board.card(1).locator("button, select").all():
        expect(control).to_be_disabled()
    expect(board.page.get_by_text("Add shot").first).to_be_hidden()
    assert board.script == name
    board.set_text(STORY)
    expect(board.prompt(1)).to_be_editable()


def test_a_linked_script_is_said_to_be_one(board: Board):
    source = board.front_end.add("PrimitiveStringMultiline", (-500, 0), value=STORY)
    board.front_end.connect(source, "STRING", board.node, "script")
    expect(board.summary).to_have_text("The script comes from another node")
    expect(board.cards.first).to_be_hidden()


def test_the_other_renderer_shows_it_too(board: Board):
    setting = "(value) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', value)"
    board.page.evaluate(setting, True)
    board.page.locator(f"[data-node-id='{board.node}']").wait_for()
    assert board.prompts() == PROMPTS
    board.prompt(1).fill("a wolf")
    board.press("Text")
    text = board.page.get_by_role("textbox", name="script")
    expect(text).to_have_value(edited(('"a fox"', '"a wolf"')))
    expect(board.cards.first).to_be_hidden()
    text.fill(STORY)
    board.press("Cards")
    expect(text).to_be_hidden()
    assert board.prompts() == PROMPTS
    board.page.evaluate(setting, False)


# --- while Story Director runs


class Film(Board):
    """A storyboard with a Story Director on the demo models."""

    def __init__(self, front_end: FrontEnd, lengths: list[int], steps: int = 2):
        story = {
            "story_name": uuid.uuid4().hex,
            "scenes": [
                {
                    "scene_num": 1,
                    "video_prompts": [f"shot of {length} frames" for length in lengths],
                    "cut": [True] * len(lengths),
                    "length": lengths,
                }
            ],
        }
        super().__init__(front_end, json.dumps(story, indent=1))
        self.name = story["story_name"]
        model = front_end.add("UNETLoader", (600, 0), unet_name=HIGH)
        vae = front_end.add("VAELoader", (600, 120), vae_name="storymem_demo_vae.safetensors")
        clip = front_end.add("StoryMemDemoCLIPLoader", (600, 240))
        settings = {**sampler_defaults(), **DIRECTOR, "steps": steps, "control_after_generate": "fixed"}
        self.director = front_end.add("StoryMemDirector", (1000, 0), **settings)
        save = front_end.add("SaveVideo", (1500, 0))
        for source, output, target, name in (
            (self.node, "story", self.director, "story"),
            (model, "MODEL", self.director, "model"),
            (vae, "VAE", self.director, "vae"),
            (clip, "CLIP", self.director, "clip"),
            (self.director, "video", save, "video"),
        ):
            front_end.connect(source, output, target, name)

    def watch(self) -> None:
        """Remember every state that the cards show."""
        self.page.evaluate(
            """() => {
              window.seen = [];
              const look = () => {
                const shown = document.querySelectorAll(".storymem-board-state");
                const states = [...shown].map((state) => state.textContent);
                if (JSON.stringify(states) !== JSON.stringify(seen.at(-1))) seen.push(states);
                requestAnimationFrame(look);
              };
              look();
            }"""
        )

    def seen(self) -> list[list[str]]:
        return self.page.evaluate("() => seen")

    def start(self) -> None:
        self.page.get_by_test_id("queue-button").click()

    def wait_for(self, number: int, state: str) -> None:
        expect(self.card(number).locator(".storymem-board-state")).to_have_text(re.compile(state), timeout=60_000)


def lengths_of(entry: dict) -> list[int]:
    """The frames of each shot in the film."""
    (shots,) = (output["storymem_shots"] for output in entry["outputs"].values() if "storymem_shots" in output)
    return [shot["frames"] for shot in shots]


def test_the_film_follows_the_storyboard(front_end: FrontEnd):
    film = Film(front_end, [5, 9, 13], steps=40)
    film.watch()
    assert lengths_of(film.front_end.run()) == [5, 9, 13]
    film.wait_for(3, "done")
    seen = film.seen()
    assert ["waiting"] * 2 in [states[1:] for states in seen] and film.states() == ["done"] * 3
    for number in range(3):
        percents = [int(found[1]) for states in seen if (found := re.match(r"sampling (\d+) %", states[number]))]
        assert percents == sorted(percents) and len(set(percents)) > 1, "it counts up"
        assert {states[i] for states in seen for i in range(number) if states[number].startswith("sampling")} <= {
            "done"
        }
    pictures = film.cards.get_by_role("img")
    expect(pictures).to_have_count(3)
    assert film.page.evaluate(
        "() => [...document.querySelectorAll('.storymem-board-thumbnail')].every((image) => image.naturalWidth === 48)"
    )
    first, second, third = (picture.get_attribute("src") for picture in pictures.all())

    film.grip(3).drag_to(film.card(2), target_position={"x": 200, "y": 4})
    assert film.prompts() == [f"shot of {length} frames" for length in (5, 13, 9)]
    assert [picture.get_attribute("src") for picture in pictures.all()] == [first, third, second], (
        "they go with the card"
    )
    assert lengths_of(film.front_end.run()) == [5, 13, 9]
    film.wait_for(3, "done")
    assert film.states() == ["reused", "done", "done"]

    film.prompt(2).fill("another shot")
    assert film.states() == ["reused", "", "done"], "what was rewritten is not made yet"
    expect(pictures).to_have_count(2)


def test_a_cancelled_run_leaves_true_states(front_end: FrontEnd):
    film = Film(front_end, [5, 9, 13], steps=60)
    film.start()
    film.wait_for(2, "sampling")
    front_end.client.interrupt()
    film.wait_for(2, "stopped")
    assert film.states() == ["done", "stopped", ""]


def test_a_failed_shot_says_why(front_end: FrontEnd, server):
    film = Film(front_end, [5, 9, 13], steps=60)
    film.start()
    film.wait_for(2, "sampling")
    shutil.rmtree(server.base / "output" / DIRECTOR["folder"] / film.name)  # joining needs the shot before
    film.wait_for(2, "failed")
    assert film.states() == ["done", "failed", ""]
    assert "last_frames" in film.card(2).locator(".storymem-board-state").get_attribute("title")
    history = front_end.client._json("/history?max_items=1")
    with pytest.raises(NodeError):
        front_end.client.wait(*history)
