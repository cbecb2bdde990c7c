"""Finished shots on disk: whole or not there, and every damage is found."""

import json

import cv2
import numpy as np
import pytest

from storymem_core.bank import Keyframe, MemoryBank
from storymem_core.shot_files import ShotFileError, folder_name, load_shot, save_shot, shot_folder, shot_key


def bank(shots=1):
    picture = np.random.default_rng(shots).integers(0, 255, (16, 24, 3), np.uint8)
    keyframe = Keyframe(picture, shots, 4, np.array([1, 0], np.float32), "test")
    return MemoryBank((keyframe,), shots=shots)


def saved(folder, number=1, previous=None, replaced=0):
    frames = np.random.default_rng(number).integers(0, 255, (9, 16, 32, 3), np.uint8)
    memory = bank(number)
    recalled = [keyframe.id for keyframe in memory.keyframes]
    return save_shot(folder, number, frames, frames[-5:], 16, memory, recalled, replaced, previous), frames


def test_what_is_read_is_what_was_written(tmp_path):
    folder = shot_folder(tmp_path / "story", 1, "ab" * 16)
    written, frames = saved(folder)
    read = load_shot(folder, None)
    assert read == written and read.frames == 9 and read.number == 1
    assert np.array_equal(read.last_frames(), frames[-5:])
    assert [keyframe.id for keyframe in read.bank().keyframes] == list(read.recalled)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


def test_the_thumbnail_shows_the_middle_of_the_shot(tmp_path):
    frames = np.stack([np.full((500, 900, 3), (20 * i, 128, 255 - 20 * i), np.uint8) for i in range(9)])
    shot = save_shot(tmp_path / "shot", 1, frames, frames[-5:], 16, bank(), [], 0, None)
    picture = cv2.cvtColor(cv2.imread(str(shot.thumbnail)), cv2.COLOR_BGR2RGB)
    assert picture.shape == (178, 320, 3)
    assert np.abs(picture.astype(int) - frames[4, 0, 0]).max() < 6
    small, _ = saved(tmp_path / "small")
    assert cv2.imread(str(small.thumbnail)).shape == (16, 32, 3), "never larger than the shot"


def test_shots_know_the_story_before_them(tmp_path):
    first, _ = saved(tmp_path / "1")
    second, _ = saved(tmp_path / "2", 2, first, replaced=3)
    assert second.story() == (first, second)
    assert load_shot(tmp_path / "2", first) == second


@pytest.mark.parametrize(
    "name", ["video.mp4", "last_frames.safetensors", "bank.safetensors", "thumbnail.jpg", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "one byte"])
def test_every_damage_is_found(tmp_path, name, damage):
    folder = tmp_path / "shot"
    saved(folder)
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = content.index(b'"frames": 9') + 10 if name == "manifest.json" else len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(ShotFileError, match=name.replace(".", r"\.")):
        load_shot(folder, None)


@pytest.mark.parametrize("manifest", ["[]", "null", "{}", '{"version": 1}', '{"version": 2}', '{"version": 3}', "\x00"])
def test_strange_manifests_are_damage(tmp_path, manifest):
    folder = tmp_path / "shot"
    saved(folder)
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(ShotFileError):
        load_shot(folder, None)


def test_a_shot_made_anew_replaces_the_damaged_one(tmp_path):
    folder = tmp_path / "shot"
    saved(folder)
    (folder / "video.mp4").write_bytes(b"")
    saved(folder)
    assert load_shot(folder, None).frames == 9
    assert [path.name for path in tmp_path.iterdir()] == ["shot"]


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="ndim"):
        save_shot(tmp_path / "shot", 1, np.zeros((3, 16, 32), np.uint8), None, 16, bank(), [], 0, None)
    assert list(tmp_path.iterdir()) == []


def test_the_key_changes_with_everything_before_it():
    keys = {shot_key("", {"seed": seed, "prompt": prompt}) for seed in (1, 2) for prompt in ("a", "b")}
    keys |= {shot_key(key, {"seed": 1}) for key in keys}
    assert len(keys) == 8
    assert shot_key("", {"a": 1, "b": 2}) == shot_key("", json.loads('{"b": 2, "a": 1}'))


@pytest.mark.parametrize(
    "title, name",
    [
        ("The Lighthouse, part 2!", "The_Lighthouse_part_2"),
        ("../../etc/passwd", "etc_passwd"),
        ("C:\\story", "C_story"),
        ("", "story"),
        ("...", "story"),
        ("灯台", "灯台"),
        ("x" * 300, "x" * 80),
        ("a\0b\nc", "a_b_c"),
    ],
)
def test_a_title_makes_a_safe_folder(title, name):
    assert folder_name(title) == name
