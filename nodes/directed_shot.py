"""One shot of a directed story: the sub-graph of ordinary nodes that samples and saves it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from ..storymem_core.errors import InputError
from ..storymem_core.transitions import OVERLAP
from .films import LAST_FRAMES, shot_outputs
from .host.sampling import switch_step
from .story import input_file
from .types import Bank, Plan, Shot

T2V_BOUNDARY = 0.875  # as Wan 2.2 T2V A14B was trained
SIZE = ("width", "height")
SAMPLING = ("steps", "cfg", "sampler_name", "scheduler")
MEMORY = ("memory_spacing", "memory_strength", "memory_start", "memory_end", "memory_guidance")
SELECTION = ("threshold", "max_keyframes", "quality", "quality_threshold")


@dataclass(frozen=True)
class ShotPlan:
    """What Story Director has decided about a shot.

    from_text: whether the text-to-video model makes it; crossfade: frames of the shot before that it replaces;
    references: (label, file) of what enters memory before it; settings: the Director's inputs by name.
    """

    number: int
    prompt: str
    kind: str
    length: int
    seed: int
    crossfade: int
    characters: tuple[str, ...]
    references: tuple[tuple[str, str], ...]
    from_text: bool
    settings: Mapping[str, object]

    @property
    def labels(self) -> str:
        """Who and what the shot shows: which keyframes it recalls, and the label of its own."""
        return ", ".join(self.characters)

    def determines(self) -> dict:
        """What of the plan, settings aside, determines the shot."""
        return {
            "prompt": self.prompt,
            "kind": self.kind,
            "length": self.length,
            "seed": self.seed,
            "characters": list(self.characters),
            "crossfade": self.crossfade,
            "references": [
                [label, hashlib.sha256(input_file(file, "references").read_bytes()).hexdigest()]
                for label, file in self.references
            ],
        }


class StoryMemDirectedShot(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemDirectedShot",
            display_name="Directed Shot",
            category="StoryMem/story",
            description="One shot of a story, as Story Director plans it: becomes the ordinary nodes that make it. "
            "Only Story Director can use this node.",
            search_aliases=["storymem"],
            is_dev_only=True,
            inputs=[
                Plan.Input("plan", tooltip="What Story Director has decided about the shot."),
                io.String.Input("folder", tooltip="Folder of the finished shot in the output folder."),
                io.Conditioning.Input("negative", tooltip="The encoded negative prompt."),
                Bank.Input("bank", tooltip="The memory before the shot."),
                Shot.Input("previous", optional=True, tooltip="The shot before."),
                io.Model.Input("model", tooltip="As for Story Director."),
                io.Model.Input("model_low_noise", optional=True, tooltip="As for Story Director."),
                io.Model.Input("model_t2v", optional=True, tooltip="As for Story Director."),
                io.Model.Input("model_t2v_low_noise", optional=True, tooltip="As for Story Director."),
                io.Clip.Input("clip", tooltip="As for Story Director."),
                io.Vae.Input("vae", tooltip="As for Story Director."),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="As for Story Director."),
            ],
            outputs=shot_outputs(),
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
            enable_expand=True,
        )

    @classmethod
    def execute(cls, plan, folder, bank, previous=None, model_t2v=None, **_) -> io.NodeOutput:
        if not isinstance(plan, ShotPlan):
            raise InputError("plan", plan, "only Story Director makes plans", "Use Story Director")
        links = cls.hidden.dynprompt.get_node(cls.hidden.unique_id)["inputs"]
        return _SubGraph(plan, links, bank, previous, model_t2v).output(folder)


class _SubGraph:
    """The nodes of one shot. Models are linked; memory and the shot before are given as values.

    The host keeps, for every node, a key of all nodes that it links back to: linked shots would make that grow with
    the square of the story.
    """

    def __init__(self, plan: ShotPlan, links: dict, bank, previous, model_t2v):
        self.plan, self.links, self.bank, self.model_t2v = plan, links, bank, model_t2v
        self.before = {} if previous is None else {"previous": previous}
        self.graph = GraphBuilder()

    def node(self, class_type: str, name: str, **inputs):
        return self.graph.node(class_type, f"shot{self.plan.number}_{name}", **inputs)

    def link(self, *names: str) -> dict:
        return {name: self.links[name] for name in names if name in self.links}

    def settings(self, *names: str) -> dict:
        return {name: self.plan.settings[name] for name in names}

    def output(self, folder: str) -> io.NodeOutput:
        plan = self.plan
        bank = self.remembered()
        last = {"previous_shot": self.before["previous"]} if OVERLAP[plan.kind] else {}
        transition = self.node("StoryMemShotTransition", "transition", kind=plan.kind, **last).out(0)
        positive = self.node("CLIPTextEncode", "prompt", **self.link("clip"), text=plan.prompt).out(0)
        texts = {"positive": positive, **self.link("negative")}
        latent = self.sample_from_text(texts) if plan.from_text else self.sample(texts, bank, transition)
        saved = self.node(
            "StoryMemSaveShot",
            "files",
            latent=latent,
            bank=bank,
            transition=transition,
            folder=folder,
            number=plan.number,
            crossfade=plan.crossfade,
            keep_last=max(LAST_FRAMES, plan.settings["crossfade"] + 1),
            label=plan.labels,
            **self.before,
            **self.link("vae", "clip_vision"),
            **self.settings(*SELECTION, "fps", "match_color"),
        )
        return io.NodeOutput(saved.out(0), saved.out(1), expand=self.graph.finalize())

    def remembered(self):
        """The bank, or a link to it with the reference images that enter it before this shot."""
        bank = self.bank
        settings = {"capacity": bank.capacity, "sink": bank.sink, "policy": bank.policy}
        for i, (label, file) in enumerate(self.plan.references, 1):
            image = self.node("LoadImage", f"reference{i}_image", image=file).out(0)
            with_image = {"reference_images": image, "reference_labels": label}
            bank = self.node("StoryMemMemoryBank", f"reference{i}", bank=bank, **with_image, **settings).out(0)
        return bank

    def sample(self, texts: dict, bank, transition: list) -> list:
        """Link to the latent, sampled with memory."""
        return self.node(
            "StoryMemSampler",
            "sampler",
            **self.link("model", "model_low_noise", "vae"),
            **texts,
            bank=bank,
            transition=transition,
            length=self.plan.length,
            seed=self.plan.seed,
            labels=self.plan.labels,
            **self.settings(*SIZE, *SAMPLING, *MEMORY, "shift", "boundary"),
        ).out(0)

    def sample_from_text(self, texts: dict) -> list:
        """Link to the latent, sampled by the text-to-video model through the host's own samplers."""
        settings = self.plan.settings
        steps, shift = settings["steps"], settings["shift"]
        size = {**self.settings(*SIZE), "length": self.plan.length}
        latent = self.node("EmptyHunyuanLatentVideo", "empty", **size, batch_size=1).out(0)
        schedule = (steps, settings["sampler_name"], settings["scheduler"])
        switch = switch_step(self.model_t2v, shift, *schedule, T2V_BOUNDARY)
        experts = [("model_t2v", 0, switch), ("model_t2v_low_noise", switch, steps)]
        experts = [expert for expert in experts if expert[0] in self.links and expert[1] < expert[2]]
        for i, (model, first, end) in enumerate(experts):
            alone = len(experts) == 1
            shifted = self.node("ModelSamplingSD3", model, model=self.links[model], shift=shift)
            latent = self.node(
                "KSamplerAdvanced",
                "sampler" if i == 0 else "sampler_low_noise",
                model=shifted.out(0),
                add_noise="disable" if i else "enable",
                noise_seed=self.plan.seed,
                latent_image=latent,
                start_at_step=0 if alone else first,
                end_at_step=steps if alone else end,
                return_with_leftover_noise="enable" if i < len(experts) - 1 else "disable",
                **texts,
                **self.settings(*SAMPLING),
            ).out(0)
        return latent
