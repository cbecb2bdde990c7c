"""The contact sheet: where each picture lies, and the words that are written."""

import cv2
import numpy as np
import pytest

from storymem_core.bank import Keyframe
from storymem_core.contact_sheet import contact_sheet

CELL, HEIGHT, GAP = 260, 150, 20


def keyframe(color, size=(480, 832), **fields):
    image = np.full((*size, 3), color, np.uint8)
    fields = {"shot": 1, "frame": 0, "embedding": np.array([1], np.float32), "embedder": "test"} | fields
    return Keyframe(image, **fields)


@pytest.fixture
def words(monkeypatch):
    """Every text drawn, in order."""
    drawn = []
    real = cv2.putText

    def record(sheet, text, *rest):
        drawn.append(text)
        return real(sheet, text, *rest)

    monkeypatch.setattr(cv2, "putText", record)
    return drawn


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (6, 6, 1), (7, 4, 2), (8, 4, 2), (15, 5, 3), (20, 5, 4)]
)
def test_grid(count, columns, rows):
    keyframes = [keyframe((10 + 10 * i, 40, 200 - 5 * i)) for i in range(count)]
    sheet = contact_sheet(keyframes, {})
    row_height = (sheet.shape[0] - GAP) // rows
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == GAP + columns * (CELL + GAP)
    for i, frame in enumerate(keyframes):
        y, x = GAP + i // columns * row_height, GAP + i % columns * (CELL + GAP)
        picture = sheet[y : y + HEIGHT, x : x + CELL]
        assert (picture == frame.image[0, 0]).all(), f"keyframe {i} fills its cell, RGB kept"
        assert not (sheet[y + HEIGHT : y + row_height, x : x + CELL] == frame.image[0, 0]).all(-1).any()


@pytest.mark.parametrize("size", [(832, 480), (512, 512), (100, 900), (8, 6), (1, 5000)])
def test_aspect_is_kept(size):
    sheet = contact_sheet([keyframe((250, 10, 20), size)], {})
    there = (sheet[GAP : GAP + HEIGHT, GAP : GAP + CELL] == (250, 10, 20)).all(-1)
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert there.sum() == height * width, "one whole rectangle"
    assert height == HEIGHT or width == CELL, "as large as the cell allows"
    scale = min(HEIGHT / size[0], CELL / size[1])
    assert abs(height - size[0] * scale) < 1 and abs(width - size[1] * scale) < 1
    assert abs(rows[0] + rows[-1] - HEIGHT + 1) <= 1 and abs(columns[0] + columns[-1] - CELL + 1) <= 1


def test_captions_say_everything(words):
    frames = [
        keyframe(1, shot=0, label="the hero", pinned=True),
        keyframe(2, shot=2, frame=40, quality=312.4),
        keyframe(3, shot=3, frame=7, quality=3.14159, label="coat"),
        keyframe(4, shot=3, frame=9, excluded=True),
    ]
    contact_sheet(frames, {frames[0].id: [2, 3, 4], frames[1].id: (4,), "another": [9]})
    assert words == [
        *("reference, pinned", "the hero", "recalled by shots 2, 3, 4"),
        *("shot 2, frame 40", "quality 312", "recalled by shot 4"),
        *("shot 3, frame 7", "coat", "quality 3.14", "not recalled"),
        *("shot 3, frame 9", "excluded"),
    ]


def test_a_caption_changes_its_own_cell_only():
    frames = [keyframe((10 * i, 9, 9)) for i in range(1, 4)]
    before, after = contact_sheet(frames, {}), contact_sheet(frames, {frames[1].id: [2, 3]})
    changed = np.flatnonzero((before != after).any((0, 2)))
    rows = np.flatnonzero((before != after).any((1, 2)))
    left = GAP + CELL + GAP
    assert len(changed) and left <= changed[0] and changed[-1] < left + CELL
    assert rows[0] > GAP + HEIGHT


def test_long_texts_end_with_their_cell(words):
    long = keyframe(7, label="a very long description of the hero " * 4)
    frames = [long, keyframe(8)]
    plain = [keyframe(7), frames[1]]
    sheet = contact_sheet(frames, {long.id: range(1, 60)})
    assert any(text.startswith("a very long") and text.endswith("...") for text in words)
    assert any(text.startswith("recalled by shots 1, 2, 3") and text.endswith("...") for text in words)
    second = contact_sheet(plain, {})[:, GAP + CELL + GAP // 2 :]
    assert (sheet[: len(second), GAP + CELL + GAP // 2 :] == second).all(), "the neighbour is untouched"


def test_pinned_keyframes_have_a_frame():
    plain, pinned = (contact_sheet([keyframe(90, pinned=mark)], {}) for mark in (False, True))
    edge = (plain != pinned).any(-1)[GAP : GAP + HEIGHT, GAP : GAP + CELL]
    assert edge[0].all() and edge[-1].all() and edge[:, 0].all() and edge[:, -1].all()
    assert not edge[4:-4, 4:-4].any()


def test_letters_of_any_script(words):
    contact_sheet([keyframe(5, label="安娜 Ünï ☃")], {})
    assert words[1] == "安娜 Ünï ☃"


def test_empty_memory(words):
    sheet = contact_sheet([], {})
    assert words == ["memory is empty"]
    assert sheet.dtype == np.uint8 and sheet.shape == (60, 260, 3)
    assert sheet.max() > 150, "the words are there"
