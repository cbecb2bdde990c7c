"""A story's keyframes, and which of them a shot recalls (StoryMem, arXiv 2512.19539, memory update)."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .errors import InputError


@dataclass(frozen=True, eq=False)
class Keyframe:
    """One remembered picture.

    image: uint8 [H, W, 3], RGB, 0..255. shot: the shot it was taken from, 1 for the first, 0 for a reference.
    frame: its index in that shot (for a reference, in the batch it came with). embedding: float32 [D] of unit
    length, made by `embedder`. quality: the score it was kept with, None where none was taken.
    pinned: recalled before all others. excluded: stored, but never recalled, pinned or not. id: 16 hex digits, a hash
    of the picture. Arrays are read-only copies. Raises InputError on anything else.
    """

    image: np.ndarray
    shot: int
    frame: int
    embedding: np.ndarray
    embedder: str
    quality: float | None = None
    label: str = ""
    pinned: bool = False
    excluded: bool = False
    id: str = field(init=False)

    @property
    def labels(self) -> frozenset[str]:
        """Who and what it shows, by `label`: names with commas between."""
        return read_labels(self.label)

    def __post_init__(self):
        image, embedding = self.image, self.embedding
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise InputError("image", f"{image.dtype} {list(image.shape)}", "not a picture", "Give uint8 [H, W, 3]")
        if embedding.dtype != np.float32 or embedding.ndim != 1:
            value = f"{embedding.dtype} {list(embedding.shape)}"
            raise InputError("embedding", value, "not one embedding", "Give float32 [D]")
        length = float(np.linalg.norm(embedding))
        # written so that NaN fails too
        if not abs(length - 1) < 1e-3:
            raise InputError("embedding", f"length {length:g}", "not of unit length", "Normalise it")
        for name in ("shot", "frame"):
            if getattr(self, name) < 0:
                raise InputError(name, getattr(self, name), "negative", "Count shots and frames from 0")
        if self.quality is not None and not np.isfinite(self.quality):
            raise InputError("quality", self.quality, "not a number", "Give a finite score or None")
        for name, array in (("image", image), ("embedding", embedding)):
            array = np.array(array, order="C")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        content = hashlib.sha256(repr(self.image.shape).encode())
        content.update(self.image)
        object.__setattr__(self, "id", content.hexdigest()[:16])


def window(keyframes: Sequence[Keyframe], capacity: int, sink: int) -> tuple[Keyframe, ...]:
    """Pinned keyframes, then the first `sink` ever stored, then the most recent, up to `capacity`."""
    numbers = range(len(keyframes))
    by_need = [i for i in numbers if keyframes[i].pinned]
    by_need += [i for i in numbers[:sink] if not keyframes[i].pinned]
    by_need += [i for i in reversed(numbers[sink:]) if not keyframes[i].pinned]
    return tuple(keyframes[i] for i in sorted(by_need[:capacity]))


def sliding_window(keyframes: Sequence[Keyframe], labels: frozenset[str]) -> Sequence[Keyframe]:
    """All of them, whatever the shot shows."""
    return keyframes


def same_labels(keyframes: Sequence[Keyframe], labels: frozenset[str]) -> Sequence[Keyframe]:
    """For each label of the shot, the keyframes that show it best; and pinned ones, unless they show others too.

    Best are those with the labels most like the shot's (Jaccard index). All keyframes, where none has any of the
    labels.
    """

    def alike(keyframe: Keyframe) -> float:
        return len(keyframe.labels & labels) / len(keyframe.labels | labels)

    best: set[Keyframe] = set()
    for label in labels:
        showing = [keyframe for keyframe in keyframes if label in keyframe.labels]
        most = max(map(alike, showing), default=0)
        best.update(keyframe for keyframe in showing if alike(keyframe) == most)
    if not best:
        return keyframes
    best.update(k for k in keyframes if k.pinned and k.labels <= labels)
    return [keyframe for keyframe in keyframes if keyframe in best]


# name -> function(keyframes, labels) giving, in their order, those that the window may choose from;
# labels: of who and what the next shot shows.
POLICIES: dict[str, Callable[[Sequence[Keyframe], frozenset[str]], Sequence[Keyframe]]] = {
    "sliding_window": sliding_window,
    "same_labels": same_labels,
}


def read_labels(text: str) -> frozenset[str]:
    """Labels separated by commas or line breaks; capital letters and spaces around them do not count."""
    parts = (part.strip().casefold() for part in text.replace("\n", ",").split(","))
    return frozenset(part for part in parts if part)


def _check_settings(capacity: int, sink: int, policy: str) -> None:
    if capacity < 1:
        raise InputError("capacity", capacity, "a shot recalls one keyframe or more", "Set at least 1")
    if sink < 0:
        raise InputError("sink", sink, "negative", "Set at least 0")
    if capacity < sink:
        raise InputError(
            "capacity",
            capacity,
            f"smaller than sink={sink}",
            "Raise capacity or lower sink",
        )
    if policy not in POLICIES:
        raise InputError("policy", policy, "unknown recall policy", f"Choose one of {', '.join(POLICIES)}")


@dataclass(frozen=True)
class MemoryBank:
    """Every keyframe of a story in the order it was stored. Immutable: each operation returns a new bank.

    capacity: most keyframes one shot recalls; sink: how many of the first ever stored are always among them;
    policy: which of them it chooses from (a name in POLICIES), all as if excluded keyframes were not stored;
    shots: how many shots were absorbed; limit: most keyframes kept.
    Raises InputError on settings that contradict each other.
    """

    keyframes: tuple[Keyframe, ...] = ()
    capacity: int = 10
    sink: int = 3
    policy: str = "sliding_window"
    shots: int = 0
    limit: int = 256

    def __post_init__(self):
        object.__setattr__(self, "keyframes", tuple(self.keyframes))
        _check_settings(self.capacity, self.sink, self.policy)
        if self.limit < 1:
            raise InputError("limit", self.limit, "a bank holds one keyframe or more", "Set at least 1")
        if len(self.keyframes) > self.limit:
            problem = f"the bank holds {len(self.keyframes)} keyframes"
            raise InputError("limit", self.limit, problem, "Raise limit or give fewer keyframes")
        latest = max((keyframe.shot for keyframe in self.keyframes), default=0)
        if self.shots < latest:
            raise InputError("shots", self.shots, f"a keyframe is of shot {latest}", f"Set shots to {latest}")

    @property
    def recallable(self) -> tuple[Keyframe, ...]:
        """All keyframes but the excluded, in order."""
        return tuple(keyframe for keyframe in self.keyframes if not keyframe.excluded)

    def repeated_by(self, labels: frozenset[str]) -> tuple[Keyframe, ...]:
        """Keyframes that a shot of these labels may show again: all but those whose own labels lack one of them.

        So the first picture of somebody is no repetition, however like a picture of somebody else.
        """
        return tuple(keyframe for keyframe in self.keyframes if not keyframe.labels or labels <= keyframe.labels)

    @property
    def sink_keyframes(self) -> tuple[Keyframe, ...]:
        """The first `sink` keyframes of those that may be recalled."""
        return self.recallable[: self.sink]

    def recall(
        self,
        capacity: int | None = None,
        sink: int | None = None,
        policy: str | None = None,
        labels: frozenset[str] = frozenset(),
    ) -> tuple[Keyframe, ...]:
        """Keyframes for the next shot, oldest first, at most `capacity`. None takes the bank's own setting.

        labels: who and what the shot shows, as `read_labels` gives them; `sliding_window` ignores them.
        Raises InputError on contradicting settings, or when more keyframes are pinned than `capacity`.
        """
        capacity = self.capacity if capacity is None else capacity
        sink = self.sink if sink is None else sink
        policy = self.policy if policy is None else policy
        _check_settings(capacity, sink, policy)
        candidates = POLICIES[policy](self.recallable, labels)
        pinned = sum(keyframe.pinned for keyframe in candidates)
        if pinned > capacity:
            raise InputError(
                "capacity",
                capacity,
                f"{pinned} keyframes are pinned (references always are)",
                f"Raise capacity to {pinned} or more, or pin fewer",
            )
        return window(candidates, capacity, sink)

    def preview(self) -> tuple[Keyframe, ...]:
        """What a shot without labels would recall; under `same_labels`, of which a shot with labels recalls a part,
        there is room for every pinned keyframe. Raises InputError as `recall` does.
        """
        if self.policy == "sliding_window":
            return self.recall()
        pinned = sum(keyframe.pinned for keyframe in self.recallable)
        return self.recall(capacity=max(self.capacity, pinned))

    def with_settings(self, capacity: int, sink: int, policy: str) -> "MemoryBank":
        """The same keyframes under other recall settings."""
        return replace(self, capacity=capacity, sink=sink, policy=policy)

    def add_references(self, keyframes: Iterable[Keyframe]) -> "MemoryBank":
        """Store reference images (MR2V): pinned keyframes of shot 0, behind what is stored already."""
        keyframes = tuple(keyframes)
        for keyframe in keyframes:
            if not keyframe.pinned or keyframe.shot != 0:
                value = f"shot {keyframe.shot}, pinned {keyframe.pinned}"
                raise InputError("keyframes", value, "not a reference", "Give pinned keyframes of shot 0")
        return self._store(keyframes, self.shots)

    def add_shot(self, keyframes: Iterable[Keyframe]) -> "MemoryBank":
        """Absorb the next shot: its keyframes (maybe none) carry shot number `shots` + 1, in frame order."""
        keyframes = tuple(keyframes)
        shot = self.shots + 1
        for keyframe in keyframes:
            if keyframe.shot != shot:
                problem = f"the bank has absorbed {self.shots} shots"
                raise InputError("shot", keyframe.shot, problem, f"Give keyframes of shot {shot}")
        return self._store(keyframes, shot)

    def _store(self, new: tuple[Keyframe, ...], shots: int) -> "MemoryBank":
        """Append `new`; over `limit`, drop the oldest stored keyframes neither pinned nor in the sink."""
        excess = max(0, len(self.keyframes) + len(new) - self.limit)
        needed = {*self.sink_keyframes, *(old for old in self.recallable if old.pinned)}
        droppable = [i for i, old in enumerate(self.keyframes) if old not in needed]
        if len(droppable) < excess:
            raise InputError(
                "limit",
                self.limit,
                f"no room for {len(new)} more: all stored keyframes but {len(droppable)} are pinned or sink",
                "Raise limit, lower sink or pin fewer keyframes",
            )
        dropped = set(droppable[:excess])
        kept = tuple(old for i, old in enumerate(self.keyframes) if i not in dropped)
        return replace(self, keyframes=kept + new, shots=shots)
