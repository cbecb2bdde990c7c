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
from .films import LAST_FRAMES, output_root
from .host.sampling import switch_step
from .keyframes import selection_inputs
from .sampling import memory_inputs, model_inputs, sampling_inputs, size_inputs
from .story import input_file
from .types import Bank, Story

T2V_BOUNDARY = 0.875  # as Wan 2.2 T2V A14B was trained
SIZE = ("width", "height")
SAMPLING = ("steps", "cfg", "sampler_name", "scheduler")
MEMORY = ("memory_spacing", "memory_strength", "memory_start", "memory_end")
SELECTION = ("threshold", "max_keyframes", "quality", "quality_threshold")
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
    """The sub-graphs of one story, shot after shot."""

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
        sockets = ("model", "model_low_noise", "model_t2v", "model_t2v_low_noise", "clip", "vae", "clip_vision")
        start = self.start
        return {
            "models": {name: graph_hash(prompt, link, known) for name, link in self.link(*sockets).items()},
            "bank": [
                [[k.id, k.label, k.pinned, k.excluded, k.shot] for k in start.keyframes],
                [start.capacity, start.sink, start.policy, start.shots, start.limit],
            ],
            "values": self.values(
                (
                    *SIZE,
                    *SAMPLING,
                    *MEMORY,
                    *SELECTION,
                    "shift",
                    "boundary",
                    "fps",
                    "negative_prompt",
                    "match_color",
                    "crossfade",
                )
            ),
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
            length, kind = self.length(shot), self.kind(shot)
            seed = (self.inputs["seed"] + shot.number if shot.seed is None else shot.seed) % 2**64
            references = self.references.get(shot.number, [])
            determines = {
                "prompt": shot.prompt,
                "kind": kind,
                "length": length,
                "seed": seed,
                "characters": list(shot.characters),
                "crossfade": self.crossfade(kind, previous is None),
                "references": [
                    [label, hashlib.sha256(input_file(file, "references").read_bytes()).hexdigest()]
                    for label, file in references
                ],
            }
            self.key = shot_key(self.key, determines)
            folder = shot_folder(self.root, shot.number, self.key)
            name = folder.relative_to(output_root().resolve()).as_posix()
            before = {"previous": previous.out(0)} if previous else {}
            if self.finished(folder):
                files = {"folder": name, "continued": False, **before}
                previous = graph.node("StoryMemLoadShot", f"shot{shot.number}_files", **files)
            else:
                if previous and previous.class_type == "StoryMemLoadShot":
                    # Only here: the host would keep the memories of all finished shots, each with all before it.
                    previous.set_input("continued", True)
                sampled.append(shot.number)
                for i, (label, file) in enumerate(references, 1):
                    bank = self.remember(f"shot{shot.number}_reference{i}", label, file, bank)
                last = {"previous_shot": previous.out(0)} if previous else {}
                latent, transition = self.sample(shot, kind, length, seed, bank, negative, last)
                previous = graph.node(
                    "StoryMemSaveShot",
                    f"shot{shot.number}_files",
                    latent=latent,
                    bank=bank,
                    transition=transition,
                    folder=name,
                    number=shot.number,
                    crossfade=determines["crossfade"],
                    keep_last=max(LAST_FRAMES, self.inputs["crossfade"] + 1),
                    label=", ".join(shot.characters),
                    **before,
                    **self.link("vae", "clip_vision"),
                    **self.values((*SELECTION, "fps", "match_color")),
                )
            bank = previous.out(1)
        logging.info("story %r: %d shots, to sample: %s", self.story.name, len(shots), sampled or "none")
        film = self.root / f"film-{self.key}.mp4"
        name = film.relative_to(output_root().resolve()).as_posix()
        film = graph.node("StoryMemFilm", "film", shot=previous.out(0), film=name)
        shown = {"script": self.script, "prompts": [shot.prompt for shot in shots]}  # for the storyboard
        return io.NodeOutput(film.out(0), film.out(1), ui={"storymem_story": [shown]}, expand=graph.finalize())

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

    def remember(self, name: str, label: str, file: str, bank: list) -> list:
        """Link to the bank with one reference image more."""
        image = self.graph.node("LoadImage", f"{name}_image", image=file)
        return self.graph.node(
            "StoryMemMemoryBank",
            name,
            bank=bank,
            reference_images=image.out(0),
            reference_labels=label,
            **self.bank_settings(),
        ).out(0)

    def sample(self, shot, kind: str, length: int, seed: int, bank: list, negative, last: dict) -> tuple[list, list]:
        """Links to the sampled latent and the transition of a shot."""
        node, part = self.graph.node, f"shot{shot.number}"
        positive = node("CLIPTextEncode", f"{part}_prompt", **self.link("clip"), text=shot.prompt)
        last = last if OVERLAP[kind] else {}
        transition = node("StoryMemShotTransition", f"{part}_transition", kind=kind, **last).out(0)
        texts = {"positive": positive.out(0), "negative": negative.out(0)}
        empty_memory = not self.start.keyframes and not self.references.get(1)
        if shot.number == 1 and "model_t2v" in self.links and empty_memory:
            return self.sample_from_text(part, texts, length, seed), transition
        sampler = node(
            "StoryMemSampler",
            f"{part}_sampler",
            **self.link("model", "model_low_noise", "vae"),
            **texts,
            bank=bank,
            transition=transition,
            length=length,
            seed=seed,
            **self.values((*SIZE, *SAMPLING, *MEMORY, "shift", "boundary")),
        )
        return sampler.out(0), transition

    def sample_from_text(self, part: str, texts: dict, length: int, seed: int) -> list:
        """The first shot by the text-to-video model, through the host's own samplers."""
        node, values = self.graph.node, self.inputs
        empty = node("EmptyHunyuanLatentVideo", f"{part}_empty", **self.values(SIZE), length=length, batch_size=1)
        latent = empty.out(0)
        switch = switch_step(
            values["model_t2v"], values["shift"], *self.values(SAMPLING[:1] + SAMPLING[2:]).values(), T2V_BOUNDARY
        )
        experts = [("model_t2v", 0, switch), ("model_t2v_low_noise", switch, values["steps"])]
        experts = [expert for expert in experts if expert[0] in self.links and expert[1] < expert[2]]
        for i, (model, first, end) in enumerate(experts):
            alone = len(experts) == 1
            shifted = node("ModelSamplingSD3", f"{part}_{model}", model=self.links[model], shift=values["shift"])
            latent = node(
                "KSamplerAdvanced",
                f"{part}_{'sampler' if i == 0 else 'sampler_low_noise'}",
                model=shifted.out(0),
                add_noise="disable" if i else "enable",
                noise_seed=seed,
                latent_image=latent,
                start_at_step=0 if alone else first,
                end_at_step=values["steps"] if alone else end,
                return_with_leftover_noise="enable" if i < len(experts) - 1 else "disable",
                **texts,
                **self.values(SAMPLING),
            ).out(0)
        return latent
