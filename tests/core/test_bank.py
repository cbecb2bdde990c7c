"""MemoryBank and recall against a literal, list-based reading of the rule."""

import random
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from storymem_core.bank import Keyframe, MemoryBank, read_labels
from storymem_core.errors import InputError


def make(number, shot=1, pinned=False, excluded=False, label=""):
    """A keyframe whose picture says its number, so that no two are alike."""
    image = np.full((2, 3, 3), number % 256, np.uint8)
    image[0, 0] = number // 256
    embedding = np.array([0.6, 0.8], np.float32)
    return Keyframe(image, shot, number, embedding, "test", label=label, pinned=pinned, excluded=excluded)


def numbers(keyframes):
    return [keyframe.frame for keyframe in keyframes]


def exclude(bank, *excluded):
    return replace(bank, keyframes=[replace(k, excluded=k.frame in excluded) for k in bank.keyframes])


def literal_recall(stored, pinned, capacity, sink, excluded=()):
    """The rule word by word: stored numbers in order, the sets of pinned and excluded ones -> recalled numbers."""
    stored = [number for number in stored if number not in excluded]
    room = []
    for number in stored:
        if number in pinned:
            room.append(number)
    position = 0
    while position < sink and position < len(stored):
        if stored[position] not in room and len(room) < capacity:
            room.append(stored[position])
        position += 1
    position = len(stored) - 1
    while position >= 0 and len(room) < capacity:
        if stored[position] not in room:
            room.append(stored[position])
        position -= 1
    return [number for number in stored if number in room]


def random_bank(rng):
    """A bank grown by random shots and references, with what it should hold kept in plain lists."""
    capacity = rng.randint(1, 12)
    bank = MemoryBank(capacity=capacity, sink=rng.randint(0, capacity), limit=rng.choice([256, 30]))
    stored, pinned = [], set()
    for _ in range(rng.randint(0, 12)):
        count = rng.randint(0, 3)
        first = len(stored)
        fresh = list(range(first, first + count))
        if rng.random() < 0.2 and len(pinned) + count <= capacity:
            bank = bank.add_references(make(n, 0, pinned=True) for n in fresh)
            pinned.update(fresh)
        else:
            bank = bank.add_shot(make(n, bank.shots + 1) for n in fresh)
        stored += fresh
        if len(stored) > 27:
            break
    return bank, stored, pinned


def test_recall_equals_the_literal_rule():
    rng = random.Random(5)
    overlapping = full = 0
    for _ in range(600):
        bank, stored, pinned = random_bank(rng)
        assert numbers(bank.keyframes) == stored
        assert numbers(bank.recall()) == literal_recall(stored, pinned, bank.capacity, bank.sink)
        capacity = rng.randint(max(1, len(pinned)), 14)
        sink = rng.randint(0, capacity)
        recalled = bank.recall(capacity=capacity, sink=sink)
        assert numbers(recalled) == literal_recall(stored, pinned, capacity, sink)
        assert recalled == bank.recall(capacity=capacity, sink=sink)
        overlapping += bool(pinned & set(stored[:sink]))
        full += len(stored) > capacity
    # the cases that tell the rules apart must have come up
    assert overlapping > 50
    assert full > 200


def test_an_excluded_keyframe_is_as_good_as_not_stored():
    rng = random.Random(6)
    of_pinned = of_sink = 0
    for _ in range(300):
        bank, stored, pinned = random_bank(rng)
        excluded = {number for number in stored if rng.random() < 0.3}
        bank = exclude(bank, *excluded)
        expected = literal_recall(stored, pinned, bank.capacity, bank.sink, excluded)
        assert numbers(bank.recall()) == expected
        assert numbers(bank.sink_keyframes) == [number for number in stored if number not in excluded][: bank.sink]
        assert numbers(bank.keyframes) == stored, "it stays in the bank"
        of_pinned += bool(pinned & excluded)
        of_sink += bool(excluded & set(stored[: bank.sink]))
    assert of_pinned > 50 and of_sink > 50


def test_an_excluded_reference_needs_no_capacity():
    references = [make(n, 0, pinned=True, excluded=n < 2) for n in range(4)]
    bank = MemoryBank(capacity=2, sink=0).add_references(references)
    assert numbers(bank.recall()) == [2, 3]


def test_sink_then_most_recent():
    bank = MemoryBank(capacity=5, sink=2)
    for shot in range(1, 5):
        bank = bank.add_shot([make(10 * shot + i, shot) for i in range(2)])
    assert numbers(bank.recall()) == [10, 11, 31, 40, 41]
    assert numbers(bank.recall(sink=0)) == [21, 30, 31, 40, 41]
    assert numbers(bank.recall(capacity=2)) == [10, 11]
    assert numbers(bank.recall(capacity=100)) == numbers(bank.keyframes)
    assert numbers(bank.with_settings(3, 1, "sliding_window").recall()) == [10, 40, 41]


def literal_same_labels(stored, pinned, capacity, sink, labels):
    """The rule word by word. stored: pairs of a number and the list of its labels; labels: a list."""
    chosen = []
    for label in labels:
        best, those = -1.0, []
        for number, own in stored:
            if label in own:
                both = sum(each in own for each in labels)
                likeness = both / (len(own) + len(labels) - both)
                if likeness > best:
                    best, those = likeness, []
                if likeness == best:
                    those.append(number)
        chosen += those
    everything = [number for number, _ in stored]
    if not chosen:
        return literal_recall(everything, pinned, capacity, sink)
    for number, own in stored:
        if number in pinned and all(label in labels for label in own):
            chosen.append(number)
    return literal_recall([n for n in everything if n in chosen], pinned, capacity, sink)


def test_same_labels_equals_the_literal_rule():
    rng, names = random.Random(8), ["mara", "jon", "ada", "the pier"]
    left_out = unknown = 0
    for _ in range(600):
        bank, stored, pinned = random_bank(rng)
        own = {number: rng.sample(names, rng.randint(0, 3)) for number in stored}
        keyframes = [replace(keyframe, label=", ".join(own[keyframe.frame])) for keyframe in bank.keyframes]
        bank = replace(bank, keyframes=keyframes, policy="same_labels")
        labels = rng.sample([*names, "somebody new"], rng.randint(0, 3))
        expected = literal_same_labels([(n, own[n]) for n in stored], pinned, bank.capacity, bank.sink, labels)
        assert numbers(bank.recall(labels=frozenset(labels))) == expected
        everything = literal_recall(stored, pinned, bank.capacity, bank.sink)
        assert numbers(bank.recall(policy="sliding_window", labels=frozenset(labels))) == everything
        left_out += expected != everything
        unknown += bool(labels) and not any(label in own[n] for label in labels for n in stored)
    assert left_out > 200 and unknown > 30


def test_only_pictures_of_the_same_can_be_repeated():
    """Against the rule word by word: each name of the shot is among the picture's, or nobody named the picture's."""
    labels = ("Mara, pier", "Jon, pier", "Mara, Jon, pier", "Mara, kitchen", "", "PIER")
    bank = MemoryBank().add_shot([make(n, label=label) for n, label in enumerate(labels)])
    for shot in ("Mara, pier", "jon", "Jon, kitchen", "Ada", "pier", ""):
        wanted = [name.strip().lower() for name in shot.split(",") if name]
        expected = []
        for n, label in enumerate(labels):
            own = [name.strip().lower() for name in label.split(",") if name]
            if not own or all(name in own for name in wanted):
                expected.append(n)
        assert numbers(bank.repeated_by(read_labels(shot))) == expected
    assert numbers(bank.repeated_by(read_labels("Ada"))) == [4], "her first picture repeats none of the others'"


def test_same_labels_recalls_who_is_in_the_shot():
    bank = MemoryBank(policy="same_labels").add_shot(
        [
            make(1, label="Mara, pier"),
            make(2, label="Jon, pier"),
            make(3, label="Mara, Jon, pier"),
            make(4, label="Mara, kitchen"),
            make(5),
        ]
    )
    assert numbers(bank.recall(labels=read_labels("Mara, pier"))) == [1]
    assert numbers(bank.recall(labels=read_labels("JON,\nkitchen "))) == [2, 4], "nobody has seen him there"
    assert numbers(bank.recall(labels=read_labels("Mara, Jon"))) == [3]
    assert numbers(bank.recall(labels=read_labels("Ada"))) == [1, 2, 3, 4, 5], "of her nothing is known"
    assert numbers(bank.recall()) == [1, 2, 3, 4, 5]
    assert numbers(exclude(bank, 1).recall(labels=read_labels("Mara, pier"))) == [3]


def test_references_of_others_need_no_capacity():
    cast = [make(n, 0, pinned=True, label=name) for n, name in enumerate(("Mara", "Jon", "Ada", "", "Ada, Mara"))]
    bank = MemoryBank(capacity=3, sink=0, policy="same_labels").add_references(cast)
    bank = bank.add_shot([make(10, label="Jon"), make(11, label="Mara")])
    assert numbers(bank.recall(labels=read_labels("Mara"))) == [0, 3, 11]
    assert numbers(bank.recall(capacity=4, labels=read_labels("Ada, Mara"))) == [0, 2, 3, 4]
    with pytest.raises(InputError, match="5 keyframes are pinned"):
        bank.recall()
    assert numbers(bank.preview()) == [0, 1, 2, 3, 4], "all may be needed"
    assert numbers(bank.with_settings(6, 0, "same_labels").preview()) == [0, 1, 2, 3, 4, 11]
    with pytest.raises(InputError, match="5 keyframes are pinned"):
        bank.with_settings(3, 0, "sliding_window").preview()


def test_references_are_recalled_before_the_sink():
    bank = MemoryBank(capacity=3, sink=3).add_shot([make(n) for n in range(4)])
    bank = bank.add_references([make(100, 0, pinned=True), make(101, 0, pinned=True)])
    assert numbers(bank.recall()) == [0, 100, 101]


def test_a_reference_takes_a_sink_place_when_it_came_first():
    bank = MemoryBank(capacity=4, sink=2).add_references([make(100, 0, pinned=True)])
    bank = bank.add_shot([make(n) for n in range(5)])
    assert numbers(bank.recall()) == [100, 0, 3, 4]


def test_every_operation_leaves_the_bank_as_it_was():
    old = MemoryBank(capacity=4, sink=1).add_shot([make(0)])
    before = (old.keyframes, old.capacity, old.sink, old.policy, old.shots, old.limit)
    added = old.add_shot([make(1, 2)])
    others = [added, old.add_references([make(2, 0, pinned=True)]), old.with_settings(7, 2, "sliding_window")]
    old.recall(capacity=1, sink=0)
    assert before == (old.keyframes, old.capacity, old.sink, old.policy, old.shots, old.limit)
    assert all(other != old for other in others)
    assert added.recall(capacity=1) == added.keyframes[:1]
    assert numbers(added.keyframes) == [0, 1]
    with pytest.raises(FrozenInstanceError):
        old.capacity = 5
    with pytest.raises(FrozenInstanceError):
        old.keyframes[0].label = "Ann"


def test_arrays_are_read_only_copies():
    image, embedding = np.zeros((4, 4, 3), np.uint8), np.array([1, 0], np.float32)
    keyframe = Keyframe(image, 1, 0, embedding, "test")
    image[:], embedding[:] = 9, 9
    assert keyframe.image.max() == 0
    assert keyframe.embedding.tolist() == [1, 0]
    with pytest.raises(ValueError):
        keyframe.image[0, 0] = 1
    with pytest.raises(ValueError):
        keyframe.embedding[0] = 0


def test_id_is_of_the_picture_alone():
    first = make(7)
    assert first.id == make(7, shot=3).id == replace(first, label="Ann", quality=2.0).id
    assert len(first.id) == 16 and int(first.id, 16) >= 0
    turned = replace(first, image=first.image.reshape(3, 2, 3))
    other = replace(first, image=first.image ^ np.uint8(1))
    assert len({first.id, turned.id, other.id}) == 3


def test_a_shot_without_keyframes_counts():
    bank = MemoryBank().add_shot([]).add_shot([])
    assert bank.shots == 2
    assert bank.keyframes == () and bank.recall() == ()
    assert bank.add_shot([make(0, 3)]).shots == 3
    assert bank.add_references([make(1, 0, pinned=True)]).shots == 2


def test_limit_drops_the_oldest_outside_sink_and_references():
    bank = MemoryBank(capacity=4, sink=2, limit=6)
    bank = bank.add_shot([make(n) for n in range(3)]).add_references([make(50, 0, pinned=True)])
    bank = bank.add_shot([make(n, 2) for n in (10, 11)])
    bank = bank.add_shot([make(20, 3)])
    assert numbers(bank.keyframes) == [0, 1, 50, 10, 11, 20]
    bank = bank.add_shot([make(n, 4) for n in (30, 31)])
    assert numbers(bank.keyframes) == [0, 1, 50, 20, 30, 31]
    bank = bank.add_references([make(51, 0, pinned=True)])
    assert numbers(bank.keyframes) == [0, 1, 50, 30, 31, 51]
    assert not {0, 50} & set(numbers(exclude(bank, 0, 50).add_shot([make(60, 5), make(61, 5)]).keyframes))
    with pytest.raises(InputError, match="limit=6"):
        bank.add_shot([make(n, 5) for n in (40, 41, 42)])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"capacity": 0}, "capacity=0"),
        ({"capacity": 2, "sink": 3}, "capacity=2: smaller than sink=3"),
        ({"sink": -1}, "sink=-1"),
        ({"policy": "oracle"}, "policy='oracle'"),
    ],
)
def test_contradicting_settings_are_refused(settings, named):
    with pytest.raises(InputError, match=named):
        MemoryBank(**settings)
    with pytest.raises(InputError, match=named):
        MemoryBank().recall(**settings)
    whole = {"capacity": 10, "sink": 3, "policy": "sliding_window"} | settings
    with pytest.raises(InputError, match=named):
        MemoryBank().with_settings(**whole)


def test_more_references_than_capacity():
    bank = MemoryBank(capacity=3).add_references(make(n, 0, pinned=True) for n in range(4))
    with pytest.raises(InputError, match=r"capacity=3: 4 keyframes are pinned.*Raise capacity to 4"):
        bank.recall()
    assert numbers(bank.recall(capacity=4)) == [0, 1, 2, 3]


def test_keyframes_in_the_wrong_place_are_refused():
    with pytest.raises(InputError, match=r"shot=2.*shot 1"):
        MemoryBank().add_shot([make(0, 2)])
    with pytest.raises(InputError, match="not a reference"):
        MemoryBank().add_references([make(0, 0)])
    with pytest.raises(InputError, match="not a reference"):
        MemoryBank().add_references([make(0, 1, pinned=True)])
    with pytest.raises(InputError, match="shots=1"):
        MemoryBank((make(0, 2),), shots=1)
    with pytest.raises(InputError, match="limit=1"):
        MemoryBank((make(0), make(1)), shots=1, limit=1)
    with pytest.raises(InputError, match="limit=0"):
        MemoryBank(limit=0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image": np.zeros((4, 4, 3), np.float32)}, "image"),
        ({"image": np.zeros((4, 4, 4), np.uint8)}, "image"),
        ({"image": np.zeros((4, 4), np.uint8)}, "image"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, "image"),
        ({"embedding": np.array([1, 1], np.float32)}, "embedding"),
        ({"embedding": np.array([np.nan, 1], np.float32)}, "embedding"),
        ({"embedding": np.array([np.inf, 1], np.float32)}, "embedding"),
        ({"embedding": np.array([1.0, 0])}, "embedding"),
        ({"embedding": np.array([[1]], np.float32)}, "embedding"),
        ({"shot": -1}, "shot"),
        ({"frame": -1}, "frame"),
        ({"quality": float("nan")}, "quality"),
    ],
)
def test_what_is_no_keyframe_is_refused(change, named):
    with pytest.raises(InputError, match=f"^{named}="):
        replace(make(0), **change)
