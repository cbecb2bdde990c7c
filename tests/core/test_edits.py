"""Edits of a bank by hand against a literal reading of what the text says."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from storymem_core.bank import Keyframe, MemoryBank
from storymem_core.edits import Edits, read_edits
from storymem_core.errors import InputError
from storymem_core.storage import load_bank, save_bank


def make(number, **facts):
    image = np.full((2, 3, 3), number, np.uint8)
    return Keyframe(image, 1, number, np.array([0.6, 0.8], np.float32), "test", **facts)


def memory(count, **settings):
    return MemoryBank(tuple(make(n) for n in range(count)), shots=1, **settings)


def apply(bank, **parts):
    return read_edits(json.dumps(parts)).apply(bank)


def numbers(keyframes):
    return [keyframe.frame for keyframe in keyframes]


def facts(bank):
    return [(k.id, k.shot, k.frame, k.quality, k.embedder, k.label, k.pinned, k.excluded) for k in bank.keyframes]


def literal_order(stored, order):
    """Walk over the places: where a listed id stood, the next listed id that is stored comes."""
    queue = [name for name in order if name in stored]
    result = []
    for name in stored:
        result.append(queue.pop(0) if name in order else name)
    return result


def test_listed_ids_share_their_places_in_the_listed_order():
    rng = random.Random(4)
    elsewhere = [make(n).id for n in range(200, 205)]
    for _ in range(200):
        bank = memory(rng.randint(0, 12))
        stored = [keyframe.id for keyframe in bank.keyframes]
        order = rng.sample(stored + elsewhere, rng.randint(0, len(stored) + 5))
        edits = read_edits(json.dumps({"order": order}))
        edited = edits.apply(bank)
        assert [keyframe.id for keyframe in edited.keyframes] == literal_order(stored, order)
        assert [bank.keyframes[place] for place in edits.places(bank.keyframes)] == list(edited.keyframes)


def test_order_of_some():
    ids = [keyframe.id for keyframe in memory(6).keyframes]
    assert numbers(apply(memory(6), order=[ids[4], ids[0], ids[2]]).keyframes) == [4, 1, 0, 3, 2, 5]


def test_a_picture_stored_twice_moves_as_one():
    a, b = make(1), make(2)
    bank = MemoryBank((a, b, replace(a, frame=9)), shots=1)
    assert numbers(apply(bank, order=[b.id, a.id]).keyframes) == [2, 1, 9]
    assert [k.pinned for k in apply(bank, keyframes={a.id: {"pinned": True}}).keyframes] == [True, False, True]


def test_order_says_which_are_the_sink_and_which_the_most_recent():
    bank = memory(8, capacity=4, sink=2)
    assert numbers(bank.recall()) == [0, 1, 6, 7]
    ids = [keyframe.id for keyframe in bank.keyframes]
    assert numbers(apply(bank, order=ids[::-1]).recall()) == [7, 6, 1, 0]
    assert numbers(apply(bank, order=[ids[3], ids[7], ids[0]]).recall()) == [3, 1, 6, 0]


def test_flags_and_labels_change_recall_and_nothing_else():
    bank = memory(8, capacity=4, sink=1)
    ids = [keyframe.id for keyframe in bank.keyframes]
    assert numbers(bank.recall()) == [0, 5, 6, 7]
    changes = {
        ids[0]: {"excluded": True, "pinned": True},
        ids[2]: {"pinned": True, "label": "Mara"},
        ids[6]: {"excluded": True},
    }
    edited = apply(bank, keyframes=changes)
    assert numbers(edited.recall()) == [1, 2, 5, 7]
    expected = []
    for name, *rest, label, pinned, excluded in facts(bank):
        change = changes.get(name, {})
        flags = change.get("label", label), change.get("pinned", pinned), change.get("excluded", excluded)
        expected.append((name, *rest, *flags))
    assert facts(edited) == expected
    back = {name: {"pinned": False, "excluded": False, "label": ""} for name in changes}
    assert facts(apply(edited, keyframes=back)) == facts(bank)


def test_the_bank_stays_as_it_was():
    bank = memory(3)
    before = facts(bank)
    ids = [keyframe.id for keyframe in bank.keyframes]
    edited = apply(bank, keyframes={ids[0]: {"label": "Mara"}}, order=ids[::-1])
    assert facts(bank) == before != facts(edited)
    assert edited.keyframes[0] is bank.keyframes[2], "what was not changed is the same keyframe"
    settings = ("capacity", "sink", "policy", "shots", "limit")
    assert all(getattr(edited, name) == getattr(bank, name) for name in settings)


def test_edits_of_other_keyframes_wait():
    bank, absent = memory(3), make(7).id
    edits = read_edits(json.dumps({"keyframes": {absent: {"pinned": True}}, "order": [absent, bank.keyframes[0].id]}))
    assert facts(edits.apply(bank)) == facts(bank)
    later = edits.apply(MemoryBank((*bank.keyframes, make(7)), shots=1))
    assert [(k.frame, k.pinned) for k in later.keyframes] == [(7, True), (1, False), (2, False), (0, False)]


@pytest.mark.parametrize("text", ["", " \n", "{}", '{"keyframes": {}, "order": []}'])
def test_no_edits(text):
    bank = memory(3)
    assert facts(read_edits(text).apply(bank)) == facts(bank)
    assert read_edits(text) == Edits()


@pytest.mark.parametrize("label", ["<img src=x onerror=alert(1)>", "x" * 2000, "Mära\n安娜 ☃", ""])
def test_any_label_is_kept_as_text(label, tmp_path):
    bank = memory(2)
    edited = apply(bank, keyframes={bank.keyframes[1].id: {"label": label, "excluded": True}})
    save_bank(edited, tmp_path / "bank.safetensors")
    assert facts(load_bank(tmp_path / "bank.safetensors")) == facts(edited)
    assert edited.keyframes[1].label == label and edited.keyframes[1].excluded


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "the whole is no object of keyframes, order"),
        ("null", "the whole is no object"),
        ('{"pins": {}}', "the whole is no object"),
        ('{"keyframes": []}', "keyframes of the whole is no dict"),
        ('{"order": {}}', "order of the whole is no list"),
        ('{"order": [1]}', "no list of keyframe ids"),
        ('{"order": ["a", "a"]}', "twice"),
        ('{"keyframes": {"a": null}}', "keyframe a is no object of pinned, excluded, label"),
        ('{"keyframes": {"a": {"image": "x"}}}', "keyframe a is no object"),
        ('{"keyframes": {"a": {"pinned": 1}}}', "pinned of keyframe a is no bool"),
        ('{"keyframes": {"a": {"excluded": "no"}}}', "excluded of keyframe a is no bool"),
        ('{"keyframes": {"a": {"label": null}}}', "label of keyframe a is no str"),
    ],
)
def test_other_texts_are_refused(text, problem):
    with pytest.raises(InputError, match=f"^edits=.*{problem}.*Reset the edits") as caught:
        read_edits(text)
    assert caught.value.name == "edits"
    assert len(str(caught.value)) < 400
