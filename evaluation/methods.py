"""What is compared: ways to make the shots of a story, and the ablations of the memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from storymem_core.bank import Keyframe, MemoryBank
from storymem_core.embedders import ColorLayout
from storymem_core.keyframes import select_keyframes
from storymem_core.shot_files import ShotFiles
from tools.small_world.world import FRAMES

from .frames import frames_of
from .tale import Tale

# --- memories: what a shot may recall, from its story and the finished shots before it


def nothing(tale: Tale, finished: Sequence[ShotFiles]) -> MemoryBank:
    return MemoryBank()


def stored(tale: Tale, finished: Sequence[ShotFiles]) -> MemoryBank:
    """What Save Shot stored: the method as it is."""
    return finished[-1].bank() if finished else MemoryBank()


def references(tale: Tale, finished: Sequence[ShotFiles]) -> MemoryBank:
    """The same, begun with pictures of everybody and every place (MR2V)."""
    if finished:
        return finished[-1].bank()
    pictures = tale.portraits()
    return MemoryBank().add_references(keyframes(pictures, range(len(pictures)), shot=0))


def shuffled(tale: Tale, finished: Sequence[ShotFiles]) -> MemoryBank:
    """What would be recalled, in a random order."""
    recalled = stored(tale, finished).recall()
    order = np.random.default_rng([tale.seed, len(finished)]).permutation(len(recalled))
    return MemoryBank(tuple(recalled[i] for i in order), shots=len(finished))


def uniform(tale: Tale, finished: Sequence[ShotFiles]) -> MemoryBank:
    """The first, the middle and the last frame of every shot, instead of keyframes chosen by rule."""
    bank = MemoryBank()
    for shot in finished:
        frames = frames_of(shot)
        bank = bank.add_shot(keyframes(frames, (0, len(frames) // 2, len(frames) - 1), shot.number))
    return bank


def wrong_story(tale: Tale, finished: Sequence[ShotFiles]) -> MemoryBank:
    """Keyframes of the twin: true pictures of the shots so far, in which everything looks different."""
    bank = MemoryBank()
    for shot in finished:
        frames = tale.twin().frames(shot.number)
        known = [keyframe.embedding for keyframe in bank.keyframes]
        chosen = select_keyframes(ColorLayout()(frames), known=np.stack(known) if known else None).indices
        bank = bank.add_shot(keyframes(frames, chosen, shot.number))
    return bank


def truth(tale: Tale, finished: Sequence[ShotFiles]) -> MemoryBank:
    """All true frames of the shot itself."""
    frames = tale.frames(len(finished) + 1)
    return MemoryBank().add_references(keyframes(frames, range(len(frames)), shot=0))


def keyframes(frames: np.ndarray, chosen: Sequence[int], shot: int) -> list[Keyframe]:
    """The chosen ones of frames, uint8 [N, H, W, 3]; those of shot 0 are pinned references."""
    chosen = list(chosen)
    embeddings = ColorLayout()(frames[chosen])
    return [
        Keyframe(frames[i], shot, i, embedding, ColorLayout.name, pinned=shot == 0)
        for i, embedding in zip(chosen, embeddings, strict=True)
    ]


# --- methods


@dataclass(frozen=True)
class Method:
    """One way to make a story.

    model: "t2v", "i2v", or "first_frame" and "motion_frames", the I2V model with one of the two LoRAs; a shot
    before any memory is made by "t2v" all the same. "vae": no model, the memory is encoded and decoded.
    continuation: how a shot that is no cut begins, a key of OVERLAP; with `chained` every shot after the first is
    such a shot.
    """

    name: str
    model: str = "first_frame"
    memory: Callable[[Tale, Sequence[ShotFiles]], MemoryBank] = stored
    continuation: str = "cut"
    chained: bool = False
    capacity: int = 10
    sink: int = 3
    policy: str = "sliding_window"
    spacing: int = 1
    strength: float = 1.0
    guidance: float = 1.0

    def kind(self, tale: Tale, number: int) -> str:
        """How shot `number` (from 1) begins, a key of OVERLAP."""
        continues = number > 1 and (self.chained or not tale.shots[number - 1].cut)
        return self.continuation if continues else "cut"


# What no model can be better than: pictures as the VAE gives them back.
VAE = Method("truth-through-VAE", model="vae", memory=truth, continuation="first_frame", capacity=FRAMES, sink=0)
T2V = Method("T2V", model="t2v", memory=nothing)
CHAIN = Method("last-frame", model="i2v", memory=nothing, continuation="first_frame", chained=True)
M2V = Method("M2V")
MI2V = Method("M2V+MI2V", continuation="first_frame")
MM2V = Method("M2V+MM2V", model="motion_frames", continuation="motion_frames")
MR2V = Method("MR2V", memory=references)
METHODS = (VAE, T2V, CHAIN, M2V, MI2V, MM2V, MR2V)

WRONG = replace(M2V, name="memory of the wrong story", memory=wrong_story)
ABLATIONS = (
    replace(M2V, name="spacing S = 5", spacing=5),
    *(replace(M2V, name=f"strength {strength:g}", strength=strength) for strength in (0.0, 0.5, 2.0)),
    *(replace(M2V, name=f"capacity {size}", capacity=size, sink=min(3, size)) for size in (1, 3, 6)),
    replace(M2V, name="sink 0", sink=0),
    replace(M2V, name="same labels", policy="same_labels"),
    *(replace(M2V, name=f"guidance {guidance:g}", guidance=guidance) for guidance in (1.5, 2.0, 3.0)),
    replace(M2V, name="shuffled memory", memory=shuffled),
    replace(M2V, name="uniform frames", memory=uniform),
    WRONG,
)
