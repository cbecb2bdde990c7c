"""Scores of one film of a small world's story: counts against the truth, to be averaged over stories."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tools.small_world.measure import Seen, SeenPlace, measure_place, who_is_who
from tools.small_world.world import Character, Place, Shot

from .joins import join_of
from .quality import well_formed
from .tale import Tale

ATTRIBUTES = ("body", "pattern", "pattern_colour", "accessory")
PLACE_ATTRIBUTES = ("sky", "ground")

# score -> (sum of what is right or measured, number of cases or what it is measured by)
Tally = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Looks:
    """How everybody and every place should look; None for who was not to be seen where that was to be learned."""

    cast: dict[Character, Character | None]
    places: dict[Place, SeenPlace]


@dataclass(frozen=True)
class Film:
    """A story's film and what was measured of it. shots: uint8 [N, 64, 96, 3] each, repeated frames left out."""

    tale: Tale
    shots: Sequence[np.ndarray]
    seen: Sequence[dict[Character, Seen | None]]
    places: Sequence[SeenPlace]

    @classmethod
    def measured(cls, tale: Tale, shots: Sequence[np.ndarray]) -> "Film":
        seen = [who_is_who(shot, frames) for shot, frames in zip(tale.shots, shots, strict=True)]
        return cls(tale, shots, seen, [measure_place(frames) for frames in shots])

    def first_looks(self) -> Looks:
        """The looks that the story itself has set: each one's at the first appearance."""
        cast, places = {}, {}
        for shot, seen, place in zip(self.tale.shots, self.seen, self.places, strict=True):
            places.setdefault(shot.place, place)
            for who, found in seen.items():
                cast.setdefault(who, found and found.looks)
        return Looks(cast, places)


def true_looks(tale: Tale, shown: Tale) -> Looks:
    """The looks of `shown`, of which memory has true pictures, for everybody in `tale` (the same or its twin)."""
    places = [SeenPlace(place.sky, place.ground) for place in shown.places]
    return Looks(dict(zip(tale.cast, shown.cast, strict=True)), dict(zip(tale.places, places, strict=True)))


def score(film: Film, looks: Looks) -> Tally:
    """Scores of the shots after the first, which most methods share.

    Looks are judged wherever somebody, or a place, appears again: who is not to be seen there, or was not to be
    seen where the looks were to be learned, is wrong in everything. The colour of a pattern counts where one should
    be. "identity" is the share of right attributes; "identity N" that of shot N alone; "steady" the share of attributes
    that both halves of a shot show alike; "distinct" the share of attributes in which two characters differ at first.
    """
    cases: list[tuple[str, float, float]] = [("distinct", differ, 1) for differ in distinctness(film)]
    known: set[Character | Place] = {*film.tale.shots[0].characters, film.tale.shots[0].place}
    for number in range(2, len(film.shots) + 1):
        shot, seen = film.tale.shots[number - 1], film.seen[number - 1]
        for who in shot.characters:
            if who in known:
                for attribute, right in compare(looks.cast[who], seen[who]).items():
                    cases += [(name, right, 1) for name in (attribute, "identity", f"identity {number}")]
            cases.append(("kind", seen[who] is not None and seen[who].looks.kind == who.kind, 1))
        if shot.place in known:
            for attribute in PLACE_ATTRIBUTES:
                place = film.places[number - 1]
                cases.append(("place", getattr(place, attribute) == getattr(looks.places[shot.place], attribute), 1))
        known |= {*shot.characters, shot.place}
        actor = seen[shot.characters[0]]
        cases.append(("action", actor is not None and actor.action == shot.action, 1))
        cases.append(("quality", well_formed(film.shots[number - 1]), 1))
        cases += [("steady", right, 1) for right in steadiness(shot, film.shots[number - 1])]
        if not shot.cut:
            join = join_of(film.shots[number - 2], film.shots[number - 1])
            cases += [("join", join.jump, join.ordinary), ("flow", join.flow, join.ordinary_flow)]
    tally: Tally = {}
    for name, top, bottom in cases:
        sums = tally.get(name, (0.0, 0.0))
        tally[name] = (sums[0] + top, sums[1] + bottom)
    return tally


def steadiness(shot: Shot, frames: np.ndarray) -> list[bool]:
    """Whether both halves of a shot show an attribute alike, for every character and attribute.

    Memory cannot carry looks from shot to shot better than the model keeps them within one.
    """
    middle = len(frames) // 2
    first, second = who_is_who(shot, frames[: middle + 1]), who_is_who(shot, frames[middle:])
    return [
        right for who in shot.characters for right in compare(first[who] and first[who].looks, second[who]).values()
    ]


def distinctness(film: Film) -> list[bool]:
    """Whether two characters of the film look different at first, for every pair and attribute but a pattern's colour.

    Who takes the looks of whoever is in memory is alike from shot to shot, too.
    """
    looks = [found for found in film.first_looks().cast.values() if found is not None]
    judged = [name for name in ATTRIBUTES if name != "pattern_colour"]
    return [getattr(a, name) != getattr(b, name) for a, b in combinations(looks, 2) for name in judged]


def compare(expected: Character | None, seen: Seen | None) -> dict[str, bool]:
    """Which attributes are right."""
    judged = [name for name in ATTRIBUTES if name != "pattern_colour" or not expected or expected.pattern != "plain"]
    both = expected is not None and seen is not None
    return {name: both and getattr(expected, name) == getattr(seen.looks, name) for name in judged}
