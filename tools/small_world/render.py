"""Draws shots of the small world: three times too large, then averaged down, so edges are smooth."""

from dataclasses import dataclass

import cv2
import numpy as np

from .world import (
    BODY_COLOURS,
    BODY_HEIGHT,
    BODY_WIDTH,
    FEET_Y,
    FRAMES,
    GROUND_COLOURS,
    GROUND_Y,
    HEAD_COLOURS,
    HEIGHT,
    HILLS,
    LANDMARK_COLOURS,
    LEGS,
    SKY_COLOURS,
    WIDTH,
    Character,
    Pose,
    Shot,
    motion,
    random_clip,
)

OVERSAMPLING = 3
NECK = 0.52  # of a body's height: above it is the head
DARK, ORANGE = (25, 25, 30), (250, 140, 20)


@dataclass(frozen=True, eq=False)
class Clip:
    """frames: uint8 [17, 64, 96, 3], RGB; track: float [17, characters, 4], each body's box x, y, width, height
    in pixels (x, y of its centre), legs and accessory left out."""

    shot: Shot
    frames: np.ndarray
    track: np.ndarray


def render(shot: Shot) -> Clip:
    """All frames of a shot with the truth about where everybody is."""
    poses = [motion(shot, index / (FRAMES - 1)) for index in range(FRAMES)]
    frames = np.stack([draw(shot, pose) for pose in poses])
    track = np.array([[body_box(pose, index) for index in range(len(shot.characters))] for pose in poses])
    return Clip(shot, frames, track)


def body_box(pose: Pose, index: int) -> tuple[float, float, float, float]:
    """Centre and size of one body on the screen, pixels."""
    lift, turn = (pose.lift, pose.turn) if index == 0 else (0.0, 1.0)
    x, y = _screen(pose, pose.x[index], FEET_Y - LEGS - BODY_HEIGHT / 2 - lift)
    return x, y, BODY_WIDTH * turn * pose.scale, BODY_HEIGHT * pose.scale


def cells_of_characters(shot: Shot) -> np.ndarray:
    """Where characters are in a clip's latents, with what they wear and hold: bool [5, 8, 12]."""
    frames, cell = 5, 8  # a latent frame is four frames, but the first; a cell is 8x8 pixels
    cells = np.zeros((frames, HEIGHT // cell, WIDTH // cell), bool)
    for time in range(frames):
        pose = motion(shot, time / (frames - 1))
        for index in range(len(shot.characters)):
            x, y, _, height = body_box(pose, index)
            left = 0.85 if shot.characters[index].accessory == "balloon" else 0.5
            right = 0.85 if index == 0 and shot.action == "wave" else 0.5
            edges = (y - 0.8 * height, y + 0.7 * height, x - left * height, x + right * height)
            rows = slice(max(0, int(edges[0] // cell)), int(-(-edges[1] // cell)))
            columns = slice(max(0, int(edges[2] // cell)), int(-(-edges[3] // cell)))
            cells[time, rows, columns] = True
    return cells


def random_frames(seed: int, clips: int, frames: int, crop: int | None = None) -> np.ndarray:
    """uint8 [clips, frames, 64, 96, 3] of consecutive frames, each of another shot; or squares of them.

    crop: pixels on a side of a square around the first character.
    """
    rng = np.random.default_rng([seed, 2])
    batch = []
    for index in range(clips):
        shot = random_clip(10_000_000 + seed * 1024 + index)
        first = int(rng.integers(0, FRAMES - frames + 1))
        times = [(first + step) / (FRAMES - 1) for step in range(frames)]
        video = np.stack([draw(shot, motion(shot, time)) for time in times])
        if crop is not None:
            middle = motion(shot, times[len(times) // 2]).x[0]
            x = int(np.clip(middle + rng.uniform(-16, 16) - crop / 2, 0, WIDTH - crop))
            y = int(rng.integers(HEIGHT - crop + 1))
            video = video[:, y : y + crop, x : x + crop]
        batch.append(video)
    return np.stack(batch)


def draw(shot: Shot, pose: Pose) -> np.ndarray:
    """One frame, uint8 [64, 96, 3]."""
    canvas = np.empty((HEIGHT * OVERSAMPLING, WIDTH * OVERSAMPLING, 3), np.uint8)
    _draw_place(canvas, shot, pose)
    # The actor is drawn last, in front.
    for index in reversed(range(len(shot.characters))):
        _draw_character(canvas, shot.characters[index], pose, index)
    return cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def _screen(pose: Pose, x: float, y: float) -> tuple[float, float]:
    """Where a point of the scene is on the screen; the camera comes closer to the first character's body."""
    anchor_x, anchor_y = pose.x[0], FEET_Y - 20
    return (x - anchor_x) * pose.scale + anchor_x, (y - anchor_y) * pose.scale + anchor_y


def _fill(canvas: np.ndarray, pose: Pose, points: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Fill a polygon [N, 2] of scene points."""
    screen = np.array([_screen(pose, x, y) for x, y in points]) * OVERSAMPLING
    cv2.fillPoly(canvas, [np.rint(screen * 16).astype(np.int32)], colour, shift=4)


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _ellipse(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 25)[:-1]
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def _draw_place(canvas: np.ndarray, shot: Shot, pose: Pose) -> None:
    place = shot.place
    canvas[:] = SKY_COLOURS[place.sky]
    for base in place.landmarks:
        # Landmarks come back after one picture width and a half: a pan never runs out of them.
        period = WIDTH * 1.5
        x = (base - pose.scroll + 40) % period - 40
        for shape in _landmark(place.kind, x):
            _fill(canvas, pose, shape, LANDMARK_COLOURS[place.kind])
    _fill(canvas, pose, _box(-WIDTH, GROUND_Y - HILLS, 2 * WIDTH, GROUND_Y), LANDMARK_COLOURS[place.kind])
    _fill(canvas, pose, _box(-WIDTH, GROUND_Y, 2 * WIDTH, 2 * HEIGHT), GROUND_COLOURS[place.ground])


def _landmark(kind: str, x: float) -> list[np.ndarray]:
    ground = GROUND_Y + 1
    if kind == "desert":  # a cactus
        return [
            _box(x - 3, 12, x + 3, ground),
            _box(x - 11, 18, x - 7, 30),
            _box(x - 11, 26, x, 30),
            _box(x + 7, 14, x + 11, 26),
            _box(x, 22, x + 11, 26),
        ]
    if kind == "forest":  # a round tree
        return [_box(x - 2.5, 20, x + 2.5, ground), _ellipse(x, 17, 12, 12)]
    if kind == "town":  # two houses with flat roofs
        return [_box(x - 14, 22, x - 1, ground), _box(x + 1, 8, x + 14, ground)]
    return [np.array([(x - 22, ground), (x, 6), (x + 22, ground)])]  # a mountain


def outline(kind: str) -> list[np.ndarray]:
    """The body's outline as polygons; x from -0.5 to 0.5, y from 0 (bottom) to 1."""
    if kind == "robot":
        return [_box(-0.5, 0, 0.5, 1)]
    if kind == "ghost":  # narrow below, round above
        return [_ellipse(0, 0.64, 0.5, 0.36), np.array([(-0.2, 0), (-0.49, 0.58), (0.49, 0.58), (0.2, 0)])]
    if kind == "gnome":
        return [np.array([(-0.5, 0), (-0.2, 1), (0.2, 1), (0.5, 0)])]
    # A bear: round, with ears.
    return [_ellipse(0, 0.4, 0.5, 0.4), _ellipse(-0.33, 0.82, 0.17, 0.18), _ellipse(0.33, 0.82, 0.17, 0.18)]


def pattern_shapes(pattern: str) -> list[np.ndarray]:
    """What is painted on the body, as far as the outline reaches."""
    if pattern == "belt":
        return [_box(-0.5, 0.14, 0.5, 0.38)]
    if pattern == "spots":
        return [_ellipse(x, y, 0.14, 0.13) for x, y in ((-0.24, 0.16), (0.24, 0.16), (0, 0.36))]
    return []


def _draw_character(canvas: np.ndarray, character: Character, pose: Pose, index: int) -> None:
    lift, turn = (pose.lift, pose.turn) if index == 0 else (0.0, 1.0)
    step = pose.step if index == 0 else 0.0
    x, bottom = pose.x[index], FEET_Y - LEGS - lift
    body, pattern = BODY_COLOURS[character.body], BODY_COLOURS[character.pattern_colour]

    def place(points: np.ndarray) -> np.ndarray:
        return np.stack([x + points[:, 0] * BODY_WIDTH * turn, bottom - points[:, 1] * BODY_HEIGHT], 1)

    for side in (-1, 1):
        foot = x + side * 6 * turn + 4 * side * np.sin(step)
        _fill(canvas, pose, _box(foot - 2.5, bottom - 1, foot + 2.5, bottom + LEGS), DARK)
    if index == 0 and pose.arm is not None:
        shoulder = np.array([x + 8, bottom - 0.5 * BODY_HEIGHT])
        along = np.array([np.cos(pose.arm), -np.sin(pose.arm)])
        across = np.array([along[1], -along[0]]) * 2.5
        hand = shoulder + along * 21
        _fill(canvas, pose, np.stack([shoulder - across, shoulder + across, hand + across, hand - across]), body)
    if character.accessory == "balloon":
        _fill(canvas, pose, _box(x - 19.5, bottom - 28, x - 18.5, bottom - 10), DARK)
        _fill(canvas, pose, _ellipse(x - 19, bottom - 33, 6, 7.5), ORANGE)

    inside = np.zeros(canvas.shape[:2], np.uint8)
    for shape in outline(character.kind):
        _fill(canvas, pose, place(shape), body)
        _fill(inside, pose, place(shape), 1)

    def paint(shapes: list[np.ndarray], colour: tuple[int, int, int]) -> None:
        painted = np.zeros_like(inside)
        for shape in shapes:
            _fill(painted, pose, place(shape), 1)
        cv2.copyTo(np.full_like(canvas, colour), inside & painted, canvas)

    paint(pattern_shapes(character.pattern), pattern)
    paint([_box(-0.6, NECK, 0.6, 1.1)], HEAD_COLOURS[character.kind])
    look = 0.09 * pose.facing[index]
    for eye in (-0.11, 0.11):
        # Plain dots: white eyes with pupils were 1 % of the pixels and a third of an autoencoder's error.
        _fill(canvas, pose, place(_ellipse(eye + look, 0.66, 0.07, 0.09)), DARK)
    if character.accessory == "hat":
        _fill(canvas, pose, place(_box(-0.42, 0.9, 0.42, 0.99)), DARK)
        _fill(canvas, pose, place(_box(-0.34, 0.95, 0.34, 1.34)), DARK)
