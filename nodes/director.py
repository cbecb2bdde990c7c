"""A whole story from one node: one sub-graph of ordinary nodes per shot, finished shots taken from disk."""

import hashlib
import json
import logging
import time
from pathlib import Path

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder, is_link

from ..storymem_core.bank import MemoryBank
from ..storymem_core.conditioning import check_shot_size
from ..storymem_core.errors import InputError
from ..storymem_core.shot_files import (
    ShotFileError,
    folder_name,
    load_shot,
    remove_leftovers,
    shot_folder,
    shot_key,
)
from ..storymem_core.storage import resolve_inside
from ..storymem_core.transitions import OVERLAP
from .directed_shot import MEMORY, SAMPLING, SELECTION, SIZE, ShotPlan
from .films import name_of, output_root
from .keyframes import selection_inputs
from .sampling import guidance_input, memory_inputs, model_inputs, sampling_inputs, size_inputs
from .types import Bank, Story

# Inputs that determine every shot alike: sockets by what is connected to them, widgets by their values.
SOCKETS = ("model", "model_low_noise", "model_t2v", "model_t2v_low_noise", "clip", "vae", "clip_vision")
SETTINGS = (*SIZE, *SAMPLING, *MEMORY, *SELECTION, "shift", "boundary", "fps", "match_color", "crossfade")
CONTINUATIONS = [kind for kind, overlap in OVERLAP.items() if overlap]
STARTED = time.time()


class StoryMemDirector(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemDirector",
            display_name="Story Director",
            category="StoryMem/story",
            description="Makes the whole story. Every finished shot is written to disk at once; run again after a "
            "cancel, a crash or a change, and only what is missing or changed is sampled.",
            search_aliases=["storymem", "memory", "consistency", "multi-shot", "story"],
            inputs=[
                Story.Input("story", tooltip="From Story Script."),
                *model_inputs(),
                io.Model.Input(
                    "model_t2v",
                    optional=True,
                    tooltip="Text-to-video model (its high-noise expert) for the first shot. Without it, or when the "
                    "memory holds reference images already, `model` makes the first shot too.",
                ),
                io.Model.Input(
                    "model_t2v_low_noise", optional=True, tooltip="Low-noise expert of the text-to-video model."
                ),
                io.Clip.Input("clip", tooltip="The UMT5-XXL text encoder."),
                io.Vae.Input("vae", tooltip="The Wan 2.1 VAE."),
                Bank.Input("bank", optional=True, tooltip="A memory to begin with, say with reference images."),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="Compares frames by meaning when keyframes are chosen."
                ),
                io.String.Input(
                    "negative_prompt",
                    multiline=True,
                    default="blurry, distorted, static, subtitles, watermark",
                    tooltip="What no shot must show. Not used at cfg 1.",
                ),
                *size_inputs(),
                io.Float.Input("fps", default=16.0, min=1.0, max=240.0, tooltip="Frames per second of the film."),
                *sampling_inputs(),
                io.Combo.Input(
                    "continuation",
                    options=CONTINUATIONS,
                    default="first_frame",
                    tooltip="How a shot that is no cut continues the one before, unless the script says it. The LoRA "
                    "must be the one trained for it.",
                ),
                io.Int.Input("crossfade", default=0, min=0, max=256, tooltip="Frames to blend at every cut."),
                io.Boolean.Input(
                    "blend_overlap",
                    default=False,
                    tooltip="Blend the frames a continued shot repeats, from the old version to the new one.",
                ),
                io.Boolean.Input(
                    "match_color",
                    default=False,
                    tooltip="Match brightness and colour of continued shots to the frames they repeat.",
                ),
                *memory_inputs(),
                *selection_inputs(),
                io.String.Input(
                    "folder",
                    default="storymem",
                    tooltip="Folder in ComfyUI's output folder; the story gets a folder of its name inside.",
                ),
                guidance_input(),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The film, for Save Video."),
                Bank.Output(display_name="bank", tooltip="The memory after the story."),
            ],
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
            enable_expand=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return time.time_ns()  # finished shots may have been deleted or damaged since

    @classmethod
    def execute(cls, story, **inputs) -> io.NodeOutput:
        inputs = {"memory_guidance": 1.0, **inputs}
        prompt = cls.hidden.dynprompt
        links = prompt.get_node(cls.hidden.unique_id)["inputs"]
        root = resolve_inside(output_root(), f"{inputs['folder']}/{folder_name(story.name)}", "folder")
        remove_leftovers(root, before=STARTED)
        return _Production(story, inputs, links, prompt, root).film()


def graph_hash(prompt, link: list, known: dict) -> str:
    """Hash of the nodes that make a value, up the prompt: the files that loaders name, and all settings."""
    number, slot = link
    if number not in known:
        node = prompt.get_node(number)
        inputs = {
            name: graph_hash(prompt, value, known) if is_link(value) else value
            for name, value in node["inputs"].items()
        }
        text = json.dumps([node["class_type"], inputs], sort_keys=True, default=repr)
        known[number] = hashlib.sha256(text.encode()).hexdigest()
    return f"{known[number]}.{slot}"


def script_above(prompt, link: list) -> str | None:
    """The Story Script that a story comes from, through whatever lies between."""
    node = prompt.get_node(link[0])
    if node["class_type"] == "StoryMemScript":
        return link[0]
    above = (script_above(prompt, value) for value in node["inputs"].values() if is_link(value))
    return next(filter(None, above), None)


class _Production:
    """The plan of one story, shot after shot."""

    def __init__(self, story, inputs: dict, links: dict, prompt, root: Path):
        self.story, self.inputs, self.links, self.root = story, inputs, links, root
        self.script = script_above(prompt, links["story"])
        self.graph = GraphBuilder()
        self.start = inputs.get("bank") or MemoryBank()
        self.key = shot_key("", self.settings(prompt))
        self.references = self.references_by_first_use()

    def link(self, *names: str) -> dict:
        """Links of the Director's own inputs that are connected, to be connected to inner nodes alike."""
        return {name: self.links[name] for name in names if name in self.links}

    def values(self, names: tuple[str, ...]) -> dict:
        return {name: self.inputs[name] for name in names}

    def settings(self, prompt) -> dict:
        """What determines every shot alike."""
        known: dict[str, str] = {}
        start = self.start
        return {
            "models": {name: graph_hash(prompt, link, known) for name, link in self.link(*SOCKETS).items()},
            "bank": [
                [[k.id, k.label, k.pinned, k.excluded, k.shot] for k in start.keyframes],
                [start.capacity, start.sink, start.policy, start.shots, start.limit],
            ],
            "values": self.values((*SETTINGS, "negative_prompt")),
        }

    def references_by_first_use(self) -> dict[int, list[tuple[str, str]]]:
        """Shot number -> (label, file) of the references that enter memory there: a character's at its first shot,
        any other's at the first shot of the story."""
        first = {}
        for shot in reversed(self.story.shots):
            first |= dict.fromkeys(shot.characters, shot.number)
        uses: dict[int, list[tuple[str, str]]] = {}
        for label, file in self.story.references:
            uses.setdefault(first.get(label, 1), []).append((label, file))
        return uses

    def film(self) -> io.NodeOutput:
        graph, shots = self.graph, self.story.shots
        if not shots:
            raise InputError("story", self.story.name, "has no shots", "Write at least one prompt")
        self.check_shots()
        negative = graph.node("CLIPTextEncode", "negative", **self.link("clip"), text=self.inputs["negative_prompt"])
        bank = self.links.get("bank") or graph.node("StoryMemMemoryBank", "bank", **self.bank_settings()).out(0)
        previous, sampled = None, []
        for shot in shots:
            plan = self.plan(shot)
            self.key = shot_key(self.key, plan.determines())
            folder = shot_folder(self.root, shot.number, self.key)
            files = {"folder": name_of(folder)} | ({"previous": previous.out(0)} if previous else {})
            if self.finished(folder):
                previous = graph.node("StoryMemLoadShot", f"shot{shot.number}_files", **files, continued=False)
            else:
                if previous and previous.class_type == "StoryMemLoadShot":
                    # Only here: the host would keep the memories of all finished shots, each with all before it.
                    previous.set_input("continued", True)
                sampled.append(shot.number)
                inner = {**self.link(*SOCKETS), "negative": negative.out(0), "bank": bank}
                previous = graph.node("StoryMemDirectedShot", f"shot{shot.number}", plan=plan, **inner, **files)
            bank = previous.out(1)
        logging.info("story %r: %d shots, to sample: %s", self.story.name, len(shots), sampled or "none")
        name = name_of(self.root / f"film-{self.key}.mp4")
        film = graph.node("StoryMemFilm", "film", shot=previous.out(0), film=name)
        shown = {"script": self.script, "prompts": [shot.prompt for shot in shots]}  # for the storyboard
        return io.NodeOutput(film.out(0), film.out(1), ui={"storymem_story": [shown]}, expand=graph.finalize())

    def plan(self, shot) -> ShotPlan:
        kind = self.kind(shot)
        empty_memory = not self.start.keyframes and not self.references.get(1)
        return ShotPlan(
            number=shot.number,
            prompt=shot.prompt,
            kind=kind,
            length=self.length(shot),
            seed=(self.inputs["seed"] + shot.number if shot.seed is None else shot.seed) % 2**64,
            crossfade=self.crossfade(kind, shot.number == 1),
            characters=tuple(shot.characters),
            references=tuple(self.references.get(shot.number, [])),
            from_text=shot.number == 1 and "model_t2v" in self.links and empty_memory,
            settings=self.values(SETTINGS),
        )

    def length(self, shot) -> int:
        return self.inputs["length"] if shot.length is None else shot.length

    def kind(self, shot) -> str:
        return shot.transition or ("cut" if shot.cut else self.inputs["continuation"])

    def check_shots(self) -> None:
        """Raises InputError, before anything is sampled, where a shot is too short for how it begins or ends."""
        shown = 0  # frames in the video of the shot before
        for shot in self.story.shots:
            length, kind = self.length(shot), self.kind(shot)
            overlap, crossfade = OVERLAP[kind], self.crossfade(kind, shot.number == 1)
            check_shot_size(self.inputs["width"], self.inputs["height"], length)
            if length <= overlap:
                problem = f"shot {shot.number} repeats {overlap} frames of the shot before ({kind})"
                raise InputError("length", length, problem, "Use a longer shot")
            if not overlap and shot.number > 1 and crossfade >= min(shown, length):
                problem = f"shot {shot.number - 1} shows {shown} frames, shot {shot.number} has {length}"
                raise InputError("crossfade", crossfade, problem, "Set less than both")
            shown = length - overlap + (crossfade if overlap else 0)

    def crossfade(self, kind: str, first: bool) -> int:
        """Frames of the shot before that this one replaces."""
        if first:
            return 0
        overlap = OVERLAP[kind]
        return (overlap if self.inputs["blend_overlap"] else 0) if overlap else self.inputs["crossfade"]

    def bank_settings(self) -> dict:
        start = self.start
        return {"capacity": start.capacity, "sink": start.sink, "policy": start.policy}

    def finished(self, folder: Path) -> bool:
        """Whether the shot is on disk, whole; says so in the log when it is damaged."""
        if not folder.exists():
            return False
        try:
            load_shot(folder, None)
        except ShotFileError as error:
            logging.warning("story %r: %s: this shot is made anew", self.story.name, error)
            return False
        return True
