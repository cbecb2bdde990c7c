"""What a person changed in a memory by hand: flags and labels of keyframes, and their order."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .bank import Keyframe, MemoryBank
from .errors import InputError

_PARTS = {"keyframes": dict, "order": list}
_CHANGES = {"pinned": bool, "excluded": bool, "label": str}


@dataclass(frozen=True)
class Edits:
    """Changes to apply to a bank. Those of keyframes that it does not hold wait until it does.

    keyframes: keyframe id -> new values of any of `pinned`, `excluded`, `label`.
    order: ids in the order in which they share the places that they have in the bank; others keep their place.
    """

    keyframes: Mapping[str, Mapping[str, bool | str]] = field(default_factory=dict)
    order: Sequence[str] = field(default_factory=list)

    def places(self, keyframes: Sequence[Keyframe]) -> list[int]:
        """For each place of the new order, the place that its keyframe has in `keyframes`."""
        rank = {name: i for i, name in enumerate(self.order)}
        places = list(range(len(keyframes)))
        listed = [i for i in places if keyframes[i].id in rank]
        for place, source in zip(listed, sorted(listed, key=lambda i: rank[keyframes[i].id]), strict=True):
            places[place] = source
        return places

    def apply(self, bank: MemoryBank) -> MemoryBank:
        """The bank with these changes."""
        changed = [
            replace(keyframe, **self.keyframes[keyframe.id]) if keyframe.id in self.keyframes else keyframe
            for keyframe in bank.keyframes
        ]
        return replace(bank, keyframes=tuple(changed[i] for i in self.places(changed)))


def read_edits(text: str) -> Edits:
    """Edits from JSON, `{"keyframes": {"<id>": {"pinned": true, "label": "Mara"}}, "order": ["<id>", ...]}`.

    Each part may be missing; empty text holds no edits. Raises InputError("edits", ...) on anything else.
    """
    if not text.strip():
        return Edits()
    try:
        parts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(text, f"not JSON ({error})") from error
    _require(parts, _PARTS, "the whole")
    for name, changes in parts.get("keyframes", {}).items():
        _require(changes, _CHANGES, f"keyframe {name}")
    order = parts.get("order", [])
    if not all(isinstance(name, str) for name in order):
        raise _wrong(order, "order is no list of keyframe ids")
    if len(set(order)) < len(order):
        raise _wrong(order, "order names a keyframe twice")
    return Edits(**parts)


def _require(value: object, fields: dict[str, type], what: str) -> None:
    if not isinstance(value, dict) or not value.keys() <= fields.keys():
        raise _wrong(value, f"{what} is no object of {', '.join(fields)}")
    for name, kind in fields.items():
        if name in value and not isinstance(value[name], kind):
            raise _wrong(value[name], f"{name} of {what} is no {kind.__name__}")


def _wrong(value: object, problem: str) -> InputError:
    text = value if isinstance(value, str) else json.dumps(value)
    # a memory of 256 keyframes makes a text that no message should hold
    shown = text if len(text) <= 80 else f"{text[:80]}..."
    return InputError("edits", shown, problem, "Reset the edits on the node, or clear this input")
