"""Makes the shots of stories through ComfyUI's server, each with one prompt of the nodes Story Director uses.

A finished shot lies in the server's output folder under a key over everything that determines it, so a run goes on
where the last one stopped, and methods share the shots that they would make alike.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from storymem_core.bank import read_labels
from storymem_core.errors import InputError
from storymem_core.shot_files import ShotFileError, ShotFiles, load_shot, shot_folder, shot_key
from storymem_core.storage import save_bank
from tools.client import Client
from tools.small_world.world import FRAMES, HEIGHT, WIDTH

from .methods import Method
from .tale import Tale

FOLDER = "stories"
SIZE = {"width": WIDTH, "height": HEIGHT}
LENGTH = FRAMES
# The LoRAs have seen no memory without a caption, so guidance by an empty one would lead away from memory. Steps that
# add noise again mend what small models leave between two looks; of such samplers this one keeps first shots steadier.
SAMPLING = {"steps": 15, "cfg": 1.0, "sampler_name": "seeds_2", "scheduler": "simple"}
SHIFT = 3.0  # as the small world's models were trained
# Every frame is kept without loss: at this size, video compression alters colours and small parts.
SAVING = {"fps": 8.0, "crossfade": 0, "keep_last": LENGTH, "match_color": False}
SELECTION = {"threshold": 0.9, "max_keyframes": 3, "quality": "sharpness", "quality_threshold": 15.0}


@dataclass(frozen=True)
class Models:
    """Names of the files in ComfyUI's models folder."""

    vae: str = "storymem_world_vae.safetensors"
    text: str = "storymem_world_umt5.safetensors"
    t2v: str = "storymem_world_t2v.safetensors"
    i2v: str = "storymem_world_i2v.safetensors"
    first_frame: str = "storymem_world_lora_first_frame.safetensors"
    motion_frames: str = "storymem_world_lora_motion_frames.safetensors"

    def contents(self, models_dir: Path) -> dict[str, str]:
        """File name -> hash; InputError for a file that is not there."""
        folders = {"vae": "vae", "text": "text_encoders", "t2v": "diffusion_models", "i2v": "diffusion_models"}
        files = {field: models_dir / folders.get(field, "loras") / name for field, name in asdict(self).items()}
        for field, file in files.items():
            if not file.is_file():
                raise InputError(field, str(file), "there is no such file", "Train the small world's models first")
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files.values()}


class Prompt(dict):
    """A prompt in API format; `add` adds a node and returns a link to its first output."""

    def add(self, class_type: str, **inputs) -> list:
        number = str(len(self) + 1)
        self[number] = {"class_type": class_type, "inputs": inputs}
        return [number, 0]


@dataclass(frozen=True)
class Studio:
    """Where films are made. contents: hashes of the model files, part of what determines a shot that they make."""

    client: Client
    output: Path
    models: Models
    contents: dict[str, str]

    def used(self, prompt: "Prompt") -> dict[str, str]:
        """Hashes of the model files that a prompt loads."""
        named = {value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)}
        return {name: digest for name, digest in self.contents.items() if name in named}

    def make(self, tale: Tale, method: Method, on_shot: Callable[[], None] = lambda: None) -> list[ShotFiles]:
        """All shots of a story, finished ones from disk; on_shot is called after each. NodeError if a node fails."""
        finished: list[ShotFiles] = []
        key = ""
        for number in range(1, len(tale.shots) + 1):
            memory = method.memory(tale, finished).with_settings(method.capacity, method.sink, method.policy)
            kind = method.kind(tale, number)
            parts = (tale, method, number, kind, bool(memory.keyframes), finished)
            prompt = self.prompt(*parts, "")
            recalled = [keyframe.id for keyframe in memory.recall(labels=read_labels(tale.shots[number - 1].labels))]
            determines = {"prompt": prompt, "models": self.used(prompt), "memory": recalled}
            key = shot_key(key, determines)
            folder = shot_folder(self.output / FOLDER, number, key)
            previous = finished[-1] if finished else None
            try:
                shot = load_shot(folder, previous)
            except ShotFileError:
                save_bank(memory, self.output / memory_file(tale))
                self.client.run(self.prompt(*parts, folder.name))
                shot = load_shot(folder, previous)
            finished.append(shot)
            on_shot()
        return finished

    def prompt(
        self,
        tale: Tale,
        method: Method,
        number: int,
        kind: str,
        remembers: bool,
        finished: Sequence[ShotFiles],
        folder: str,
    ) -> Prompt:
        """The prompt of one shot, to be saved in `folder`."""
        graph, models = Prompt(), self.models
        clip = graph.add("StoryMemDemoCLIPLoader", clip_name=models.text)
        vae = graph.add("VAELoader", vae_name=models.vae)
        texts = {
            "positive": graph.add("CLIPTextEncode", clip=clip, text=tale.shots[number - 1].caption),
            "negative": graph.add("CLIPTextEncode", clip=clip, text=""),
        }
        memory = graph.add("StoryMemLoadBank", bank_file=memory_file(tale))
        before = {}
        if finished:
            loaded = graph.add("StoryMemLoadShot", folder=f"{FOLDER}/{finished[-1].folder.name}", continued=True)
            before = {"previous": loaded}
        last = {"previous_shot": before["previous"]} if kind != "cut" else {}
        transition = graph.add("StoryMemShotTransition", kind=kind, **last)
        seed = 100 * tale.seed + number
        if method.model == "vae":
            latent = graph.add("VAEEncode", pixels=[memory[0], 1], vae=vae)
        elif method.model == "t2v" or (number == 1 and not remembers):
            latent = self.from_text(graph, texts, seed)
        else:
            model = graph.add("UNETLoader", unet_name=models.i2v, weight_dtype="default")
            if method.model != "i2v":
                lora = getattr(models, method.model)
                model = graph.add("StoryMemLoraLoader", model=model, lora_name=lora, strength=1.0)
            latent = graph.add(
                "StoryMemSampler",
                model=model,
                vae=vae,
                bank=memory,
                transition=transition,
                length=LENGTH,
                seed=seed,
                shift=SHIFT,
                boundary=0.0,
                memory_spacing=method.spacing,
                memory_strength=method.strength,
                memory_start=0.0,
                memory_end=1.0,
                memory_guidance=method.guidance,
                labels=tale.shots[number - 1].labels,
                **texts,
                **SIZE,
                **SAMPLING,
            )
        graph.add(
            "StoryMemSaveShot",
            latent=latent,
            vae=vae,
            bank=[before["previous"][0], 1] if finished else memory,
            transition=transition,
            folder=f"{FOLDER}/{folder}",
            number=number,
            label=tale.shots[number - 1].labels,
            **before,
            **SAVING,
            **SELECTION,
        )
        # Save Shot is no output node; this is one.
        graph.add("PreviewAny", source=[str(len(graph)), 0])
        return graph

    def from_text(self, graph: Prompt, texts: dict, seed: int) -> list:
        """The text-to-video model through the host's own nodes."""
        model = graph.add("UNETLoader", unet_name=self.models.t2v, weight_dtype="default")
        return graph.add(
            "KSampler",
            model=graph.add("ModelSamplingSD3", model=model, shift=SHIFT),
            latent_image=graph.add("EmptyHunyuanLatentVideo", **SIZE, length=LENGTH, batch_size=1),
            seed=seed,
            denoise=1.0,
            **texts,
            **SAMPLING,
        )


def memory_file(tale: Tale) -> str:
    """Where the memory of the shot in work lies, in the output folder; stories may be made side by side."""
    return f"{FOLDER}/memory-{tale.seed}.safetensors"
