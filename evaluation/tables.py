"""The report on the small world: a table of means with their intervals, and the goals, met or not."""

from .methods import ABLATIONS, M2V, METHODS, MI2V, T2V, WRONG
from .scores import Tally
from .statistics import Estimate, estimate

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
    "quality": "well formed",
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
        "appearance, or in the reference. Join error: change over a continuation by the change of an ordinary step; "
        "flow break: the same for the change of optical flow. Well formed: pixels with a colour of the world.",
        "",
        f"| | stories | {' | '.join(COLUMNS.values())} |",
        f"| --- | --: | {' | '.join('--:' for _ in COLUMNS)} |",
    ]
    for row in rows(scores):
        cells = (cell(mean(scores, row, column), column in RATIOS) for column in COLUMNS)
        lines.append(f"| {row} | {len(scores[row])} | {' | '.join(cells)} |")
    lines += ["", "| goal | measured | met |", "| --- | --: | --- |"]
    lines += [f"| {text} | {measured} | {'yes' if met else 'no'} |" for text, measured, met in goals(scores)]
    return "\n".join(lines) + "\n"


def cell(value: Estimate | None, ratio: bool) -> str:
    if value is None:
        return "-"
    if ratio:
        return f"{value.mean:.2f} ({value.low:.2f}–{value.high:.2f})"
    return f"{100 * value.mean:.0f} ({100 * value.low:.0f}–{100 * value.high:.0f})"


def goals(scores: Scores) -> list[tuple[str, str, bool]]:
    """Each goal that can be judged: what it asks, what was measured, whether that is enough."""
    found = []

    def judge(text: str, compare, *sought: tuple[str, str]) -> None:
        values = [mean(scores, row, column) for row, column in sought]
        if all(values):
            found.append((text, *compare(*(value.mean for value in values))))

    m2v, t2v, mi2v = M2V.name, T2V.name, MI2V.name
    judge(
        "identity of M2V at least 1.5 times that of T2V",
        lambda ours, base: (f"{ours / base:.2f} times", ours >= 1.5 * base),
        (m2v, "identity"),
        (t2v, "identity"),
    )
    judge(
        "identity of M2V at least 90 % in the sixth shot",
        lambda ours: (f"{100 * ours:.1f} %", ours >= 0.9),
        (m2v, "identity 6"),
    )
    judge(
        "actions of M2V within 2 points of T2V's",
        lambda ours, base: (f"{100 * (ours - base):+.1f} points", ours >= base - 0.02),
        (m2v, "action"),
        (t2v, "action"),
    )
    judge(
        "join error of MI2V at most half of a cut's",
        lambda ours, cut: (f"{ours / cut:.2f} times", ours <= 0.5 * cut),
        (mi2v, "join"),
        (m2v, "join"),
    )
    judge(
        "memory of the wrong story pulls its looks: more right by it than by the own story",
        lambda wrong, own: (f"{100 * wrong:.1f} % against {100 * own:.1f} %", wrong > own),
        (JUDGED_BY_WRONG, "identity"),
        (WRONG.name, "identity"),
    )
    return found
