"""A long story through the Director: the server's memory against a short story's, and a second run's time.

Each story gets a server of its own; memory is the most that it ever held resident (VmHWM of Linux), with glibc told to
give freed pictures back at once (tools/server.py): what is measured is what is held, not what the allocator keeps.
"""

import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import Row
from tests.host_graph import Graph
from tools.server import Server
from tools.setup import BASE, FOOTAGE_NAME, make_base

SHORT, LONG = 3, 30
SIZE = {"width": 160, "height": 96, "length": 49}
BEGINNING = ["cut", "first_frame", "motion_frames"]  # then cuts, which need no VAE encoding
FLOAT = 4
CAPACITY = 6  # what the third shot can recall: shots of both stories remember as much


def run() -> list[Row]:
    """Measure, print what was measured, and return the rows. SystemExit if a second run samples anything."""
    short_memory, short_seconds = produce(SHORT)
    long_memory, seconds = produce(LONG)
    frames = (LONG - SHORT) * SIZE["length"] * SIZE["width"] * SIZE["height"] * 3 * FLOAT / 2**20
    print(
        f"""\
story: {SHORT} and {LONG} shots of {SIZE["length"]} frames of {SIZE["width"]}x{SIZE["height"]}, one sampling step each
  memory      the most the server held: {short_memory:.0f} MiB for {SHORT} shots, {long_memory:.0f} MiB for {LONG};
              to keep the frames of {LONG - SHORT} shots more would take {frames:.0f} MiB
  run again   {seconds[1]:.2f} s after {seconds[0]:.1f} s ({LONG} shots), {short_seconds[1]:.2f} s after \
{short_seconds[0]:.1f} s ({SHORT} shots), without a sampling step"""
    )
    memory = long_memory / short_memory
    again = seconds[1] / seconds[0]
    return [
        Row(f"peak memory, {LONG} shots against {SHORT}", long_memory, short_memory, memory, "<= 1.05", "MiB"),
        Row(f"unchanged story of {LONG} shots, second run", seconds[1], seconds[0], again, "<= 0.05"),
    ]


def produce(shots: int) -> tuple[float, list[float]]:
    """Peak memory of the server in MiB, and the seconds of two runs of one story."""
    with TemporaryDirectory() as folder:
        base = Path(folder)
        make_base(base, BASE / "input" / FOOTAGE_NAME, models=BASE / "models")
        with Server(base) as server:
            seconds = []
            for again in (False, True):
                steps = []
                start = time.monotonic()
                graph = Graph(server.client)
                graph.director(story(shots), **SIZE, steps=1, cfg=1.0, bank=graph.bank(0, capacity=CAPACITY))
                graph.run(on_event=lambda event, data, steps=steps: is_step(event, data) and steps.append(data))
                seconds.append(time.monotonic() - start)
                if len(steps) != (0 if again else shots):
                    raise SystemExit(f"{shots} shots, {'second' if again else 'first'} run: {len(steps)} steps sampled")
            return peak_memory(server), seconds


def story(shots: int) -> dict:
    kinds = BEGINNING + ["cut"] * (shots - len(BEGINNING))
    scene = {
        "scene_num": 1,
        "video_prompts": [f"shot {number + 1}" for number in range(shots)],
        "cut": [kind == "cut" for kind in kinds],
        "transition": kinds,
    }
    return {"story_name": f"{shots} shots", "scenes": [scene]}


def is_step(event: str, data: dict) -> bool:
    return event == "progress" and re.search(r"shot\d+_sampler$", data["node"]) is not None


def peak_memory(server: Server) -> float:
    status = Path(f"/proc/{server._process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 2**10


if __name__ == "__main__":
    for row in run():
        print(f"{row.name}: {row.ours:.4g} against {row.reference:.4g} {row.unit}, {row.ratio:.4g} (goal {row.goal})")
