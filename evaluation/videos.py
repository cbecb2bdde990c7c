"""Real videos of a story, without ground truth: consistency, prompt following, beauty, as far as they are defined."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from storymem_core.embedders import ColorLayout, Embedder, OpenClip
from storymem_core.errors import InputError
from storymem_core.film import count_frames
from storymem_core.script import Story

from .clip import AestheticHead, ClipText
from .consistency import (
    cross_shot,
    direction,
    shot_following,
    story_following,
    top_cross_shot,
    top_pairs,
    word_counts,
)

COLOUR_LAYOUT = "colour-layout"
FRAMES = 8  # of each shot, evenly spread, as ViCLIP takes them
SHOT_FOLDER = re.compile(r"(\d+)-\w+")


def find_shots(folder: Path) -> list[Path]:
    """The videos of a story in order: `NNN-<key>/video.mp4` as Story Director writes them, else the folder's .mp4
    files by name. InputError for none, and for two versions of one shot."""
    found: dict[int, Path] = {}
    for video in sorted(folder.glob("*/video.mp4")):
        if name := SHOT_FOLDER.fullmatch(video.parent.name):
            number = int(name[1])
            if number in found:
                both = f"{found[number].parent.name} and {video.parent.name}"
                raise InputError("folder", str(folder), f"shot {number} is there twice: {both}", "Keep one of them")
            found[number] = video
    shots = [video for _, video in sorted(found.items())] or sorted(folder.glob("*.mp4"))
    if not shots:
        remedy = "Give the story's folder in ComfyUI's output folder, or a folder of .mp4 files, one per shot"
        raise InputError("folder", str(folder), "has no shots", remedy)
    return shots


def choose_embedder(name: str) -> tuple[Embedder, ClipText | None]:
    """The built-in descriptor, which reads no text, or an open_clip checkpoint with its text side."""
    if name == COLOUR_LAYOUT:
        return ColorLayout(), None
    # OpenAI's own weights were trained with another activation than LAION's.
    openai = any(word in Path(name).name.lower() for word in ("openai", "quickgelu"))
    architecture = "ViT-B-32-quickgelu" if openai else "ViT-B-32"
    return OpenClip(Path(name), architecture), ClipText(Path(name), architecture)


@dataclass(frozen=True)
class Scores:
    """What was measured of a story; a score that is not defined says why instead.

    embedder: what the pictures were compared with; prompts_by: what the prompts were compared with;
    pairs: numbers (from 1) of the shots behind `top`; notes: what a reader must know.
    """

    embedder: str
    prompts_by: str
    overall: float | str
    top: float | str
    pairs: tuple[tuple[int, int], ...]
    story: float | str
    shots: float | str
    aesthetic: float | str
    notes: tuple[str, ...]


def evaluate(
    story: Story,
    frames: Sequence[np.ndarray],
    embedder: Embedder,
    text: ClipText | None,
    head: AestheticHead | None,
) -> Scores:
    """Score a story by frames of each of its shots, uint8 [FRAMES, H, W, 3]."""
    embedded = [embedder(pictures) for pictures in tqdm(frames, desc="embedding", unit="shot")]
    shots = np.stack([direction(one) for one in embedded])
    texts = [shot.prompt for shot in story.shots]
    prompts = text(texts) if text else word_counts(texts)
    blind = f"not defined: {embedder.name} cannot read prompts"
    single = "not defined: the story has one shot" if len(shots) == 1 else None
    notes = []
    if text and (cut := text.too_long(texts)):
        notes.append(f"{cut} of {len(texts)} prompts are longer than CLIP's context and were cut there.")
    if text:
        following = shot_following(shots, prompts)
        overview = story_following(shots, text([story.overview])[0]) if story.overview else "not defined: no overview"
    return Scores(
        embedder=embedder.name,
        prompts_by=embedder.name if text else "the words they share",
        overall=single or cross_shot(shots),
        top=single or top_cross_shot(shots, prompts),
        pairs=tuple((i + 1, j + 1) for i, j in top_pairs(prompts)),
        story=overview if text else blind,
        shots=following if text else blind,
        aesthetic=float(np.mean(head(np.concatenate(embedded)))) if head else "not measured: no --aesthetic weights",
        notes=tuple(notes),
    )


def sample_frames(video: Path) -> np.ndarray:
    """FRAMES frames of a video, evenly spread from the first to the last. InputError where it cannot be read."""
    kept = {}
    try:
        wanted = np.linspace(0, count_frames(video) - 1, FRAMES).round().astype(int)
        with av.open(str(video)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    kept[number] = frame.to_ndarray(format="rgb24")
        return np.stack([kept[number] for number in wanted])
    except (av.error.FFmpegError, IndexError, KeyError) as error:
        raise InputError("folder", str(video), f"cannot be read as a video ({error})", "Encode it anew") from error


def check_count(story: Story, videos: Sequence[Path], folder: Path) -> None:
    if len(videos) != len(story.shots):
        problem = f"has {len(videos)} shots, the script {story.name!r} has {len(story.shots)}"
        raise InputError("folder", str(folder), problem, "Give one video per shot of the script")
