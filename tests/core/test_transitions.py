"""How shots begin and join (invariant 7), counted frame by frame, and colour matching on real footage."""

import itertools

import cv2
import numpy as np
import pytest
import torch

from storymem_core.errors import InputError
from storymem_core.transitions import OVERLAP, Transition, join_shots
from tests.core.footage import read_footage

KINDS = list(OVERLAP)


def shot(count, start=0, size=(4, 6)):
    """Frames that each hold their own number: frame i is (start + i) / 100 everywhere."""
    values = torch.arange(start, start + count) / 100
    return values.view(-1, 1, 1, 1).expand(-1, *size, 3).clone()


def numbers(images):
    assert (images == images[:, :1, :1, :1]).all()
    return [round(value * 100, 3) for value in images[:, 0, 0, 0].tolist()]


def test_overlaps():
    assert OVERLAP == {"cut": 0, "first_frame": 1, "motion_frames": 5}
    assert [Transition.after(kind, shot(9)).overlap for kind in KINDS] == [0, 1, 5]


def test_a_transition_takes_the_last_frames():
    previous = shot(9)
    assert numbers(Transition.after("first_frame", previous).frames) == [8]
    motion = Transition.after("motion_frames", previous)
    assert numbers(motion.frames) == [4, 5, 6, 7, 8]
    assert Transition.after("cut", previous).frames is None
    assert Transition.after("cut", None).frames is None
    assert numbers(Transition.after("motion_frames", shot(5)).frames) == [0, 1, 2, 3, 4]
    previous.zero_()
    assert numbers(motion.frames) == [4, 5, 6, 7, 8], "the transition has its own copy"
    assert motion.frames.untyped_storage().nbytes() == 5 * 4 * 6 * 3 * 4, "and of these frames only"


@pytest.mark.parametrize("kind", ["first_frame", "motion_frames"])
def test_a_continuation_needs_frames(kind):
    with pytest.raises(InputError, match=r"^previous_images=None: .*Connect"):
        Transition.after(kind, None)
    with pytest.raises(InputError, match=f"^previous_images='{OVERLAP[kind] - 1} frames': .*Connect"):
        Transition.after(kind, shot(OVERLAP[kind] - 1))
    for bad in (float("nan"), float("inf"), -float("inf")):
        previous = shot(9)
        previous[-1, 1, 2, 0] = bad
        with pytest.raises(InputError, match=r"^previous_images=.*NaN"):
            Transition.after(kind, previous)
    for images in (shot(9)[..., :1], shot(9)[0], (shot(9) * 100).byte()):
        with pytest.raises(InputError, match=r"^previous_images=.*"):
            Transition.after(kind, images)


def test_unknown_kind():
    with pytest.raises(InputError, match=r"^kind='dissolve': .*cut, first_frame, motion_frames"):
        Transition.after("dissolve", shot(9))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [6, 9, 81])
def test_join_drops_the_repeated_frames_and_no_other(kind, count):
    previous = shot(9)
    overlap = OVERLAP[kind]
    images = shot(count, start=9 - overlap)
    joined = join_shots(previous, images, Transition.after(kind, previous))
    assert numbers(joined) == list(range(9 + count - overlap))
    assert numbers(previous) == list(range(9)) and numbers(images)[0] == 9 - overlap


def test_a_story_of_joined_shots_counts_up():
    story = shot(81, size=(1, 1))
    for kind in ("motion_frames", "cut", "first_frame", "motion_frames"):
        overlap = OVERLAP[kind]
        new = shot(81, start=len(story) - overlap, size=(1, 1))
        story = join_shots(story, new, Transition.after(kind, story))
    assert len(story) == 5 * 81 - 5 - 0 - 1 - 5
    torch.testing.assert_close(story, shot(len(story), size=(1, 1)))


@pytest.mark.parametrize("fade", [1, 2, 4, 8])
def test_crossfade_over_a_cut(fade):
    generator = torch.Generator().manual_seed(fade)
    previous, images = torch.rand(2, 9, 4, 6, 3, generator=generator)
    joined = join_shots(previous, images, Transition.after("cut", None), crossfade=fade)
    expected = [previous[i] for i in range(9 - fade)]
    for k in range(fade):
        weight = (k + 1) / (fade + 1)
        expected.append((1 - weight) * previous[9 - fade + k] + weight * images[k])
    expected += [images[i] for i in range(fade, 9)]
    assert len(expected) == 9 + 9 - fade
    torch.testing.assert_close(joined, torch.stack(expected))


@pytest.mark.parametrize(("kind", "fade"), [("first_frame", 1), ("motion_frames", 1), ("motion_frames", 5)])
def test_crossfade_over_a_continuation(kind, fade):
    generator = torch.Generator().manual_seed(fade)
    previous, images = torch.rand(2, 9, 4, 6, 3, generator=generator)
    overlap = OVERLAP[kind]
    joined = join_shots(previous, images, Transition.after(kind, previous), crossfade=fade)
    expected = [previous[i] for i in range(9 - fade)]
    for k in range(fade):
        weight = (k + 1) / (fade + 1)
        expected.append((1 - weight) * previous[9 - fade + k] + weight * images[overlap - fade + k])
    expected += [images[i] for i in range(overlap, 9)]
    assert len(expected) == 9 + 9 - overlap
    torch.testing.assert_close(joined, torch.stack(expected))


@pytest.mark.parametrize(
    ("kind", "fade", "problem"),
    [
        ("cut", 6, r"crossfade=6: .*0\.\.5"),
        ("cut", -1, "crossfade=-1"),
        ("first_frame", 2, r"crossfade=2: .*repeated frames only: 1"),
        ("motion_frames", 6, r"crossfade=6: .*repeated frames only: 5"),
        ("motion_frames", -1, "crossfade=-1"),
    ],
)
def test_a_crossfade_too_long(kind, fade, problem):
    with pytest.raises(InputError, match=f"^{problem}"):
        join_shots(shot(6), shot(9), Transition.after(kind, shot(9)), crossfade=fade)
    with pytest.raises(InputError, match=f"^{problem}"):
        join_shots(shot(9), shot(6), Transition.after(kind, shot(9)), crossfade=fade)


def test_shots_that_do_not_fit():
    motion = Transition.after("motion_frames", shot(9))
    with pytest.raises(InputError, match=r"^images='8x4': the previous shot is 6x4"):
        join_shots(shot(9), shot(9, size=(4, 8)), motion)
    with pytest.raises(InputError, match=r"^images='5 frames'"):
        join_shots(shot(9), shot(5), motion)
    with pytest.raises(InputError, match=r"^images='1 frames'"):
        join_shots(shot(9), shot(1), Transition.after("first_frame", shot(9)))
    with pytest.raises(InputError, match=r"^previous_images='4 frames'"):
        join_shots(shot(4), shot(9), motion)
    broken = shot(9)
    broken[3, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"^previous_images=.*NaN"):
        join_shots(broken, shot(9), motion)
    with pytest.raises(InputError, match=r"^images=.*NaN"):
        join_shots(shot(9), broken, motion)
    with pytest.raises(InputError, match=r"^images=.*not RGB"):
        join_shots(shot(9), shot(9)[..., :2], motion)
    with pytest.raises(InputError, match=r"^previous_images=.*not RGB"):
        join_shots(shot(0), shot(9), Transition.after("cut", None))


# --- colour matching

GAIN, OFFSET = 0.9, torch.tensor([0.05, -0.04, 0.03])


@pytest.fixture(scope="module")
def clip():
    """45 real frames, float [45, 120, 208, 3]."""
    return torch.from_numpy(read_footage(45, 208, 120)).float() / 255


def jump(joined, clip, at):
    """How much more the mean colour changes at the join than in the footage itself."""
    change = (joined[at] - joined[at - 1]).mean((0, 1)) - (clip[at] - clip[at - 1]).mean((0, 1))
    return change.abs().max().item()


@pytest.mark.parametrize("kind", ["first_frame", "motion_frames"])
@pytest.mark.parametrize("at", [12, 30])
def test_a_drifted_shot_is_matched(clip, kind, at):
    overlap = OVERLAP[kind]
    previous, drifted = clip[:at], (clip[at - overlap :] * GAIN + OFFSET).clamp(0, 1)
    transition = Transition.after(kind, previous)
    plain = join_shots(previous, drifted, transition)
    matched = join_shots(previous, drifted, transition, match_color=True)
    assert jump(plain, clip, at) > 0.03
    assert jump(matched, clip, at) < 0.01 * jump(plain, clip, at)
    assert torch.equal(matched[:at], previous)
    # not only the mean: nearly every pixel of the whole shot is the true one again
    assert (plain - clip)[at:].abs().mean() > 0.04
    assert (matched - clip)[at:].abs().mean() < 0.001
    assert matched.min() >= 0 and matched.max() <= 1


def degrade(images, how):
    """What decoding does to repeated frames: noise or a little blur."""
    if how == "noise":
        generator = torch.Generator().manual_seed(0)
        return (images + 0.03 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    return torch.stack([torch.from_numpy(cv2.GaussianBlur(image.numpy(), (0, 0), 1.2)) for image in images])


@pytest.mark.parametrize("how", ["noise", "blur"])
def test_matching_survives_noise_and_blur(clip, how):
    previous = clip[:30]
    transition = Transition.after("motion_frames", previous)
    drifted = degrade((clip[25:] * GAIN + OFFSET).clamp(0, 1), how)
    plain = join_shots(previous, drifted, transition)
    matched = join_shots(previous, drifted, transition, match_color=True)
    assert jump(matched, clip, 30) < 0.1 * jump(plain, clip, 30)
    faithful = degrade(clip[25:], how)
    change = join_shots(previous, faithful, transition, match_color=True) - join_shots(previous, faithful, transition)
    assert change.abs().mean() < 0.01


def test_a_faithful_shot_is_left_alone(clip):
    for kind, overlap in (("first_frame", 1), ("motion_frames", 5)):
        transition = Transition.after(kind, clip[:30])
        matched = join_shots(clip[:30], clip[30 - overlap :], transition, match_color=True)
        torch.testing.assert_close(matched, clip, atol=1e-5, rtol=0)


def test_a_cut_is_not_matched(clip):
    cut = Transition.after("cut", clip)
    joined = join_shots(clip[:10], clip[30:40] * 0.5, cut, match_color=True)
    assert torch.equal(joined, torch.cat([clip[:10], clip[30:40] * 0.5]))


def test_a_constant_channel_is_shifted_only(clip):
    previous, new = clip[:10].clone(), clip[9:20].clone()
    previous[..., 1], new[..., 1] = 0.5, 0.4
    new[-1, ..., 1] = torch.linspace(0, 0.8, new.shape[2])
    joined = join_shots(previous, new, Transition.after("first_frame", previous), match_color=True)
    torch.testing.assert_close(joined[10:, ..., 1], new[1:, ..., 1] + 0.1, atol=1e-6, rtol=0)
    torch.testing.assert_close(joined[10:, ..., 0], new[1:, ..., 0], atol=1e-5, rtol=0)


def test_frames_that_show_something_else_are_shifted_only(clip):
    previous, new = clip[:10], 0.5 + 0.01 * (clip[9:20] - 0.5)
    joined = join_shots(previous, new, Transition.after("first_frame", previous), match_color=True)
    shift = (clip[9] - new[0]).mean((0, 1))
    torch.testing.assert_close(joined[10:], (new[1:] + shift).clamp(0, 1), atol=1e-6, rtol=0)


def test_crossfade_blends_the_matched_shot(clip):
    previous = clip[:30]
    drifted = (clip[25:] * GAIN + OFFSET).clamp(0, 1)
    transition = Transition.after("motion_frames", previous)
    joined = join_shots(previous, drifted, transition, crossfade=5, match_color=True)
    assert len(joined) == len(clip)
    assert (joined - clip).abs().mean() < 0.001


@pytest.mark.parametrize("jump", [2, 8])
def test_blending_the_overlap_smooths_the_motion_at_the_join(jump):
    """A continuation that stands `jump` pixels beside the shot before: the jolt in the optical flow all but goes."""
    frames = read_footage(40, 416, 240)
    shifted = np.float32([[1, 0, jump], [0, 1, jump / 2]])
    moved = [cv2.warpAffine(frame, shifted, (416, 240), borderMode=cv2.BORDER_REFLECT) for frame in frames[20:]]
    previous, images = (torch.from_numpy(np.stack(part)).float() / 255 for part in (frames[:25], moved))
    transition = Transition.after("motion_frames", previous)
    hard, soft = (largest_jolt(join_shots(previous, images, transition, n), 18, 29) for n in (0, 5))
    assert hard > jump  # the picture jumps there and back to its own motion
    assert soft < 0.3 * hard


def largest_jolt(film, first, last):
    """Mean change of the optical flow, in pixels, from one frame to the next, at its largest."""
    grey = [cv2.cvtColor((frame.numpy() * 255).round().astype(np.uint8), cv2.COLOR_RGB2GRAY) for frame in film]
    pairs = [(grey[i], grey[i + 1]) for i in range(first, last)]
    flows = [cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 21, 3, 7, 1.5, 0) for a, b in pairs]
    return max(np.linalg.norm(b - a, axis=-1)[20:-20, 20:-20].mean() for a, b in itertools.pairwise(flows))
