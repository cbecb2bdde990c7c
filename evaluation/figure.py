"""The figure of the small world: identity from shot to shot, and what the ablations do to it."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from .methods import ABLATIONS, METHODS
from .tables import BASELINE, JUDGED_BY_WRONG, TRUTH, Scores, mean
from .tale import SHOTS


def draw(scores: Scores, path: Path) -> None:
    """Write the figure as a PNG."""
    plot, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    over_shots(left, scores)
    bars(right, scores)
    plot.savefig(path, dpi=110)
    plt.close(plot)


def over_shots(axes, scores: Scores) -> None:
    shown = [name for name in (TRUTH, *(method.name for method in METHODS)) if name in scores]
    for index, name in enumerate(shown):
        values = [(number, mean(scores, name, f"identity {number}")) for number in range(2, SHOTS + 1)]
        values = [(number, value) for number, value in values if value]
        at = [number + 0.05 * (index - len(shown) / 2) for number, _ in values]
        means = [100 * value.mean for _, value in values]
        errors = [
            [100 * (value.mean - value.low) for _, value in values],
            [100 * (value.high - value.mean) for _, value in values],
        ]
        colour, line = "0.6" if name == TRUTH else plt.get_cmap("Paired")(index - 1), "--" if ", " in name else "-"
        axes.errorbar(at, means, errors, label=name, capsize=2, marker="o", markersize=4, color=colour, linestyle=line)
    axes.set(xlabel="shot", ylabel="right attributes of characters, %", ylim=(0, 104), xticks=range(2, SHOTS + 1))
    axes.set_title("Identity over the story", fontsize=11)
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    axes.grid(alpha=0.3)


def bars(axes, scores: Scores) -> None:
    names = [BASELINE, *(method.name for method in ABLATIONS), JUDGED_BY_WRONG]
    shown = [(name, value) for name in names if (value := mean(scores, name, "identity"))]
    for place, (name, value) in enumerate(shown):
        error = [[100 * (value.mean - value.low)], [100 * (value.high - value.mean)]]
        colour = "tab:red" if name == JUDGED_BY_WRONG else "tab:green" if name == BASELINE else "tab:blue"
        axes.barh(place, 100 * value.mean, xerr=error, color=colour, alpha=0.75, capsize=2)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="right attributes of characters, %", xlim=(0, 104))
    axes.set_title("M2V and its ablations", fontsize=11)
    axes.grid(axis="x", alpha=0.3)
