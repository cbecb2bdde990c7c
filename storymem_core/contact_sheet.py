"""One picture of a memory: every keyframe with where it comes from and which shots recalled it."""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from .bank import Keyframe

# a 832x480 frame fills it; a sheet of 90 keyframes takes 20 MB
_THUMBNAIL = (260, 150)
_COLUMNS = 6
_GAP = 20
_LINE = 23
_BACKGROUND, _PANEL = (24, 25, 28), (12, 12, 14)
_BRIGHT, _PLAIN, _FAINT = (236, 236, 238), (178, 180, 186), (112, 114, 120)
_RECALLED, _PINNED = (126, 200, 150), (240, 180, 80)


def contact_sheet(keyframes: Sequence[Keyframe], recalled_by: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Draw keyframes as a grid of captioned thumbnails, at most six in a row -> uint8 [H, W, 3], RGB.

    recalled_by: keyframe id -> numbers of the shots that recalled it; absent means none.
    Letters outside ASCII show as question marks with OpenCV older than 5.
    """
    if not keyframes:
        sheet = np.full((_GAP * 3, _THUMBNAIL[0], 3), _BACKGROUND, np.uint8)
        _write(sheet, "memory is empty", _GAP, _GAP * 2 - 4, _PLAIN)
        return sheet
    width, height = _THUMBNAIL
    captions = [_caption(keyframe, recalled_by.get(keyframe.id, ())) for keyframe in keyframes]
    row_height = height + _LINE * max(map(len, captions)) + _GAP
    # rows as even as possible: seven keyframes make four and three, not six and one
    rows = math.ceil(len(keyframes) / _COLUMNS)
    columns = math.ceil(len(keyframes) / rows)
    size = (_GAP + rows * (row_height + _GAP), _GAP + columns * (width + _GAP), 3)
    sheet = np.full(size, _BACKGROUND, np.uint8)
    for i, (keyframe, caption) in enumerate(zip(keyframes, captions, strict=True)):
        row, column = divmod(i, columns)
        x, y = _GAP + column * (width + _GAP), _GAP + row * (row_height + _GAP)
        sheet[y : y + height, x : x + width] = _thumbnail(keyframe.image)
        if keyframe.pinned:
            cv2.rectangle(sheet, (x, y), (x + width - 1, y + height - 1), _PINNED, 2)
        for line, (text, color) in enumerate(caption, 1):
            _write(sheet, text, x, y + height + _LINE * line, color)
    return sheet


def _caption(keyframe: Keyframe, shots: Sequence[int]) -> list[tuple[str, tuple[int, int, int]]]:
    """Lines of text and their colours."""
    origin = f"shot {keyframe.shot}, frame {keyframe.frame}" if keyframe.shot else "reference"
    pinned = ", pinned" if keyframe.pinned else ""
    caption = [(origin + pinned, _PINNED if pinned else _BRIGHT)]
    if keyframe.label:
        caption.append((keyframe.label, _BRIGHT))
    if keyframe.quality is not None:
        caption.append((f"quality {keyframe.quality:.{0 if abs(keyframe.quality) >= 100 else 2}f}", _PLAIN))
    if shots:
        numbers = ", ".join(map(str, shots))
        return [*caption, (f"recalled by shot{'s' if len(shots) > 1 else ''} {numbers}", _RECALLED)]
    return [*caption, ("excluded" if keyframe.excluded else "not recalled", _FAINT)]


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """The picture in the middle of a panel of thumbnail size, its aspect kept."""
    width, height = _THUMBNAIL
    scale = min(width / image.shape[1], height / image.shape[0])
    w, h = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    small = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    panel = np.full((height, width, 3), _PANEL, np.uint8)
    x, y = (width - w) // 2, (height - h) // 2
    panel[y : y + h, x : x + w] = small
    return panel


def _write(sheet: np.ndarray, text: str, x: int, y: int, color: tuple[int, int, int]) -> None:
    """One line of text from its lower left corner, cut to the width of a thumbnail."""
    style = (cv2.FONT_HERSHEY_SIMPLEX, 0.48)
    shown = text
    while cv2.getTextSize(shown, *style, 1)[0][0] > _THUMBNAIL[0]:
        text = text[:-1]
        shown = text + "..."
    cv2.putText(sheet, shown, (x, y), *style, color, 1, cv2.LINE_AA)
