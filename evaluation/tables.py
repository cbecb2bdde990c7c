"""The report on the small world: a table of means with their intervals, and the goals, met or not."""

from .methods import ABLATIONS, M2V, METHODS, MI2V, T2V, WRONG
from .scores import Tally
from .statistics import Estimate, compare, estimate

Scores = dict[str, list[Tally]]  # name of a row -> one tally per story

TRUTH = "the truth, rendered"
BASELINE = "M2V, the stories of the ablations"
JUDGED_BY_WRONG = "the same, judged by the wrong story"
COLUMNS = {
    "identity": "identity",
    "identity 6": "in shot 6",
    "body": "body",
    "pattern": "pattern",
    "pattern_colour": "its colour",
    "accessory": "accessory",
    "place": "place",
    "kind": "kind",
    "action": "action",
    "distinct": "distinct",
    "quality": "well formed",
    "steady": "steady",
    "join": "join error",
    "flow": "flow break",
}
RATIOS = ("join", "flow")


def mean(scores: Scores, row: str, column: str) -> Estimate | None:
    """A score averaged over the stories of a row; None where it was never defined."""
    tallies = [tally.get(column, (0.0, 0.0)) for tally in scores.get(row, ())]
    return estimate(*zip(*tallies, strict=True)) if tallies else None


def rows(scores: Scores) -> list[str]:
    """Names of the rows in the order of the table."""
    methods, ablations = ([method.name for method in group] for group in (METHODS, ABLATIONS))
    ordered = [TRUTH, *methods, BASELINE, *ablations, JUDGED_BY_WRONG]
    return [name for name in ordered if name in scores]


def report(scores: Scores) -> str:
    """Markdown."""
    lines = [
        "# Stories of the small world",
        "",
        "Unseen stories of six shots, the same seeds for every method; mean over stories (95 % bootstrap interval), "
        "shots 2 to 6. Shares are in per cent. Identity: attributes of a character that are as they were at the first "
        "appearance, or in the reference. Distinct: attributes in which two characters differ at first; where there "
        "are fewer than without memory, one takes after the other. Well formed: pixels with a colour of the world. "
        "Steady: attributes that both halves of a shot show alike, the most that identity can be expected to reach. "
        "Join error: change over a continuation by the change of an ordinary step; flow break: the same for the "
        "change of optical flow.",
        "",
        f"| | stories | {' | '.join(COLUMNS.values())} |",
        f"| --- | --: | {' | '.join('--:' for _ in COLUMNS)} |",
    ]
    for row in rows(scores):
        cells = (cell(mean(scores, row, column), column in RATIOS) for column in COLUMNS)
        lines.append(f"| {row} | {len(scores[row])} | {' | '.join(cells)} |")
    lines += ["", "| goal | measured | met |", "| --- | --: | --- |"]
    lines += [f"| {text} | {measured} | {met} |" for text, measured, met in goals(scores)]
    return "\n".join(lines) + "\n"


def cell(value: Estimate | None, ratio: bool) -> str:
    if value is None:
        return "-"
    if ratio:
        return f"{value.mean:.2f} ({value.low:.2f}–{value.high:.2f})"
    return f"{100 * value.mean:.0f} ({100 * value.low:.0f}–{100 * value.high:.0f})"


def goals(scores: Scores) -> list[tuple[str, str, str]]:
    """Each goal that can be judged: what it asks, what was measured (95 % interval), and the verdict.

    The verdict is "yes" where the whole interval is good enough and "no" where none of it is; else it is the mean's.
    """
    found = []

    def judge(text: str, unit: str, least: float, function, *sought: tuple[str, str]) -> None:
        """`function` of the scores is to be `least` or more; in units of 1 or, for %, of a hundredth."""
        if not all(mean(scores, row, column) for row, column in sought):
            return
        tallies = ([tally.get(column, (0.0, 0.0)) for tally in scores[row]] for row, column in sought)
        value = compare(function, *(tuple(zip(*of_row, strict=True)) for of_row in tallies))
        scale, digits = (100, 1) if unit in ("%", "points") else (1, 2)
        measured = "{:.{}f} {} ({:.{}f} to {:.{}f})".format(
            scale * value.mean, digits, unit, scale * value.low, digits, scale * value.high, digits
        )
        verdict = "yes" if value.mean >= least else "no"
        sure = value.low >= least or value.high < least
        found.append((text, measured, verdict if sure else f"{verdict}, by the mean"))

    m2v, t2v, mi2v = M2V.name, T2V.name, MI2V.name
    judge(
        f"identity of {m2v} at least 1.5 times that of T2V",
        "times",
        1.5,
        lambda ours, base: ours / base,
        (m2v, "identity"),
        (t2v, "identity"),
    )
    judge(f"identity of {m2v} at least 90 % in the sixth shot", "%", 0.9, lambda ours: ours, (m2v, "identity 6"))
    judge(
        f"actions of {m2v} at most 2 points below T2V's",
        "points",
        -0.02,
        lambda ours, base: ours - base,
        (m2v, "action"),
        (t2v, "action"),
    )
    judge(
        "join error of MI2V at most half of a cut's: a cut's at least twice it",
        "times",
        2.0,
        lambda cut, ours: cut / ours,
        (m2v, "join"),
        (mi2v, "join"),
    )
    judge(
        "memory of the wrong story pulls its looks: more right by it than by the own story",
        "points",
        0.0,
        lambda wrong, own: wrong - own,
        (JUDGED_BY_WRONG, "identity"),
        (WRONG.name, "identity"),
    )
    return found
