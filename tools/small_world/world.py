"""Characters, places, shots and stories of the small world, drawn at random from a seed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np

WIDTH, HEIGHT, FRAMES, FPS = 96, 64, 17, 8

KINDS = ("robot", "ghost", "gnome", "bear")  # what the caption says: fixes outline and head, nothing else
PATTERNS = ("plain", "belt", "spots")
ACCESSORIES = ("none", "hat", "balloon")
ACTIONS = ("walk left", "walk right", "jump", "wave", "turn")
CAMERAS = ("static", "pan", "zoom", "close-up")
PLACES = ("desert", "forest", "town", "mountains")  # fixes the landmarks and the hills' colour

# RGB. Characters are bright and places are dull, so a pixel's colour tells which of the two it belongs to.
BODY_COLOURS = {
    "red": (215, 40, 45),
    "yellow": (245, 205, 40),
    "green": (45, 165, 70),
    "blue": (45, 90, 215),
    "magenta": (225, 80, 190),
    "cyan": (70, 205, 215),
}
# Bright too, so that a head belongs to its body, and of no body's colour.
HEAD_COLOURS = {
    "robot": (85, 120, 190),
    "ghost": (195, 155, 250),
    "gnome": (240, 175, 140),
    "bear": (150, 85, 35),
}
SKY_COLOURS = {
    "pale": (200, 215, 230),
    "peach": (240, 205, 180),
    "lavender": (185, 175, 215),
    "night": (60, 65, 100),
    "grey": (165, 170, 170),
}
GROUND_COLOURS = {
    "sand": (215, 195, 150),
    "grass": (115, 140, 95),
    "slate": (110, 112, 128),
    "earth": (125, 95, 75),
    "snow": (232, 234, 238),
}
# Of the far hills, too: a stripe between sky and ground, which tells all along it what place this is.
LANDMARK_COLOURS = {
    "desert": (75, 100, 80),
    "forest": (85, 65, 55),
    "town": (155, 90, 80),
    "mountains": (115, 105, 150),
}

BODY_HEIGHT, BODY_WIDTH, LEGS = 30.0, 28.0, 5.0  # pixels at scale 1
GROUND_Y, FEET_Y, HILLS = 40.0, 61.0, 5.0
# Pixels on a side of what a transformer sees as one token. Everybody stands in the middle of one, so that memory shows
# the same tokens wherever somebody stands; a walk or a pan crosses half of one in a latent frame.
TOKEN = 16.0
LEFTMOST, RIGHTMOST = 1.5 * TOKEN, 4.5 * TOKEN  # where somebody stands beside somebody else
WALK, JUMP, PAN, TURN_WIDTH = 2 * TOKEN, 11.0, 2 * TOKEN, 0.35
CLOSE_UP = 1.3


@dataclass(frozen=True)
class Character:
    """Who: the kind is in the caption, all else is looks. `pattern_colour` differs from `body`, even if plain."""

    kind: str
    body: str
    pattern: str
    pattern_colour: str
    accessory: str


@dataclass(frozen=True)
class Place:
    """Where: the kind is in the caption, all else is looks. `landmarks` are two places on the horizon, pixels."""

    kind: str
    sky: str
    ground: str
    landmarks: tuple[float, float]


@dataclass(frozen=True)
class Shot:
    """One clip. The first character acts, a second one stands by.

    x: where each character stands at the start, pixels; facing: -1 left, 1 right, of each;
    scroll: how far the landmarks have moved, pixels; cut: False if it goes on where the shot before ended.
    """

    characters: tuple[Character, ...]
    place: Place
    action: str
    camera: str
    x: tuple[float, ...]
    facing: tuple[int, ...]
    scroll: float = 0.0
    cut: bool = True

    @property
    def labels(self) -> str:
        """Who and where, as a script would name them."""
        return ", ".join([*(who.kind for who in self.characters), self.place.kind])

    @property
    def caption(self) -> str:
        """Kinds, action and camera, never looks."""
        actor, *others = self.characters
        third_person = {"walk left": "walks left", "walk right": "walks right", "jump": "jumps", "wave": "waves"}
        what = third_person.get(self.action, "turns")
        beside = f" beside the {others[0].kind}" if others else ""
        return f"The {actor.kind} {what}{beside}, {self.place.kind}, {self.camera}."


def every_caption() -> Iterator[str]:
    """All captions there can be, and some that are never drawn."""
    casts = [kinds for count in (1, 2) for kinds in permutations(KINDS, count)]
    for kinds, place, action, camera in product(casts, PLACES, ACTIONS, CAMERAS):
        cast = tuple(Character(kind, "", "", "", "") for kind in kinds)
        yield Shot(cast, Place(place, "", "", (0, 0)), action, camera, (), ()).caption


def random_character(rng: np.random.Generator, kind: str) -> Character:
    body, pattern_colour = rng.choice(list(BODY_COLOURS), 2, replace=False)
    return Character(kind, str(body), str(rng.choice(PATTERNS)), str(pattern_colour), str(rng.choice(ACCESSORIES)))


def random_place(rng: np.random.Generator, kind: str) -> Place:
    sky, ground = (str(rng.choice(list(names))) for names in (SKY_COLOURS, GROUND_COLOURS))
    first = TOKEN * int(rng.integers(4))
    return Place(kind, sky, ground, (first, first + 3 * TOKEN))


def random_shot(rng: np.random.Generator, characters: tuple[Character, ...], place: Place) -> Shot:
    """A shot after a cut: any action and camera that keeps everybody in the picture."""
    if len(characters) == 1:
        action, camera = str(rng.choice(ACTIONS)), str(rng.choice(CAMERAS))
        if camera in ("zoom", "close-up") and action.startswith("walk"):
            camera = str(rng.choice(CAMERAS[:2]))  # it would leave the picture
        x = (LEFTMOST + TOKEN * int(rng.integers(2)) + {"walk left": WALK, "walk right": 0.0}.get(action, TOKEN),)
    else:
        action, camera = str(rng.choice(ACTIONS[2:])), str(rng.choice(CAMERAS[:2]))
        x = tuple(float(side) for side in rng.permutation([LEFTMOST, RIGHTMOST]))
    facing = tuple(int(side) for side in rng.choice([-1, 1], len(characters)))
    if action.startswith("walk"):
        facing = (-1 if action == "walk left" else 1, *facing[1:])
    return Shot(characters, place, action, camera, x, facing, TOKEN * int(rng.integers(WIDTH // TOKEN)))


def random_clip(seed: int, pairs: float = 0.25) -> Shot:
    """A single shot of one character, or two (a share of `pairs`), nobody has seen before, in a new place."""
    rng = np.random.default_rng([seed, 0])
    kinds = rng.permutation(KINDS)[: 2 if rng.random() < pairs else 1]
    place = random_place(rng, str(rng.choice(PLACES)))
    return random_shot(rng, tuple(random_character(rng, str(kind)) for kind in kinds), place)


def random_story(seed: int, shots: int = 6) -> tuple[Shot, ...]:
    """A story of two characters and two places.

    Each shot has one or two of the characters. About a third of the shots go on without a cut: the same
    characters and place, where the shot before left them, with another action.
    """
    rng = np.random.default_rng([seed, 1])
    cast = [random_character(rng, str(kind)) for kind in rng.permutation(KINDS)[:2]]
    places = [random_place(rng, str(kind)) for kind in rng.permutation(PLACES)[:2]]
    story: list[Shot] = []
    for index in range(shots):
        if story and story[-1].cut and rng.random() < 0.4:
            story.append(continue_shot(rng, story[-1]))
            continue
        # The first two cuts introduce each character alone: nobody appears unseen in a shot of two.
        alone = sum(shot.cut for shot in story)
        who = [alone] if alone < 2 else list(rng.permutation(2)[: 2 if rng.random() < 0.3 else 1])
        shot = random_shot(rng, tuple(cast[i] for i in who), places[int(rng.integers(2))])
        # Shots of one place show the same stretch of it.
        story.append(replace(shot, scroll=0.0, cut=True) if index else replace(shot, scroll=0.0))
    return tuple(story)


def random_scene(seed: int, shots: int = 4) -> tuple[Shot, ...]:
    """Shots of one or two characters in one place, each after a cut."""
    rng = np.random.default_rng([seed, 2])
    kinds = rng.permutation(KINDS)[: 2 if rng.random() < 0.3 else 1]
    cast = tuple(random_character(rng, str(kind)) for kind in kinds)
    place = random_place(rng, str(rng.choice(PLACES)))
    return tuple(replace(random_shot(rng, cast, place), scroll=0.0) for _ in range(shots))


def random_encounters(seed: int) -> tuple[Shot, ...]:
    """Shots of one character each, everybody once, in one of two places: no shot shows the looks of another's actor."""
    rng = np.random.default_rng([seed, 4])
    cast = [random_character(rng, str(kind)) for kind in rng.permutation(KINDS)]
    places = [random_place(rng, str(kind)) for kind in rng.permutation(PLACES)[:2]]
    return tuple(replace(random_shot(rng, (who,), places[int(rng.integers(2))]), scroll=0.0) for who in cast)


def continue_shot(rng: np.random.Generator, shot: Shot) -> Shot:
    """The next shot without a cut: starts exactly as `shot` ends, and does something else."""
    end = motion(shot, 1.0)
    choices = [action for action in ACTIONS if action != shot.action]
    if len(shot.characters) > 1 or shot.camera in ("zoom", "close-up"):
        choices = [action for action in choices if not action.startswith("walk")]
    else:
        room = {"walk left": end.x[0] - WALK >= LEFTMOST, "walk right": end.x[0] + WALK <= RIGHTMOST}
        choices = [action for action in choices if room.get(action, True)]
    action = str(rng.choice(choices))
    facing = end.facing
    if action.startswith("walk"):
        facing = (-1 if action == "walk left" else 1, *facing[1:])
    # A zoom has reached close-up; the camera stays there.
    camera = "close-up" if shot.camera in ("zoom", "close-up") else str(rng.choice(CAMERAS[:2]))
    return Shot(shot.characters, shot.place, action, camera, end.x, facing, end.scroll, cut=False)


@dataclass(frozen=True)
class Pose:
    """Everything that moves, at one moment; lengths in pixels of the unzoomed picture."""

    x: tuple[float, ...]
    facing: tuple[int, ...]
    lift: float  # of the actor, above the ground
    turn: float  # width of the actor, 1 = as seen from the front
    arm: float | None  # angle of the actor's waving arm above the horizontal, radians
    step: float  # phase of the actor's legs, radians; 0 = standing
    scroll: float
    scale: float


def motion(shot: Shot, time: float) -> Pose:
    """The pose at `time`, 0 = first frame, 1 = last frame."""
    x, facing = list(shot.x), list(shot.facing)
    lift, turn, arm, step = 0.0, 1.0, None, 0.0
    if shot.action.startswith("walk"):
        x[0] += (-WALK if shot.action == "walk left" else WALK) * time
        step = 4 * np.pi * time
    elif shot.action == "jump":
        lift = JUMP * abs(np.sin(2 * np.pi * time))
    elif shot.action == "wave":
        # The arm starts and ends at the body, so that shots can be joined.
        arm = None if time in (0.0, 1.0) else 0.6 + 0.6 * np.sin(4 * np.pi * time - np.pi / 2)
    elif shot.action == "turn":
        turn = max(TURN_WIDTH, abs(np.cos(np.pi * time)))
        facing[0] = facing[0] if time < 0.5 else -facing[0]
    scale = {"zoom": 1 + (CLOSE_UP - 1) * time, "close-up": CLOSE_UP}.get(shot.camera, 1.0)
    lift /= scale  # a close-up has no room for a higher jump
    scroll = shot.scroll + (PAN * time if shot.camera == "pan" else 0.0)
    return Pose(tuple(x), tuple(facing), lift, turn, arm, step, scroll, scale)
