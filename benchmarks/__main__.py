"""python -m benchmarks: every ratio, in one Markdown table."""

import operator
import os
import platform
import re
from pathlib import Path

import torch

from benchmarks import Row, front_end, keyframes
from benchmarks.host import load_host

RELATIONS = {"<=": operator.le, ">=": operator.ge}


def main() -> None:
    rows = keyframes.run()
    rows += front_end.run()
    host = load_host()
    # Only now: they import the host's modules.
    from benchmarks import sampling_step, story, vae_encodes

    rows += sampling_step.run(host)
    rows += vae_encodes.run(host)
    rows += story.run()
    print(f"\n{table(rows)}\n\n{machine()}")


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table. Ratios with a goal `>=` are reference / ours, with `<=` ours / reference."""
    lines = ["| benchmark | ours | reference | ratio | goal | met |", "| --- | --: | --: | --: | --: | --- |"]
    for row in rows:
        relation, bound = row.goal.rstrip("x").split()
        met = "yes" if RELATIONS[relation](row.ratio, float(bound)) else "no"
        times = f"{row.ours:.4g} {row.unit} | {row.reference:.4g} {row.unit}"
        lines.append(f"| {row.name} | {times} | {row.ratio:.4g} | {row.goal} | {met} |")
    return "\n".join(lines)


def machine() -> str:
    """The processor, its cores, and torch's version."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    processor = names[0] if names else platform.processor()
    return f"Measured on {processor}, {os.cpu_count()} cores, torch {torch.__version__}."


if __name__ == "__main__":
    main()
