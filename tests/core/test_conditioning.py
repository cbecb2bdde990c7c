import pytest
import torch

from storymem_core.conditioning import check_shot_size, latent_frames, shot_pixels, unknown_mask
from storymem_core.errors import InputError


def test_latent_frames_of_wan():
    assert [latent_frames(n) for n in (0, 1, 5, 17, 81)] == [0, 1, 2, 5, 21]


@pytest.mark.parametrize("overlap, known", [(0, 0), (1, 1), (5, 2)])
@pytest.mark.parametrize("memory", [0, 1, 10])
def test_memory_and_continued_frames_are_known(memory, overlap, known):
    mask = unknown_mask(memory, 81, overlap, 832, 480)
    assert mask.shape == (1, 1, memory + 21, 60, 104)
    for frame in range(memory + 21):
        expected = 0.0 if frame < memory + known else 1.0
        assert torch.all(mask[:, :, frame] == expected)


@pytest.mark.parametrize("overlap", [0, 1, 5])
def test_pixels_are_the_continued_frames_then_mid_grey(overlap):
    frames = torch.rand(overlap, 32, 48, 3) if overlap else None
    pixels = shot_pixels(frames, 48, 32, 17)
    assert pixels.shape == (17, 32, 48, 3)
    assert overlap == 0 or torch.equal(pixels[:overlap], frames)
    assert torch.all(pixels[overlap:] * 2 - 1 == 0)  # value 0 in [-1, 1]


@pytest.mark.parametrize(
    "width, height, length, name, remedy",
    [
        (100, 64, 17, "width", "96"),
        (96, 8, 17, "height", "16"),
        (96, 64, 16, "length", "13 or 17"),
        (96, 64, 0, "length", "1"),
        (96, 64, 82, "length", "81 or 85"),
    ],
)
def test_wrong_sizes_name_input_value_and_remedy(width, height, length, name, remedy):
    with pytest.raises(InputError) as error:
        check_shot_size(width, height, length)
    value = {"width": width, "height": height, "length": length}[name]
    assert str(error.value).startswith(f"{name}={value}:") and remedy in str(error.value)


def test_right_sizes_pass():
    check_shot_size(832, 480, 81)
    check_shot_size(16, 16, 1)


def test_a_shot_shorter_than_what_it_continues():
    with pytest.raises(InputError, match="length=1"):
        shot_pixels(torch.rand(5, 16, 16, 3), 16, 16, 1)
