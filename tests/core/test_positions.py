import pytest
import torch

from storymem_core.positions import frame_positions, memory_rope_options


@pytest.mark.parametrize("memory", [0, 1, 3, 10])
@pytest.mark.parametrize("spacing", [1, 5])
def test_positions_follow_the_definition(memory, spacing):
    positions = frame_positions(memory, 21, spacing).tolist()
    assert positions == [(i - memory) * spacing for i in range(memory)] + list(range(21))


@pytest.mark.parametrize("memory", [1, 2, 10])
@pytest.mark.parametrize("spacing", [1, 2.5, 5])
@pytest.mark.parametrize("options", [None, {"scale_t": 0.5, "shift_t": 3.0, "scale_x": 2.0}])
def test_rope_options_place_memory_in_the_videos_coordinates(memory, spacing, options):
    user = options or {}

    def place(p):
        return p * user.get("scale_t", 1.0) + user.get("shift_t", 0.0)

    ours = memory_rope_options(options, memory, spacing)
    drawn = [i * ours["scale_t"] + ours["shift_t"] for i in range(memory)]
    assert drawn == pytest.approx([place(p) for p in frame_positions(memory, 0, spacing).tolist()])
    assert ours.get("scale_x") == user.get("scale_x")


def test_video_positions_do_not_depend_on_memory():
    alone = frame_positions(0, 21)
    assert all(torch.equal(frame_positions(m, 21, s)[m:], alone) for m in (1, 10) for s in (1, 5))
