"""Training samples for the host's own LoRA trainer, made of short captioned clips."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import comfy.utils
import folder_paths
import node_helpers
import numpy as np
import torch
from comfy_api.latest import io

from ..storymem_core.bank import Keyframe
from ..storymem_core.clips import Clip, list_clips, read_frames
from ..storymem_core.conditioning import SPATIAL_STRIDE, TEMPORAL_STRIDE, check_shot_size
from ..storymem_core.embedders import Embedder
from ..storymem_core.errors import InputError
from ..storymem_core.musubi import write_dataset, write_sample
from ..storymem_core.storage import resolve_inside
from ..storymem_core.tensor_files import load_tensor, save_tensor, tensor_file
from ..storymem_core.training import KINDS, EmbeddedClip, Sample, compose_samples
from ..storymem_core.transitions import OVERLAP, Transition
from .host.latents import check_wan_vae, encode_keyframe, encode_shot, fit
from .host.sampling import known_frames
from .host.training import NOISE_LEVELS, content_of, seen_by_model, training_model
from .keyframes import BUILT_IN, choose_embedder
from .sampling import size_inputs

CACHE_FOLDER = "storymem/training_cache"


class Cache:
    """Tensors kept in ComfyUI's output tree; `made` counts those that were not there yet. Samples share them."""

    def __init__(self):
        self.folder = Path(folder_paths.get_output_directory()) / CACHE_FOLDER
        self.made = 0
        self._loaded: dict[Path, torch.Tensor] = {}

    def __call__(self, made_from: dict, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        path = tensor_file(self.folder, made_from)
        if not path.exists():
            save_tensor(path, make())
            self.made += 1
        if path not in self._loaded:
            self._loaded[path] = load_tensor(path)
        return self._loaded[path]


def embed_clip(clip: Clip, embedder: Embedder, cache: Cache) -> EmbeddedClip:
    """Every fourth frame of a clip, one for each latent frame, embedded."""
    numbers = np.arange(0, clip.frames, TEMPORAL_STRIDE)

    def make() -> torch.Tensor:
        frames = read_frames(clip, numbers.tolist())
        return torch.from_numpy(embedder(np.stack([frames[i] for i in numbers])))

    made_from = {"embedding": embedder.name, "clip": clip.content, "every": TEMPORAL_STRIDE}
    return EmbeddedClip(clip.name, clip.group, clip.frames, numbers, cache(made_from, make).numpy())


class Encoder:
    """Latents of what a sample is made of, by the functions that sampling uses; each is encoded once, then read."""

    def __init__(self, vae, width: int, height: int, length: int, embedder: Embedder, cache: Cache):
        self.vae, self.width, self.height, self.length = vae, width, height, length
        self.embedder, self.cache = embedder, cache
        self.made_for = {"vae": content_of(vae), "width": width, "height": height}

    def images(self, clip: Clip, numbers: Iterable[int]) -> torch.Tensor:
        """IMAGE [N, height, width, 3] of consecutive frames."""
        pictures = torch.from_numpy(np.stack(list(read_frames(clip, numbers).values())))
        return fit(pictures.float() / 255, self.width, self.height, "lanczos")

    def video(self, clip: Clip, start: int) -> torch.Tensor:
        """The window itself: what the model learns to make."""
        numbers = range(start, start + self.length)
        made_from = {**self.made_for, "clip": clip.content, "start": start, "length": self.length}
        return self.cache(made_from, lambda: self.vae.encode(self.images(clip, numbers)).cpu())

    def known(self, clip: Clip, start: int, kind: str) -> torch.Tensor:
        """What is known of the window: its first frames, or nothing."""
        overlap = OVERLAP[kind]
        numbers = range(start, start + overlap)
        made_from = {**self.made_for, "known": overlap, "length": self.length}
        if overlap:
            made_from |= {"clip": clip.content, "start": start}

        def make() -> torch.Tensor:
            transition = Transition(kind, self.images(clip, numbers) if overlap else None)
            return encode_shot(self.vae, transition, self.width, self.height, self.length)

        return self.cache(made_from, make)

    def keyframe(self, clip: Clip, embedded: EmbeddedClip, frame: int) -> torch.Tensor:
        embedding = embedded.embeddings[frame // TEMPORAL_STRIDE]

        def make() -> torch.Tensor:
            picture = read_frames(clip, [frame])[frame]
            keyframe = Keyframe(picture, 1, frame, embedding, self.embedder.name)
            return encode_keyframe(self.vae, keyframe, self.width, self.height)

        return self.cache({**self.made_for, "clip": clip.content, "keyframe": frame}, make)


def report(folder: str, clips: tuple[Clip, ...], samples: tuple[Sample, ...], embedder: Embedder, made: int) -> str:
    kinds = Counter(sample.kind for sample in samples)
    sizes = [len(sample.memory) for sample in samples if sample.memory]
    own = sum(clip == sample.clip for sample in samples for clip, _ in sample.memory)
    rates = Counter(f"{clip.fps:g}" for clip in clips)
    lines = [
        f"{folder}: {len(clips)} clips, {len(samples)} samples: "
        + ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind]),
        "frames per second: " + ", ".join(f"{rate} ({number} clips)" for rate, number in rates.items()),
        f"similarity by {embedder.name}",
        f"{made} latents and embeddings were made, the others read from {CACHE_FOLDER}",
    ]
    if sizes:
        memory = f"memory of {min(sizes)} to {max(sizes)} keyframes, {sum(sizes) / len(sizes):.1f} on average"
        lines.insert(1, f"{memory}; {100 * own / sum(sizes):.0f} % of them from other parts of the same clip")
    lines.append("sample  kind       clip and first frame -> memory")
    for number, sample in enumerate(samples):
        memory = ", ".join(f"{clips[clip].name} {frame}" for clip, frame in sample.memory)
        lines.append(f"{number:>6}  {sample.kind:<9}  {clips[sample.clip].name} {sample.start} -> {memory or '-'}")
    return "\n".join(lines)


def training_folder(folder: str) -> Path:
    return resolve_inside(Path(folder_paths.get_input_directory()), folder, "folder")


def share_input(kind: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(f"share_{kind}", default=default, min=0.0, max=1.0, step=0.05, tooltip=tooltip)


class StoryMemTrainingSet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemTrainingSet",
            display_name="Training Set",
            category="StoryMem/training",
            description="Makes training samples of a folder of short captioned clips, each with a memory drawn from "
            "similar clips, for ComfyUI's own Train LoRA node. Connect all three outputs to it.",
            search_aliases=["storymem", "lora", "train", "dataset", "memory"],
            inputs=[
                io.Model.Input("model", tooltip="Wan 2.2 I2V, the expert to train, with its ModelSamplingSD3 shift."),
                io.Vae.Input("vae", tooltip="The Wan 2.1 VAE."),
                io.Clip.Input("clip", tooltip="The text encoder, for the captions."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="CLIP vision model to find similar clips by meaning. Without it: by colour layout.",
                ),
                io.String.Input(
                    "folder",
                    default="training_clips",
                    tooltip="Folder in ComfyUI's input folder: clips, and beside each its caption, a .txt of the same "
                    "name. One shot per clip, at the frame rate of the model (Wan: 16). With sub-folders, a clip "
                    "remembers clips of its own sub-folder alone.",
                ),
                *size_inputs(),
                io.Int.Input(
                    "samples",
                    default=100,
                    min=1,
                    max=100000,
                    tooltip="Training samples to make; every clip is used equally often. The trainer keeps all of them "
                    "in memory.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,  # else the front end would draw a new set each time
                    tooltip="Draws windows, kinds and memories. The same seed gives the same set.",
                ),
                io.Int.Input(
                    "max_memory",
                    default=10,
                    min=1,
                    max=64,
                    tooltip="Most keyframes of a memory; each has between 1 and this many.",
                ),
                io.Float.Input(
                    "min_similarity",
                    default=0.6,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Keyframes of other clips less similar than this (cosine similarity) are not remembered; "
                    "1 leaves other parts of the same clip alone. Unrelated pictures stay below 0.6.",
                ),
                share_input("m2v", 0.5, "Share of samples with memory that begin with a cut."),
                share_input("mi2v", 0.5, "Share of samples with memory that continue from their first frame."),
                share_input("mm2v", 0.0, "Share of samples with memory that continue from their first five frames."),
                share_input("no_memory", 0.0, "Share of samples without memory: a cut to a new picture."),
                io.Combo.Input(
                    "noise_levels",
                    options=list(NOISE_LEVELS),
                    default=NOISE_LEVELS[0],
                    tooltip="What is trained: the high-noise expert, the low-noise expert, or one model for all noise "
                    "levels.",
                ),
                io.Float.Input(
                    "boundary",
                    default=0.9,
                    min=0.01,
                    max=0.99,
                    step=0.005,
                    tooltip="Noise level (sigma) where the two experts meet.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with memory, for Train LoRA only."),
                io.Latent.Output(display_name="latents", is_output_list=True, tooltip="The videos to learn."),
                io.Conditioning.Output(
                    display_name="positive", is_output_list=True, tooltip="Caption, memory and known frames of each."
                ),
                io.String.Output(
                    display_name="report", tooltip="What the set is made of: every sample and its memory."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder, **_) -> str:
        if folder is None:  # comes through a link: unknown until the node runs
            return ""
        files = sorted(path for path in training_folder(folder).rglob("*") if path.is_file())
        listing = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return hashlib.sha256(repr(listing).encode()).hexdigest()

    @classmethod
    def execute(
        cls,
        model,
        vae,
        clip,
        folder,
        width,
        height,
        length,
        samples,
        seed,
        max_memory,
        min_similarity,
        share_m2v,
        share_mi2v,
        share_mm2v,
        share_no_memory,
        noise_levels,
        boundary,
        clip_vision=None,
    ) -> io.NodeOutput:
        check_shot_size(width, height, length)
        check_wan_vae(vae)
        patched = training_model(model, noise_levels, boundary)
        shares = {"m2v": share_m2v, "mi2v": share_mi2v, "mm2v": share_mm2v, "no_memory": share_no_memory}
        clips = list_clips(training_folder(folder), length)
        embedder, cache = choose_embedder(clip_vision, BUILT_IN), Cache()

        progress = comfy.utils.ProgressBar(len(clips) + samples)
        embedded = []
        for number, each in enumerate(clips):
            embedded.append(embed_clip(each, embedder, cache))
            progress.update_absolute(number + 1)
        composed = compose_samples(embedded, length, samples, shares, max_memory, min_similarity, seed)

        encoder = Encoder(vae, width, height, length, embedder, cache)
        captions = {
            caption: clip.encode_from_tokens_scheduled(clip.tokenize(caption))
            for caption in dict.fromkeys(each.caption for each in clips)
        }
        latents, positive = [], []
        for number, sample in enumerate(composed):
            of, transition = clips[sample.clip], KINDS[sample.kind]
            memory = [encoder.keyframe(clips[i], embedded[i], frame) for i, frame in sample.memory]
            known = known_frames(memory, encoder.known(of, sample.start, transition), OVERLAP[transition], length)
            latents.append({"samples": encoder.video(of, sample.start)})
            positive.append(node_helpers.conditioning_set_values(captions[of.caption], known))
            progress.update_absolute(len(clips) + number + 1)
        return io.NodeOutput(patched, latents, positive, report(folder, clips, composed, embedder, cache.made))


class StoryMemExportTrainingSet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemExportTrainingSet",
            display_name="Export Training Set",
            category="StoryMem/training",
            description="Writes a training set to the output folder as the cache of musubi-tuner, which trains Wan on "
            "several GPUs. Its loss counts memory frames too.",
            search_aliases=["storymem", "lora", "train", "dataset", "musubi"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Latent.Input("latents", tooltip="From Training Set."),
                io.Conditioning.Input("positive", tooltip="From Training Set."),
                io.String.Input(
                    "folder",
                    default="storymem/musubi",
                    tooltip="New folder in ComfyUI's output folder, with dataset.toml for musubi-tuner in it.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, latents, positive, folder) -> io.NodeOutput:
        (folder,) = folder
        path = resolve_inside(Path(folder_paths.get_output_directory()), folder, "folder")
        if path.exists():
            raise InputError("folder", folder, "is there already", "Choose a new folder, or delete this one")
        path.mkdir(parents=True)
        progress = comfy.utils.ProgressBar(len(latents))
        for number, (latent, conditioning) in enumerate(zip(latents, positive, strict=True)):
            clean, known, text = seen_by_model(latent, conditioning)
            write_sample(path, number, clean[0], known[0], text[0])
            progress.update_absolute(number + 1)
        height, width = (size * SPATIAL_STRIDE for size in clean.shape[3:])
        write_dataset(path, width, height)
        return io.NodeOutput()
