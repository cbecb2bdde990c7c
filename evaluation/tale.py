"""A story of the small world as the evaluation needs it: its shots, its looks, and its twin with other looks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import TypeVar

import numpy as np

from tools.small_world.render import render
from tools.small_world.world import Character, Place, Shot, random_character, random_place, random_story

SHOTS = 6
Drawn = TypeVar("Drawn", Character, Place)


def unlike(original: Drawn, attributes: Iterable[str], draw: Callable[[], Drawn]) -> Drawn:
    """The first that `draw` gives with all of these attributes different."""
    drawn = iter(draw, None)
    return next(one for one in drawn if all(getattr(one, name) != getattr(original, name) for name in attributes))


@dataclass(frozen=True)
class Tale:
    """The story of one seed; captions are all a model is told of it."""

    seed: int
    shots: tuple[Shot, ...]

    @classmethod
    def of_seed(cls, seed: int) -> "Tale":
        return cls(seed, random_story(seed, SHOTS))

    @cached_property
    def cast(self) -> tuple[Character, ...]:
        """Everybody, by first appearance."""
        return tuple(dict.fromkeys(who for shot in self.shots for who in shot.characters))

    @cached_property
    def places(self) -> tuple[Place, ...]:
        return tuple(dict.fromkeys(shot.place for shot in self.shots))

    def twin(self) -> "Tale":
        """The same captions and motions with other looks of everybody and every place, in every attribute."""
        rng = np.random.default_rng([self.seed, 7])
        looks = [field.name for field in fields(Character) if field.name != "kind"]
        cast = {who: unlike(who, looks, partial(random_character, rng, who.kind)) for who in self.cast}
        places = {
            place: replace(
                unlike(place, ("sky", "ground"), partial(random_place, rng, place.kind)), landmarks=place.landmarks
            )
            for place in self.places
        }
        shots = (
            replace(shot, characters=tuple(cast[who] for who in shot.characters), place=places[shot.place])
            for shot in self.shots
        )
        return Tale(self.seed, tuple(shots))

    def frames(self, number: int) -> np.ndarray:
        """What shot `number` (from 1) truly looks like, uint8 [17, 64, 96, 3]."""
        return render(self.shots[number - 1]).frames

    def portraits(self) -> np.ndarray:
        """Reference pictures, uint8 [N, 64, 96, 3]: everybody alone, in every place."""
        shots = [Shot((who,), place, "wave", "static", (40.0,), (1,)) for who in self.cast for place in self.places]
        return np.stack([render(shot).frames[0] for shot in shots])
