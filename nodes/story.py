"""The story script and its shots."""

import hashlib
import os
import re
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..storymem_core.errors import InputError
from ..storymem_core.script import Fault, Story, StoryError, parse_story
from ..storymem_core.storage import resolve_inside
from .host.routes import answer_post
from .types import Story as StoryType

NEW_STORY = """{
  "story_name": "untitled",
  "scenes": [
    {
      "scene_num": 1,
      "video_prompts": [
        "Wide shot of ...",
        "The camera moves closer to ...",
      ],
      "cut": [true, false], // false continues the shot before
    },
  ],
}
"""


def input_file(name: str, input_name: str) -> Path:
    """The real path of a file in the input folder; InputError where there is none."""
    path = resolve_inside(Path(folder_paths.get_input_directory()), name, input_name)
    if not os.path.isfile(path):
        raise InputError(input_name, name, "there is no such file", "Put it into ComfyUI's input folder")
    return path


def script_file(script: str) -> Path | None:
    """The .json file that `script` names; None where it is the script itself."""
    name = script.strip()
    if "\n" in name or not name.lower().endswith(".json"):
        return None
    return input_file(name, "script")


def read_script(script: str) -> str:
    path = script_file(script)
    if path is None:
        return script
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError("script", script, "not a text in UTF-8", "Save it with UTF-8 encoding") from error


def missing_references(story: Story) -> list[Fault]:
    """A fault for each reference whose image is not there, or is a link to somewhere else."""
    faults = []
    for label, name in story.references:
        try:
            input_file(name, label)
        except InputError as error:
            faults.append(Fault("story, references", *str(error).split(". ", 1)))
    return faults


def read_story(script: str) -> Story:
    """The story of a script or of the file it names. Raises StoryError or InputError."""
    story = parse_story(read_script(script))
    if missing := missing_references(story):
        raise StoryError(missing)
    return story


FAULT_PLACE = re.compile(r"scene (\d+)(?: \(scene_num \d+\))?(?:, shot (\d+))?(?:, (\w+))?")


def check_script(body: dict) -> dict:
    """The storyboard's question {script} answered: {shots, faults, file}.

    faults: a list of {scene, shot, field, text}; scene and shot count from 1 as they stand in the script, null where
    a fault concerns none. file: the text of the file that the script names, null where it is the script itself.
    """
    if not isinstance(body, dict) or not isinstance(script := body.get("script"), str):
        raise ValueError("send an object with the text of a script: {script}")
    shots, faults, file = 0, [], None
    try:
        file = None if script_file(script) is None else read_script(script)
        shots = len(read_story(script).shots)
    except StoryError as error:
        faults = [_placed(fault) for fault in error.faults]
    except InputError as error:
        faults = [{"scene": None, "shot": None, "field": None, "text": str(error)}]
    return {"shots": shots, "faults": faults, "file": file}


def _placed(fault: Fault) -> dict:
    place = FAULT_PLACE.fullmatch(fault.where)
    if not place:
        return {"scene": None, "shot": None, "field": None, "text": str(fault)}
    scene, shot, field = place.groups()
    text = f"{fault.problem}. {fault.remedy}"
    return {"scene": int(scene), "shot": shot and int(shot), "field": field, "text": text}


answer_post("/storymem/check", check_script)


class StoryMemScript(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemScript",
            display_name="Story Script",
            category="StoryMem/story",
            description="Reads a story: scenes, a prompt for every shot, where to cut. All faults of a script are "
            "named at once.",
            search_aliases=["storymem", "story", "screenplay", "multi-shot", "json", "prompts"],
            inputs=[
                io.String.Input(
                    "script",
                    multiline=True,
                    default=NEW_STORY,
                    tooltip="The story as JSON (comments and trailing commas are fine), or the name of a .json file "
                    "in ComfyUI's input folder. Each scene has video_prompts and, for each of them, cut: true or "
                    "false. Optional lists beside them: transition, length, seed, characters.",
                ),
            ],
            outputs=[
                StoryType.Output(display_name="story", tooltip="For Story Shot and Story Director."),
                io.Int.Output(display_name="shots", tooltip="How many shots the story has."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, script) -> str:
        # None: linked from another node, whose changes the host sees by itself
        path = script_file(script or "")
        return "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()

    @classmethod
    def validate_inputs(cls, script) -> bool | str:
        if script is None:  # linked: its text is not known yet
            return True
        try:
            read_story(script)
        except (StoryError, InputError) as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, script) -> io.NodeOutput:
        story = read_story(script)
        return io.NodeOutput(story, len(story.shots))


class StoryMemShot(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemShot",
            display_name="Story Shot",
            category="StoryMem/story",
            description="One shot of a story: its prompt and how it begins.",
            search_aliases=["storymem", "story", "prompt", "multi-shot", "scene"],
            inputs=[
                StoryType.Input("story", tooltip="From Story Script."),
                io.Int.Input(
                    "index", default=1, min=1, max=10000, tooltip="Which shot, counted from 1 over the whole story."
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="For the text encoder."),
                io.Boolean.Output(display_name="cut", tooltip="True begins with a cut, false continues."),
                io.Int.Output(display_name="scene", tooltip="Number of its scene."),
                io.Int.Output(display_name="shot", tooltip="Its place in the scene, from 1."),
                io.String.Output(
                    display_name="labels", tooltip="Who and what it shows, for the sampler and the Keyframe Extractor."
                ),
            ],
        )

    @classmethod
    def execute(cls, story, index) -> io.NodeOutput:
        count = len(story.shots)
        if not 1 <= index <= count:
            raise InputError("index", index, f"the story has {count} shots", f"Choose 1 to {count}")
        shot = story.shots[index - 1]
        return io.NodeOutput(shot.prompt, shot.cut, shot.scene, shot.index, ", ".join(shot.characters))
