"""Reads the truth back from frames: how the characters look, which place it is, what happens.

Everything is matched by colour and outline against renderings, so it works on generated frames as well as on
clean ones. Frames are uint8 [N, 64, 96, 3], RGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import cv2
import numpy as np

from .render import draw
from .world import (
    ACCESSORIES,
    BODY_COLOURS,
    BODY_HEIGHT,
    GROUND_COLOURS,
    HEAD_COLOURS,
    KINDS,
    LANDMARK_COLOURS,
    PATTERNS,
    SKY_COLOURS,
    Character,
    Place,
    Shot,
    motion,
)

ENLARGED = 3  # frames are enlarged before they are measured, for boxes finer than a pixel
BRIGHT = 90  # spread of RGB from which a pixel belongs to a character; every body colour has 145 or more
DARKEST = 75  # largest RGB value of a hat or a string; a night sky has 100
MIN_BODY = 60  # pixels
THIN = 7  # of a frame that is enlarged; an arm has 15
CROP = (40, 40)  # a body with what is around it, as a picture of this size: rows, columns
AROUND = (0.75, 1.3, 0.7, 0.1)  # the crop reaches that many widths left and heights up, widths right, heights down
LOOKED_AT = 6  # frames that looks are measured in, at least, if there are
FRONT = 0.8  # share of its greatest width from which a body is seen from the front
HEAD = 0.005  # misfit of an outline, pixels, that is as bad as a squared difference of 1 in the head's colour
BLURS = (0.0, 1.0, 1.7)  # pixels; an autoencoder rounds corners, so templates have rounded corners too
WALKED, JUMPED, TURNED, WAVED = 12.0, 5.5, 0.78, 6.0  # pixels, pixels, share of the mean width, pixels of arm

Box = tuple[float, float, float, float]  # left, top, right, bottom in a frame that is enlarged

_COLOURS = np.array(list(BODY_COLOURS.values()), np.float32)
_PLACE = (*SKY_COLOURS.values(), *GROUND_COLOURS.values(), *LANDMARK_COLOURS.values())
_HEADS_OR_PLACE = np.array([*HEAD_COLOURS.values(), *_PLACE], np.float32)
_ORANGE_OR_BODY = np.array([(250, 140, 20), *BODY_COLOURS.values()], np.float32)


@dataclass(frozen=True)
class Seen:
    """One character over a clip. looks: the best match; action: of the actions of the world, or "stand";
    track: [N, 4] box x, y (centre), width, height in pixels, NaN where it is not seen."""

    looks: Character
    action: str
    track: np.ndarray


@dataclass(frozen=True)
class SeenPlace:
    """Names of the colours that most of a clip's background has."""

    sky: str
    ground: str


def measure_characters(frames: np.ndarray, count: int) -> list[Seen]:
    """The `count` largest characters of a clip, from left to right; fewer if they are not there."""
    large = [_enlarge(frame) for frame in frames]
    classes = [_classes(frame) for frame in large]
    bodies = [_bodies(found, count) for found in classes]
    present = max((len(found) for found in bodies), key=[len(found) for found in bodies].count)
    seen = []
    for index in range(present):
        # A frame with another number of bodies does not tell who is who.
        boxes = {i: found[index] for i, found in enumerate(bodies) if len(found) == present}
        seen.append(_measure_one(large, classes, boxes))
    return seen


def who_is_who(shot: Shot, frames: np.ndarray) -> dict[Character, Seen | None]:
    """Each character of a shot as it is seen in its frames, told apart by kind; None for one who is not there."""
    found = measure_characters(frames, len(shot.characters))
    candidates = found + [None] * (len(shot.characters) - len(found))

    def right_kinds(order: tuple) -> int:
        return sum(
            seen is not None and seen.looks.kind == who.kind for who, seen in zip(shot.characters, order, strict=True)
        )

    return dict(zip(shot.characters, max(permutations(candidates), key=right_kinds), strict=True))


def measure_place(frames: np.ndarray) -> SeenPlace:
    """The place of a clip, characters left out."""
    pixels = frames.astype(np.float32)
    dark = (frames.max(-1) < DARKEST).astype(np.uint8)
    near_dark = np.stack([cv2.dilate(mask, np.ones((5, 5), np.uint8)) for mask in dark]) > 0
    dull = (np.ptp(pixels, axis=-1) < BRIGHT) & ~near_dark
    horizon = 35
    back = [*SKY_COLOURS.values(), *LANDMARK_COLOURS.values()]
    above = _nearest(pixels[:, :horizon][dull[:, :horizon]], np.array(back, np.float32))
    votes = np.bincount(above, minlength=len(back))
    ground = _nearest(pixels[:, -6:][dull[:, -6:]], np.array(list(GROUND_COLOURS.values()), np.float32))
    return SeenPlace(
        list(SKY_COLOURS)[int(votes[: len(SKY_COLOURS)].argmax())],
        list(GROUND_COLOURS)[int(np.bincount(ground, minlength=1).argmax())],
    )


def _enlarge(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(frame, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_LINEAR).astype(np.float32)


def _nearest(pixels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Index of the nearest colour of a palette [C, 3] for pixels [..., 3]."""
    return (np.square(palette).sum(-1) - 2 * pixels @ palette.T).argmin(-1)  # |p - c|^2 without |p|^2


def _classes(frame: np.ndarray) -> np.ndarray:
    """[H, W, 3] in 0..1: body, dark, balloon."""
    red, green, blue = cv2.split(frame)
    highest, lowest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    bright = highest - lowest > BRIGHT
    # Some heads are hardly brighter than that.
    unsure = (highest - lowest > BRIGHT - 30) & ~bright & (highest >= DARKEST)
    bright[unsure] = _nearest(frame[unsure], _HEADS_OR_PLACE) < len(HEAD_COLOURS)
    orange = np.zeros(frame.shape[:2], np.uint8)
    orange[bright] = _nearest(frame[bright], _ORANGE_OR_BODY) == 0
    # Where red meets yellow is a line of orange; and a balloon's smooth edge has colours of bodies.
    balloon = cv2.morphologyEx(orange, cv2.MORPH_OPEN, np.ones((7, 7), np.uint8))
    near_balloon = cv2.dilate(balloon, np.ones((7, 7), np.uint8)) > 0
    # Where two dull colours meet, as at hills, are thin bright lines.
    body = cv2.morphologyEx((bright & ~near_balloon).astype(np.uint8), cv2.MORPH_OPEN, np.ones((THIN, THIN), np.uint8))
    return np.stack([body, highest < DARKEST, balloon > 0], -1).astype(np.float32)


def _bodies(classes: np.ndarray, count: int = 1) -> list[Box]:
    """The `count` largest bodies in a frame, from left to right; fewer where there is nothing of their size."""
    mask = classes[..., 0].astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((17, 17), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    order = [i for i in np.argsort(-stats[1:, cv2.CC_STAT_AREA]) + 1 if stats[i, cv2.CC_STAT_AREA] > MIN_BODY * 9]
    largest = stats[order[0], cv2.CC_STAT_AREA] if order else 0
    # Somebody who turns is narrow.
    boxes = [_box(labels == i) for i in order[:count] if stats[i, cv2.CC_STAT_AREA] > largest / 12]
    return sorted(boxes)


def _box(mask: np.ndarray) -> Box:
    """The box of a body without its arm, which is at its right: from the left edge to as far from the middle of the
    lowest third, as high as its middle, whatever sticks out."""
    rows = mask[mask.any(1)]
    lefts, rights = rows.argmax(1), mask.shape[1] - rows[:, ::-1].argmax(1)
    lowest = slice(-max(1, len(rows) // 3), None)
    middle = np.median(lefts[lowest] + rights[lowest]) / 2
    left = np.percentile(lefts, 10)
    right = 2 * middle - left
    reach = max(1.0, (right - left) * 0.15)
    columns = mask[:, int(middle - reach) : int(middle + reach) + 1]
    columns = columns[:, columns.any(0)]
    top, bottom = np.percentile(columns.argmax(0), 25), len(mask) - np.median(columns[::-1].argmax(0))
    return float(left), float(top), float(right), float(bottom)


def _crop(picture: np.ndarray, box: Box) -> np.ndarray:
    """What is in and around a box, scaled to CROP."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    around_left, around_up, around_right, around_down = AROUND
    x0, x1 = (left + right) / 2 - around_left * width - width / 4, (left + right) / 2 + around_right * width
    y0, y1 = bottom - around_up * height - height * 0.3, bottom + around_down * height
    scale = np.array([[(x1 - x0) / CROP[1], 0, x0], [0, (y1 - y0) / CROP[0], y0]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, scale, CROP[::-1], flags=flags, borderMode=cv2.BORDER_CONSTANT)


def _variants(box: Box) -> list[Box]:
    """Boxes of a body of about this width: where a face is dim, its top is not to be trusted."""
    left, _, right, bottom = box
    width, middle = right - left, (left + right) / 2
    return [
        (middle - wide / 2, bottom + down * width - tall * width, middle + wide / 2, bottom + down * width)
        for wide in (0.85 * width, width, 1.18 * width)
        for tall, down in product((0.7, 0.8, 0.9, 1.0, 1.1), (-0.1, 0.0, 0.1))
    ]


@dataclass(frozen=True, eq=False)
class _Templates:
    """What characters look like in the crop, by kind, accessory and blur; a row for each of `names`."""

    names: tuple[tuple[str, str, float], ...]
    classes: np.ndarray  # [T, 3 * pixels]
    head: np.ndarray  # [T, pixels], sum 1: where the head is
    colour: np.ndarray  # [T, 3]: the head's
    body: dict[tuple, np.ndarray]  # by name and pattern, where the body's colour is, bool
    pattern: dict[tuple, np.ndarray]  # and the pattern's
    height: np.ndarray  # [T] of the whole body, as a multiple of its box's


@cache
def _templates() -> _Templates:
    place = Place("desert", "pale", "snow", (-500.0, -500.0))
    names, rows, heads, heights, bodies, patterns = [], [], [], [], {}, {}
    for name in product(KINDS, ACCESSORIES, BLURS):
        kind, accessory, blur = name
        for pattern in PATTERNS:
            character = Character(kind, "red", pattern, "blue", accessory)
            seen, pictures, tall = [], [], []
            for facing in (-1, 1):
                shot = Shot((character,), place, "jump", "static", (48.0,), (facing,))
                frame = draw(shot, motion(shot, 0.0))
                frame = _enlarge(cv2.GaussianBlur(frame, (0, 0), blur) if blur else frame)
                found = _classes(frame)
                (box,) = _bodies(found)
                seen.append(_crop(found, box))
                pictures.append(_crop(frame, box))
                tall.append(BODY_HEIGHT * ENLARGED / (box[3] - box[1]))
            head, bodies[name, pattern], patterns[name, pattern] = (
                np.all([np.square(picture - colour).sum(-1) < 3000 for picture in pictures], 0)
                for colour in (HEAD_COLOURS[kind], BODY_COLOURS["red"], BODY_COLOURS["blue"])
            )
            if pattern == "plain":
                names.append(name)
                rows.append(np.mean(seen, 0).ravel())
                heads.append(head.ravel() / head.sum())
                heights.append(np.mean(tall))
    colours = [HEAD_COLOURS[kind] for kind, _, _ in names]
    stacked = (np.array(rows, np.float32) for rows in (rows, heads, colours))
    return _Templates(tuple(names), *stacked, bodies, patterns, np.array(heights))


def _misfits(classes: np.ndarray, frame: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """How badly each template fits the body in each of the boxes, [boxes, T]."""
    templates = _templates()
    seen = np.stack([_crop(classes, box).ravel() for box in boxes])
    off = np.square(seen).sum(1)[:, None] - 2 * seen @ templates.classes.T + np.square(templates.classes).sum(1)
    # The mean squared distance from the head's colour where the head is: |p|^2 - 2 p c + |c|^2, each averaged.
    pictures = np.stack([_crop(frame, box).reshape(-1, 3) for box in boxes])
    mean = np.einsum("bpc,tp->btc", pictures, templates.head, optimize=True)
    of_squares = np.square(pictures).sum(-1) @ templates.head.T
    distance = of_squares - 2 * (mean * templates.colour).sum(-1) + np.square(templates.colour).sum(-1)
    return off + HEAD * distance


def _measure_one(frames: list[np.ndarray], all_classes: list[np.ndarray], boxes: dict[int, Box]) -> Seen:
    """One character; `boxes` by the index of the frame."""
    # Seen from the front: as wide as it mostly is where it is widest; a box may be too wide in a frame or two.
    widths = {i: right - left for i, (left, _, right, _) in boxes.items()}
    widest = np.percentile(list(widths.values()), 80, method="higher")  # that of a frame, so there is one
    front = [i for i in boxes if FRONT * widest <= widths[i] <= widest / FRONT]
    front = front[:: max(1, len(front) // LOOKED_AT)]
    variants = {i: _variants(boxes[i]) for i in front}
    misfits = {i: _misfits(all_classes[i], frames[i], variants[i]) for i in front}
    best = int(sum(misfit.min(0) for misfit in misfits.values()).argmin())
    templates = _templates()
    kind, accessory, _ = name = templates.names[best]
    fitting = {i: variants[i][int(misfits[i][:, best].argmin())] for i in front}
    pictures = [_crop(frames[i], box) for i, box in fitting.items()]
    distances = np.mean([np.square(picture[..., None, :] - _COLOURS).sum(-1) for picture in pictures], 0)
    best_cost, pattern, body, painted = np.inf, "", 0, 0
    for each in PATTERNS:
        is_body, is_painted = templates.body[name, each], templates.pattern[name, each]
        of_body, of_painted = distances[is_body].sum(0), distances[is_painted].sum(0)
        pixels = is_body.sum() + is_painted.sum()
        for a, b in product(range(len(_COLOURS)), repeat=2):
            cost = (of_body[a] + of_painted[b]) / pixels
            if a != b and cost < best_cost:
                best_cost, pattern, body, painted = cost, each, a, b
    names = list(BODY_COLOURS)
    looks = Character(kind, names[body], pattern, names[painted], accessory)
    track = np.full((len(frames), 4), np.nan)
    # In the other frames everybody is as tall as before and after.
    heights = np.interp(list(boxes), front, [bottom - top for _, top, _, bottom in fitting.values()])
    for (index, (left, _, right, bottom)), height in zip(boxes.items(), heights, strict=True):
        tall = height * templates.height[best]
        track[index] = np.array([(left + right) / 2, bottom - tall / 2, right - left, tall]) / ENLARGED
    arms = [_arm(all_classes[i][..., 0], box) for i, box in boxes.items()]
    return Seen(looks, _action(track, np.array(arms)), track)


def _arm(body: np.ndarray, box: Box) -> float:
    """Pixels of the body's colour right of the body's upper half, at scale 1."""
    _, top, right, bottom = (round(value) for value in box)
    height = bottom - top
    beside = body[max(0, top - height // 4) : bottom - height // 2, right + ENLARGED : right + height // 2]
    return float(beside.sum() / height**2 * BODY_HEIGHT**2)


def _action(track: np.ndarray, arms: np.ndarray) -> str:
    track = track[~np.isnan(track[:, 0])]
    if len(track) < 5:
        return "stand"
    time = np.linspace(0, 1, len(track))
    x, width, bottom = track[:, 0], track[:, 2], track[:, 1] + track[:, 3] / 2
    walked = x[-2:].mean() - x[:2].mean()
    if abs(walked) > WALKED:
        return "walk left" if walked < 0 else "walk right"
    # Several frames of a turn are narrow; a single one is a mistake of the box. A zoom widens evenly.
    if np.sort(width / np.polyval(np.polyfit(time, width, 1), time))[2] < TURNED:
        return "turn"
    # A zoom moves the feet evenly; a jump does not.
    feet = bottom - np.polyval(np.polyfit(time, bottom, 1), time)
    if np.ptp(feet) * BODY_HEIGHT / np.median(track[:, 3]) > JUMPED:
        return "jump"
    # An arm is seen in most frames of a wave.
    return "wave" if np.sort(arms)[-5] - arms.min() > WAVED else "stand"
