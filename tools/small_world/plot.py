"""python -m tools.small_world.plot: draws the loss of every run in logs/ beside its log."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from .run import LOGS


def plot(log: Path) -> None:
    """logs/NAME.jsonl -> logs/NAME.png: each logged number over the steps."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    names = [name for name in rows[0] if name not in ("step", "seconds")]
    figure, axes = pyplot.subplots(1, len(names), figsize=(5 * len(names), 3.2), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot([row["step"] for row in rows], [row[name] for row in rows], linewidth=1)
        axis.set(xlabel="step", title=f"{log.stem}: {name}")
        axis.grid(alpha=0.3)
        if name == "loss":
            axis.set_yscale("log")
    figure.tight_layout()
    figure.savefig(log.with_suffix(".png"), dpi=70)
    pyplot.close(figure)


if __name__ == "__main__":
    for log in sorted(LOGS.glob("*.jsonl")):
        plot(log)
