"""Builds API-format prompts on the demo models, runs them, and reads back what probes wrote."""

import json
import uuid

from safetensors.torch import load

from tools.client import Client
from tools.setup import FOOTAGE_NAME

WIDTH, HEIGHT, LENGTH = 48, 32, 9  # small: the VAE is the slow part
FRAMES = 3  # latent frames of LENGTH
HIGH, LOW, T2V = (f"storymem_demo_{name}.safetensors" for name in ("high_noise", "low_noise", "t2v"))
SIZE = {"width": WIDTH, "height": HEIGHT, "length": LENGTH}
UNI_PC = {"steps": 4, "cfg": 3.5, "sampler_name": "uni_pc", "scheduler": "simple"}
ONE_STEP = {"steps": 1, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"}
FOOTAGE_FPS = 25
EXTRACTOR = {
    "threshold": 0.9,
    "max_keyframes": 3,
    "quality": "none",
    "quality_threshold": 15.0,
    "label": "",
}

DIRECTOR = {
    **{name: EXTRACTOR[name] for name in ("threshold", "max_keyframes", "quality", "quality_threshold")},
    "negative_prompt": "blurry",
    "fps": 16.0,
    "steps": 2,
    "sampler_name": "euler",
    "continuation": "first_frame",
    "crossfade": 0,
    "blend_overlap": False,
    "match_color": False,
    "folder": "stories",
}


class Graph(dict):
    """A prompt; each method adds a node and returns a link to its first output."""

    def __init__(self, client: Client):
        super().__init__()
        self.client = client
        self.files = []

    def node(self, class_type: str, slot: int = 0, **inputs) -> list:
        number = str(len(self) + 1)
        self[number] = {"class_type": class_type, "inputs": inputs}
        return [number, slot]

    def model(self, name: str = HIGH) -> list:
        return self.node("UNETLoader", unet_name=name, weight_dtype="default")

    def vae(self) -> list:
        return self.node("VAELoader", vae_name="storymem_demo_vae.safetensors")

    def clip(self) -> list:
        return self.node("StoryMemDemoCLIPLoader", clip_name="storymem_demo_umt5.safetensors")

    def prompts(self) -> dict:
        clip = self.clip()
        positive = self.node("CLIPTextEncode", clip=clip, text="a red fox in the snow")
        negative = self.node("CLIPTextEncode", clip=clip, text="blurry")
        return {"positive": positive, "negative": negative}

    def images(self, seed: int, count: int, height: int = HEIGHT, width: int = WIDTH, nan: bool = False) -> list:
        return self.node("ProbeImages", seed=seed, count=count, height=height, width=width, nan=nan)

    def bank(self, count: int, seed: int = 7, height: int = HEIGHT, width: int = WIDTH, **settings) -> list:
        """A bank of `count` seeded pictures; 0 gives an empty one."""
        settings = {"capacity": 10, "sink": 3, "policy": "sliding_window", **settings}
        if count:
            settings["reference_images"] = self.images(seed, count, height, width)
        return self.node("StoryMemMemoryBank", **settings)

    def transition(self, kind: str, seed: int = 11) -> list:
        if kind == "cut":
            return self.node("StoryMemShotTransition", kind=kind)
        return self.node("StoryMemShotTransition", kind=kind, previous_images=self.images(seed, 6))

    def footage(self, count: int) -> list:
        """The first frames of the real clip."""
        video = self.node("LoadVideo", file=FOOTAGE_NAME)
        trim = {"start_time": 0.0, "duration": count / FOOTAGE_FPS, "strict_duration": False}
        frames = self.node("GetVideoComponents", video=self.node("Video Slice", video=video, **trim))
        scale = {"upscale_method": "area", "crop": "center"}
        return self.node("ImageScale", image=frames, height=176, width=320, **scale)

    def frames(self, images: list, first: int, count: int) -> list:
        return self.node("ImageFromBatch", image=images, batch_index=first, length=count)

    def extractor(self, images: list, bank: list | None = None, **settings) -> list:
        """A Keyframe Extractor that takes every frame for good enough."""
        settings = {**EXTRACTOR, **settings} | ({} if bank is None else {"bank": bank})
        return self.node("StoryMemKeyframeExtractor", images=images, **settings)

    def director(self, story: dict, **settings) -> list:
        """A Story Director on the demo models, of two Euler steps; its film is saved as `film`."""
        settings = {**sampler_defaults(), **DIRECTOR, **settings}
        for name in ("model", "vae", "clip"):
            if name not in settings:
                settings[name] = getattr(self, name)()
        director = self.node("StoryMemDirector", story=self.script(story), **settings)
        self.node("SaveVideo", video=director, filename_prefix="film", format="mp4", codec="h264")
        return director

    def script(self, story: dict) -> list:
        return self.node("StoryMemScript", script=json.dumps(story))

    def text(self, value: list) -> str:
        """Have a STRING shown; returns the number of the node that shows it."""
        return self.node("PreviewAny", source=value)[0]

    def write(self, value: list) -> str:
        """Have an IMAGE or LATENT written; `read` gives it after the run."""
        return self._write("ProbeTensor", value=value)

    def write_conditioning(self, conditioning: list) -> str:
        return self._write("ProbeConditioning", conditioning=conditioning)

    def write_weights(self, model: list) -> str:
        return self._write("ProbeWeights", model=model)

    def _write(self, class_type: str, **inputs) -> str:
        name = f"{uuid.uuid4().hex}.safetensors"
        self.node(class_type, name=name, **inputs)
        return name

    def run(self, **kwargs) -> dict:
        return self.client.run(dict(self), **kwargs)

    def read(self, name: str):
        return self.read_all(name)["value"]

    def read_all(self, name: str) -> dict:
        return load(self.client.view(name))

    def read_json(self, name: str):
        return json.loads(self.client.view(name))


def memory_defaults(**changes) -> dict:
    return {
        "memory_spacing": 1,
        "memory_strength": 1.0,
        "memory_start": 0.0,
        "memory_end": 1.0,
        "memory_guidance": 1.0,
        **changes,
    }


def sampler_defaults(**changes) -> dict:
    return {**SIZE, "seed": 3, **UNI_PC, "shift": 4.0, "boundary": 0.9, **memory_defaults(), **changes}
