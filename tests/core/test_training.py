"""Training samples: what may be remembered against a literal search, shares, seeds; clip folders; tensor files."""

import threading
from collections import Counter

import numpy as np
import pytest
import torch

from literal_keyframes import cosine, literal_keyframes
from storymem_core.clips import list_clips, read_frames
from storymem_core.errors import InputError
from storymem_core.film import write_video
from storymem_core.tensor_files import load_tensor, save_tensor, tensor_file
from storymem_core.training import NEAREST, EmbeddedClip, compose_samples, percent_of, share_out

LENGTH = 17
M2V = {"m2v": 1.0}


def random_clips(number=12, longest=65, seed=0, groups=1):
    """Clips whose embeddings wander through a few dimensions, so that some are alike and some are not."""
    random = np.random.default_rng(seed)
    clips = []
    for i in range(number):
        length = int(random.integers(LENGTH, longest + 1))
        frames = np.arange(0, length, 4)
        walk = random.normal(0, 1, 4) + np.cumsum(random.normal(0, 0.35, (len(frames), 4)), axis=0)
        walk /= np.linalg.norm(walk, axis=1, keepdims=True)
        clips.append(EmbeddedClip(f"{i}.mp4", f"group {i % groups}", length, frames, walk.astype(np.float32)))
    return clips


def literal_pool(clips, target, start, min_similarity):
    """Every (clip, frame) that the memory of a window may be drawn from, found by comparing all with all."""
    embedded = zip(clips[target].frames, clips[target].embeddings, strict=True)
    window = [embedding for frame, embedding in embedded if start <= frame < start + LENGTH]
    found = []
    for i, clip in enumerate(clips):
        if clip.group != clips[target].group:
            continue
        spans = [(0, start), (start + LENGTH, clip.length)] if i == target else [(0, clip.length)]
        for first, end in spans:
            part = [j for j, f in enumerate(clip.frames) if first <= f < end]
            kept, _ = literal_keyframes(clip.embeddings[part], lambda e: e, lambda _: True, 0.9, 3, [])
            for j in kept:
                embedding = clip.embeddings[part[j]]
                nearness = max(cosine(embedding, e) for e in window)
                if i == target or nearness >= min_similarity:
                    found.append((nearness, (i, int(clip.frames[part[j]]))))
    found.sort(key=lambda entry: -entry[0])
    return {place for _, place in found[:NEAREST]}


@pytest.mark.parametrize("min_similarity, groups", [(-1.0, 1), (0.8, 1), (-1.0, 3)])
def test_memory_is_drawn_from_the_literal_nearest(min_similarity, groups):
    clips = random_clips(groups=groups)
    samples = compose_samples(clips, LENGTH, 1500, M2V, 10, min_similarity, seed=1)
    drawn, pools = {}, {}
    for sample in samples:
        window = sample.clip, sample.start
        if window not in pools:
            pools[window], drawn[window] = literal_pool(clips, *window, min_similarity), set()
        assert set(sample.memory) <= pools[window]
        assert len(set(sample.memory)) == len(sample.memory)  # nothing twice
        drawn[window] |= set(sample.memory)
    # drawn often enough, every member of the pool is drawn
    often = [window for window, n in Counter((s.clip, s.start) for s in samples).items() if n >= 60]
    assert often and all(drawn[window] == pools[window] for window in often)
    assert any(len(pool) < NEAREST for pool in pools.values()) == (min_similarity > -1 or groups > 1)


def test_the_window_is_never_in_its_memory():
    clips = random_clips()
    samples = compose_samples(clips, LENGTH, 1000, M2V, 10, 0.0, seed=2)
    own = [(s, frame) for s in samples for clip, frame in s.memory if clip == s.clip]
    assert own  # other parts of the same clip are remembered
    assert not any(s.start <= frame < s.start + LENGTH for s, frame in own)
    assert all(s.start + LENGTH <= clips[s.clip].length for s in samples)


def test_sizes_clips_and_kinds_come_as_asked():
    clips = random_clips()
    shares = {"m2v": 2.0, "mi2v": 1.0, "mm2v": 0.5, "no_memory": 0.5}
    samples = compose_samples(clips, LENGTH, 1200, shares, 10, 0.0, seed=3)
    assert Counter(s.kind for s in samples) == {"m2v": 600, "mi2v": 300, "mm2v": 150, "no_memory": 150}
    assert set(Counter(s.clip for s in samples).values()) == {100}
    assert all((s.memory == ()) == (s.kind == "no_memory") for s in samples)
    sizes = Counter(len(s.memory) for s in samples if s.memory)
    assert sorted(sizes) == list(range(1, 11))
    assert all(abs(n - 105) < 5 * 105**0.5 for n in sizes.values())  # five deviations of a uniform draw
    assert {len(s.memory) for s in compose_samples(clips, LENGTH, 100, M2V, 1, 0.0, seed=3)} == {1}


def test_kinds_do_not_depend_on_the_clip():
    """Shares are shuffled over the clips: with as many samples as clips no kind sticks to the first ones."""
    clips = random_clips(number=40)
    first = [
        {s.clip for s in compose_samples(clips, LENGTH, 40, {"m2v": 1, "mi2v": 1}, 10, 0.0, seed) if s.kind == "m2v"}
        for seed in range(4)
    ]
    assert all(a != b for i, a in enumerate(first) for b in first[:i])


def test_the_seed_decides():
    clips = random_clips()
    one, same, other = (compose_samples(clips, LENGTH, 50, M2V, 10, 0.0, seed) for seed in (5, 5, 6))
    assert one == same != other
    assert compose_samples(clips, LENGTH, 3, M2V, 10, 0.0, 2**64 - 1)  # the largest seed of the host


@pytest.mark.parametrize(
    "shares, count, expected",
    [
        ({"a": 1, "b": 1}, 10, {"a": 5, "b": 5}),
        ({"a": 0.5, "b": 0.5}, 3, {"a": 2, "b": 1}),
        ({"a": 0.7, "b": 0.2, "c": 0.1}, 10, {"a": 7, "b": 2, "c": 1}),
        ({"a": 1, "b": 0}, 7, {"a": 7, "b": 0}),
        ({"a": 1, "b": 1, "c": 1}, 2, {"a": 1, "b": 1, "c": 0}),
        ({"a": 0.05, "b": 1}, 1, {"a": 0, "b": 1}),
    ],
)
def test_shares(shares, count, expected):
    assert share_out(shares, count) == expected


@pytest.mark.parametrize("share", [-0.1, float("nan"), float("inf")])
def test_a_share_is_a_number(share):
    with pytest.raises(InputError, match="share_m2v"):
        share_out({"m2v": share, "mi2v": 1.0}, 10)


def test_nothing_to_compose():
    clips = random_clips()
    with pytest.raises(InputError, match="all of them are 0"):
        compose_samples(clips, LENGTH, 4, {"m2v": 0.0, "mi2v": 0.0}, 10, 0.0, 0)
    with pytest.raises(InputError, match="max_memory"):
        compose_samples(clips, LENGTH, 4, M2V, 0, 0.0, 0)
    alone = [EmbeddedClip("alone.mp4", "", LENGTH, np.arange(0, LENGTH, 4), clips[0].embeddings[:5])]
    with pytest.raises(InputError, match=r"nothing to remember for alone\.mp4 from frame 0\. "):
        compose_samples(alone, LENGTH, 1, M2V, 10, 0.0, 0)
    far = [*alone, EmbeddedClip("far.mp4", "", LENGTH, np.arange(0, LENGTH, 4), -clips[0].embeddings[:5])]
    with pytest.raises(InputError, match=r"min_similarity=0.6: .*the nearest keyframe has -0\."):
        compose_samples(far, LENGTH, 1, M2V, 10, 0.6, 0)


@pytest.mark.parametrize("shift", [1.0, 4.0, 8.0])
def test_percent_of_a_noise_level(shift):
    for percent in (0.1, 0.5, 0.9):
        t = 1 - percent
        sigma = shift * t / (1 + (shift - 1) * t)
        assert percent_of(sigma, shift) == pytest.approx(percent, abs=1e-12)


@pytest.fixture
def folder(tmp_path):
    """Two clips that get brighter by 10 with every frame."""
    for name, count in (("b", 20), ("a", 17)):
        write_video(tmp_path / f"{name}.mp4", [np.full((48, 64, 3), 10 * i, np.uint8) for i in range(count)], 16)
        (tmp_path / f"{name}.txt").write_text(f" clip {name}\n")
    (tmp_path / "notes.md").write_text("not a clip")
    return tmp_path


def test_a_folder_of_clips(folder):
    a, b = list_clips(folder, LENGTH)
    assert [(c.name, c.group, c.caption, c.frames, c.fps) for c in (a, b)] == [
        ("a.mp4", ".", "clip a", 17, 16.0),
        ("b.mp4", ".", "clip b", 20, 16.0),
    ]
    frames = read_frames(b, [19, 0, 7])
    assert sorted(frames) == [0, 7, 19]
    assert all(abs(frame.mean() - 10 * number) < 3 for number, frame in frames.items())


def test_sub_folders_are_groups(folder):
    (folder / "town" / "night").mkdir(parents=True)
    for suffix in ("mp4", "txt"):
        (folder / f"b.{suffix}").rename(folder / "town" / "night" / f"b.{suffix}")
    assert [(clip.name, clip.group) for clip in list_clips(folder, LENGTH)] == [
        ("a.mp4", "."),
        ("town/night/b.mp4", "town/night"),
    ]


def faulty(folder, fault):
    clip = folder / "b.mp4"
    match fault:
        case "no folder":
            return folder / "nowhere"
        case "empty":
            for path in folder.iterdir():
                path.unlink()
        case "no caption":
            (folder / "b.txt").unlink()
        case "empty caption":
            (folder / "b.txt").write_text(" \n")
        case "caption in another encoding":
            (folder / "b.txt").write_bytes("Mädchen".encode("latin-1"))
        case "not a video":
            clip.write_bytes(b"no video")
        case "no picture in it":
            clip.write_bytes(b"")
        case "link":
            (folder / "inside").mkdir()
            (folder / "inside" / "c.mp4").symlink_to(clip)
            (folder / "inside" / "c.txt").symlink_to(folder / "b.txt")
            return folder / "inside"
        case "caption is a link":
            (folder / "inside").mkdir()
            clip.rename(folder / "inside" / "b.mp4")
            (folder / "inside" / "b.txt").symlink_to(folder / "b.txt")
            return folder / "inside"
        case "twice":
            (folder / "c.mp4").write_bytes(clip.read_bytes())
            (folder / "c.txt").write_text("again")
    return folder


@pytest.mark.parametrize(
    "fault, message",
    [
        ("no folder", "folder='nowhere': there is no such folder. Put it into ComfyUI's input folder"),
        ("empty", "has no clips. Put clips (.mp4, "),
        ("no caption", "folder='b.mp4': the clip has no caption. Write what it shows into b.txt"),
        ("empty caption", "folder='b.txt': the caption is empty"),
        ("caption in another encoding", "folder='b.txt': not a text in UTF-8"),
        ("not a video", "folder='b.mp4': cannot be read as a video"),
        ("no picture in it", "folder='b.mp4': cannot be read as a video"),
        ("link", "folder='c.mp4': a link that leads out of the folder"),
        ("caption is a link", "folder='b.txt': a link that leads out of the folder"),
        ("twice", "folder='c.mp4': is the same file as b.mp4. Remove one of the two"),
    ],
)
def test_faulty_folders(folder, fault, message):
    with pytest.raises(InputError) as raised:
        list_clips(faulty(folder, fault), LENGTH)
    assert message in str(raised.value)


def test_a_clip_that_is_too_short(folder):
    with pytest.raises(InputError, match=r"length=21: a\.mp4 has only 17 frames"):
        list_clips(folder, 21)


def test_tensor_files(tmp_path):
    tensor = torch.randn(1, 16, 5, 4, 6)
    path = tensor_file(tmp_path / "cache", {"clip": "x", "start": 3})
    save_tensor(path, tensor[:, :, ::2])
    assert torch.equal(load_tensor(path), tensor[:, :, ::2])
    assert path == tensor_file(tmp_path / "cache", {"start": 3, "clip": "x"})
    assert path != tensor_file(tmp_path / "cache", {"start": 4, "clip": "x"})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"a damaged file\. Delete it"):
        load_tensor(path)


def test_a_tensor_file_is_whole_at_any_time(tmp_path):
    path, stop = tensor_file(tmp_path, {}), threading.Event()
    save_tensor(path, torch.zeros(1000, 100))
    seen = []

    def read():
        while not stop.is_set():
            seen.append(load_tensor(path).unique().tolist())

    reader = threading.Thread(target=read)
    reader.start()
    for value in range(1, 30):
        save_tensor(path, torch.full((1000, 100), float(value)))
    stop.set()
    reader.join()
    assert seen and all(len(values) == 1 for values in seen)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no parts left behind
