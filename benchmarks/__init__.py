"""Ratios measured in one run: ours against a literal or plain reference, on the same machine and input."""

from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table; times in seconds unless `unit` says otherwise, ratio as the goal states it."""

    name: str
    ours: float
    reference: float
    ratio: float
    goal: str
    unit: str = "s"
