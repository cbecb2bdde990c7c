"""Chooses the keyframes of a shot and stores them in the bank."""

from dataclasses import replace
from pathlib import Path

import comfy.utils
import folder_paths
import numpy as np
from comfy_api.latest import io

from ..storymem_core.bank import Keyframe, MemoryBank, read_labels
from ..storymem_core.embedders import ColorLayout, Embedder, OpenClip
from ..storymem_core.errors import InputError
from ..storymem_core.keyframes import FrameVerdict, Selection, select_keyframes
from ..storymem_core.quality import QUALITY, QUALITY_THRESHOLD
from .host.clip_vision import HostClipVision
from .pictures import strip, to_images, to_pictures
from .types import Bank

BATCH = 16
BUILT_IN = "built-in"


def choose_embedder(clip_vision, clip_checkpoint: str) -> Embedder:
    """What pictures are compared with: a connected CLIP_VISION, a CLIP file, or the built-in descriptor."""
    if clip_checkpoint == BUILT_IN:
        return ColorLayout() if clip_vision is None else HostClipVision(clip_vision)
    if clip_vision is not None:
        raise InputError(
            "clip_checkpoint",
            clip_checkpoint,
            "clip_vision is connected too",
            f"Disconnect clip_vision, or set clip_checkpoint to {BUILT_IN}",
        )
    path = Path(folder_paths.get_full_path_or_raise("clip_vision", clip_checkpoint))
    # OpenAI's own weights were trained with another activation than LAION's.
    openai = any(word in clip_checkpoint.lower() for word in ("openai", "quickgelu"))
    return OpenClip(path, "ViT-B-32-quickgelu" if openai else "ViT-B-32")


def embed(embedder: Embedder, pictures: np.ndarray) -> np.ndarray:
    """Embeddings of all pictures, in batches that show progress and can be interrupted."""
    progress = comfy.utils.ProgressBar(len(pictures))
    batches = []
    for start in range(0, len(pictures), BATCH):
        batches.append(embedder(pictures[start : start + BATCH]))
        progress.update_absolute(min(start + BATCH, len(pictures)))
    return np.concatenate(batches)


def known_to(embedder: Embedder, bank: MemoryBank) -> tuple[MemoryBank, int]:
    """The bank with every keyframe embedded by `embedder`, and how many had to be embedded again."""
    others = [keyframe for keyframe in bank.keyframes if keyframe.embedder != embedder.name]
    if not others:
        return bank, 0
    keyframes = tuple(
        replace(keyframe, embedding=embedder(keyframe.image[None])[0], embedder=embedder.name)
        if keyframe.embedder != embedder.name
        else keyframe
        for keyframe in bank.keyframes
    )
    return replace(bank, keyframes=keyframes), len(others)


def origin(keyframe: Keyframe) -> str:
    if keyframe.shot == 0:
        return f"reference {keyframe.frame + 1}"
    return f"shot {keyframe.shot}, frame {keyframe.frame}"


def report_line(frame: FrameVerdict) -> str:
    similarity = "-" if frame.similarity is None else f"{frame.similarity:.4f}"
    quality = "-" if frame.quality is None else f"{frame.quality:.4g}"
    return f"{frame.index:>5}  {similarity:>10}  {quality:>8}  {frame.verdict}"


def report(shot: int, embedder: Embedder, quality: str, selection: Selection, again: int) -> str:
    lines = [
        f"shot {shot}: {len(selection.indices)} of {len(selection.frames)} frames kept, "
        f"threshold {selection.threshold:.2f}",
        f"compared with {embedder.name}; quality: {quality}",
    ]
    if isinstance(embedder, ColorLayout):
        lines.append("no CLIP connected: the built-in colour-layout descriptor compares colours, not meaning")
    if again:
        lines.append(f"{again} stored keyframes were embedded again: another embedder had made theirs")
    lines.append("frame  similarity   quality  verdict")
    return "\n".join(lines + [report_line(frame) for frame in selection.frames])


def extract_keyframes(
    pictures: np.ndarray,
    bank: MemoryBank,
    embedder: Embedder,
    threshold: float,
    max_keyframes: int,
    quality: str,
    quality_threshold: float,
    label: str,
) -> tuple[MemoryBank, list[Keyframe], str]:
    """The bank with the keyframes of one more shot (uint8 [N, H, W, 3]), these keyframes, and the report."""
    bank, again = known_to(embedder, bank)
    embeddings = embed(embedder, pictures)
    score, shown = QUALITY[quality], bank.repeated_by(read_labels(label))
    selection = select_keyframes(
        embeddings,
        score and (lambda i: score(pictures[i])),
        threshold=threshold,
        max_keyframes=max_keyframes,
        quality_threshold=quality_threshold if score else None,
        known=np.stack([keyframe.embedding for keyframe in shown]) if shown else None,
        known_names=[origin(keyframe) for keyframe in shown],
    )
    shot, label = bank.shots + 1, label.strip()
    new = [
        Keyframe(pictures[i], shot, i, embeddings[i], embedder.name, selection.frames[i].quality, label)
        for i in selection.indices
    ]
    return bank.add_shot(new), new, report(shot, embedder, quality, selection, again)


def selection_inputs() -> list:
    """Inputs that say which frames of a shot are worth remembering."""
    return [
        io.Float.Input(
            "threshold",
            default=0.9,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Frames more alike than this (cosine similarity) count as the same picture: lower "
            "keeps fewer. Lowered by 0.01 at a time while there are too many.",
        ),
        io.Int.Input("max_keyframes", default=3, min=1, max=64, tooltip="Most keyframes to keep of one shot."),
        io.Combo.Input(
            "quality",
            options=list(QUALITY),
            default="sharpness",
            tooltip="none: every frame is good enough. sharpness: skips black, faded and blurred frames.",
        ),
        io.Float.Input(
            "quality_threshold",
            default=QUALITY_THRESHOLD["sharpness"],
            min=0.0,
            max=1e6,
            step=0.1,
            tooltip="Least quality of a keyframe; for sharpness, the variance of the Laplacian.",
            advanced=True,
        ),
    ]


class StoryMemKeyframeExtractor(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemKeyframeExtractor",
            display_name="Keyframe Extractor",
            category="StoryMem/memory",
            description="Picks the few frames of a shot that say something new and look good, and stores them in "
            "the memory bank.",
            search_aliases=["storymem", "memory", "keyframes", "consistency"],
            inputs=[
                io.Image.Input("images", tooltip="The decoded shot."),
                Bank.Input("bank", optional=True, tooltip="Memory so far. Without it a new story begins."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="CLIP vision model to compare frames by meaning. Without it: by colour layout.",
                ),
                *selection_inputs(),
                io.String.Input(
                    "label",
                    default="",
                    tooltip="A name for these keyframes, say of the person or place shown. They repeat only pictures "
                    "that show the same.",
                ),
                io.Combo.Input(
                    "clip_checkpoint",
                    options=[BUILT_IN, *folder_paths.get_filename_list("clip_vision")],
                    default=BUILT_IN,
                    optional=True,
                    advanced=True,
                    tooltip="Instead of clip_vision: an open_clip ViT-B/32 file in models/clip_vision, as in the "
                    "paper. A name with 'openai' or 'quickgelu' is read as OpenAI's weights.",
                ),
            ],
            outputs=[
                Bank.Output(display_name="bank", tooltip="Memory with this shot's keyframes."),
                io.Image.Output(display_name="keyframes", tooltip="The keyframes that were added."),
                io.String.Output(display_name="report", tooltip="Every frame: similarity, quality, kept or why not."),
            ],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        images,
        threshold,
        max_keyframes,
        quality,
        quality_threshold,
        label,
        bank=None,
        clip_vision=None,
        clip_checkpoint=BUILT_IN,
    ) -> io.NodeOutput:
        pictures = to_pictures(images, "images")
        embedder = choose_embedder(clip_vision, clip_checkpoint)
        settings = (threshold, max_keyframes, quality, quality_threshold, label)
        bank, new, text = extract_keyframes(pictures, bank or MemoryBank(), embedder, *settings)
        return io.NodeOutput(bank, to_images(new), text, ui=strip(bank, new))
