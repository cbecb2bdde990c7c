"""Saved banks: lossless, atomic, and every damaged file is refused with one kind of error."""

import hashlib
import json
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from storymem_core.bank import Keyframe, MemoryBank
from storymem_core.errors import InputError
from storymem_core.storage import load_bank, resolve_inside, save_bank


def unit(rng, size):
    vector = rng.standard_normal(size).astype(np.float32)
    return vector / np.linalg.norm(vector)


def story():
    """A bank with everything that may differ between keyframes."""
    rng = np.random.default_rng(3)

    def image(height, width):
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)

    references = [
        Keyframe(image(20, 12), 0, 0, unit(rng, 512), "clip", label="Ann – 安娜 \u2603", pinned=True),
        Keyframe(image(5, 7), 0, 1, unit(rng, 84), "color-layout-1", 0.1, 'quote " \\ \n', pinned=True),
    ]
    shot = [
        Keyframe(image(16, 24), 2, 0, unit(rng, 84), "color-layout-1", 312.25),
        Keyframe(image(16, 24), 2, 40, unit(rng, 84), "color-layout-1", np.float32(0.3), excluded=True),
    ]
    bank = MemoryBank(capacity=7, sink=2, limit=9).add_references(references)
    return bank.add_shot([]).add_shot(shot).add_shot([])


def facts(bank):
    """All that a bank says, comparable with ==."""
    settings = (bank.capacity, bank.sink, bank.policy, bank.shots, bank.limit)
    return settings, [
        [k.id, k.image.shape, k.image.tobytes(), k.embedding.dtype, k.embedding.tobytes()]
        + [getattr(k, name) for name in ("shot", "frame", "embedder", "quality", "label", "pinned", "excluded")]
        for k in bank.keyframes
    ]


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "bank.safetensors"
    save_bank(story(), path)
    return path


def resave(path, tensors=None, **changes):
    """The file again with other tensors or header fields; a changed description gets a fitting checksum."""
    data = path.read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    old = load_file(path)
    tensors = old if tensors is None else tensors
    if callable(description := changes.get("bank")):
        record = json.loads(metadata["bank"])
        description(record)
        changes["bank"] = json.dumps(record)
    if "bank" in changes:
        embeddings = [old[f"embedding.{i}"].tobytes() for i in range(len(old) // 2)]
        content = changes["bank"].encode() + b"".join(embeddings)
        changes.setdefault("checksum", hashlib.sha256(content).hexdigest())
    save_file(tensors, path, metadata | changes)


def test_save_and_load_is_lossless(saved):
    loaded = load_bank(saved)
    assert facts(loaded) == facts(story())
    assert loaded.keyframes[0].quality is None
    assert loaded.recall() == loaded.keyframes[:3]
    assert not loaded.keyframes[0].image.flags.writeable


def test_empty_bank_and_new_folders(tmp_path):
    path = tmp_path / "a" / "b" / "empty.safetensors"
    save_bank(MemoryBank(shots=4), path)
    assert facts(load_bank(path)) == facts(MemoryBank(shots=4))


def test_resave_helper_alone_changes_nothing(saved):
    resave(saved, bank=lambda description: None)
    assert facts(load_bank(saved)) == facts(story())


def test_a_failed_save_leaves_the_old_file_and_no_litter(saved, monkeypatch):
    before = saved.read_bytes()

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save_bank(MemoryBank(), saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_the_file_is_replaced_after_it_is_complete_on_disk(saved, monkeypatch):
    steps = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        steps.append("sync")
        real_sync(descriptor)

    def swap(source, target):
        assert facts(load_bank(saved)) == facts(story()), "the old bank is readable until the swap"
        assert load_bank(source).shots == 9 and Path(source).parent == saved.parent
        steps.append("replace")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", swap)
    save_bank(MemoryBank(shots=9), saved)
    assert steps == ["sync", "replace"]
    assert load_bank(saved).shots == 9
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_others_may_read_the_file_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        save_bank(MemoryBank(), tmp_path / "bank.safetensors")
    finally:
        os.umask(old)
    assert (tmp_path / "bank.safetensors").stat().st_mode & 0o777 == 0o644


def refused(path, problem):
    with pytest.raises(InputError, match=problem) as caught:
        load_bank(path)
    assert caught.value.name == "bank_file"
    assert path.name in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path, "no such file")


def test_truncated_anywhere(saved):
    data = saved.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    rng = random.Random(1)
    cuts = {0, 1, 7, 8, 9, header - 1, header, header + 1, len(data) - 1}
    cuts |= {rng.randrange(header) for _ in range(60)} | {rng.randrange(header, len(data)) for _ in range(60)}
    for cut in cuts:
        saved.write_bytes(data[:cut])
        refused(saved, "not a readable")
    saved.write_bytes(data + b"\0")
    refused(saved, "not a readable")


def test_flipped_bits_are_found_or_harmless(saved):
    data = saved.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    rng = random.Random(2)
    places = list(range(16)) + rng.choices(range(header), k=1500) + rng.choices(range(header, len(data)), k=300)
    whole = facts(story())
    found = 0
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        saved.write_bytes(damaged)
        try:
            assert facts(load_bank(saved)) == whole
        except InputError as error:
            assert error.name == "bank_file"
            found += 1
    assert found > len(places) * 0.9


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04zip", b"\xff" * 64, bytes(64), b"{}", b"\x80\x04K\x01."])
def test_other_files(tmp_path, content):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    refused(path, "not a readable")


def test_safetensors_file_of_something_else(tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file({"weight": np.ones((2, 2), np.float32)}, path)
    refused(path, "something else")
    save_file({"weight": np.ones((2, 2), np.float32)}, path, {"format": "pt"})
    refused(path, "something else")


def test_newer_version_says_to_update(saved):
    resave(saved, format_version="3", bank="unknown to us")
    refused(saved, r"format version 3, this pack reads up to 2\. Update")


def test_a_file_of_version_1_has_nothing_excluded(saved):
    def as_version_1(description):
        for record in description["keyframes"]:
            del record["excluded"]

    resave(saved, format_version="1", bank=as_version_1)
    old = MemoryBank(
        tuple(replace(keyframe, excluded=False) for keyframe in story().keyframes),
        **{name: getattr(story(), name) for name in ("capacity", "sink", "shots", "limit")},
    )
    assert facts(old) != facts(story())
    assert facts(load_bank(saved)) == facts(old)


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_version_has_exactly_its_fields(saved, version):
    resave(saved, format_version=version, bank=lambda d: [r.pop("excluded") for r in d["keyframes"][version == "1" :]])
    refused(saved, "keyframe 0 needs exactly id, shot")


def drop(name):
    return lambda tensors: tensors.pop(name)


def swap(name, change):
    return lambda tensors: tensors.update({name: change(tensors[name])})


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (drop("image.1"), "do not match"),
        (drop("embedding.0"), "do not match"),
        (swap("image.1", lambda a: a.astype(np.int16)), "image.1 is I16"),
        (swap("image.1", lambda a: a[..., 0].copy()), "image.1 is U8"),
        (swap("embedding.0", lambda a: a.astype(np.float16)), "embedding.0 is F16"),
        (swap("embedding.0", lambda a: a[None]), "embedding.0 is F32"),
        (swap("embedding.0", lambda a: -a), "checksum"),
        (swap("image.1", lambda a: a ^ np.uint8(1)), "picture of keyframe 1"),
        (swap("image.1", lambda a: np.ascontiguousarray(a.reshape(7, 5, 3))), "picture of keyframe 1"),
    ],
)
def test_damaged_tensors(saved, damage, problem):
    tensors = load_file(saved)
    damage(tensors)
    resave(saved, tensors)
    refused(saved, problem)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.update(capacity=1), "capacity=1: smaller than sink=2"),
        (lambda d: d.update(capacity="7"), "capacity of the bank is '7'"),
        (lambda d: d.update(shots=True), "shots of the bank is True"),
        (lambda d: d.update(policy="oracle"), "policy='oracle'"),
        (lambda d: d.update(extra=1), "exactly"),
        (lambda d: d.pop("limit"), "exactly"),
        (lambda d: d["keyframes"].pop(), "do not match"),
        (lambda d: d["keyframes"].append(None), "exactly"),
        (lambda d: d["keyframes"][0].pop("pinned"), "exactly"),
        (lambda d: d["keyframes"][0].update(quality="good"), "quality of keyframe 0"),
        (lambda d: d["keyframes"][0].update(quality=float("nan")), "quality=nan"),
        (lambda d: d["keyframes"][3].update(shot=99), "shots=3"),
        (lambda d: d["keyframes"][0].update(id="0" * 16), "picture of keyframe 0"),
        (lambda d: d["keyframes"].reverse(), "picture of keyframe 0"),
    ],
)
def test_descriptions_that_do_not_fit(saved, change, problem):
    resave(saved, bank=change)
    refused(saved, problem)


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "3", "[" * 100_000, '{"keyframes": {}}'])
def test_descriptions_that_are_none(saved, text):
    resave(saved, bank=text)
    refused(saved, "not a readable")


# --- resolve_inside


@pytest.mark.parametrize(
    "name", ["bank.safetensors", "a/b/c.st", "a\\b\\c.st", "..bank", "bank..2", "安娜 ☃.st", "a/./b"]
)
def test_names_inside(tmp_path, name):
    path = resolve_inside(tmp_path, name)
    parts = [part for part in name.replace("\\", "/").split("/") if part != "."]
    assert path == Path(os.path.realpath(tmp_path)).joinpath(*parts)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/etc/passwd", "absolute"),
        ("\\etc\\passwd", "absolute"),
        ("\\\\server\\share\\bank", "absolute"),
        ("//server/share/bank", "absolute"),
        ("C:\\bank", "absolute"),
        ("c:bank", "absolute"),
        ("bank.st:stream", "absolute"),
        ("..", "leads out"),
        ("../bank", "leads out"),
        ("a/../../bank", "leads out"),
        ("a/../bank", "leads out"),
        ("a\\..\\..\\bank", "leads out"),
        (".. /bank", "leads out"),
        ("a/.../b", "leads out"),
        ("nul\0.st", "control"),
        ("line\nbreak", "control"),
        ("tab\t", "control"),
        ("delete\x7f", "control"),
        ("next line\x85", "control"),
        ("lone surrogate \ud800", "control"),
        ("", "empty"),
        (" ", "empty"),
        (".", "empty"),
        ("./", "empty"),
        ("a" * 256, "255 bytes"),
        ("ok/" + "安" * 86, "255 bytes"),
    ],
)
def test_names_outside(tmp_path, name, problem):
    with pytest.raises(InputError, match=problem) as caught:
        resolve_inside(tmp_path, name)
    assert caught.value.name == "bank_file"
    with pytest.raises(InputError, match=r"^filename_prefix="):
        resolve_inside(tmp_path, name, "filename_prefix")


def test_longest_names(tmp_path):
    save_bank(MemoryBank(), resolve_inside(tmp_path, "a" * 255))
    assert load_bank(resolve_inside(tmp_path, "a" * 255)).shots == 0
    assert resolve_inside(tmp_path, "安" * 85).name == "安" * 85


@pytest.mark.skipif(os.name != "posix", reason="making links needs rights on Windows")
def test_links(tmp_path):
    root, outside = tmp_path / "output", tmp_path / "outside"
    (root / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.st").touch()
    (root / "folder").symlink_to(outside)
    (root / "file.st").symlink_to(outside / "secret.st")
    (root / "dangling.st").symlink_to(outside / "not there yet.st")
    (root / "sibling").symlink_to(tmp_path / "output-2")
    (root / "inner").symlink_to(root / "real")
    (root / "loop").symlink_to(root / "loop")
    for name in ("folder/secret.st", "folder/new.st", "file.st", "dangling.st", "sibling/x.st"):
        with pytest.raises(InputError, match="link that leads out"):
            resolve_inside(root, name)
    assert resolve_inside(root, "inner/x.st") == Path(os.path.realpath(root)) / "real" / "x.st"
    refused(resolve_inside(root, "loop"), "no such file")
    # the root itself may be reached over a link
    (tmp_path / "alias").symlink_to(root)
    assert resolve_inside(tmp_path / "alias", "x.st") == Path(os.path.realpath(root)) / "x.st"
