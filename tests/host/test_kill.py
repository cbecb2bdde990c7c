"""A server killed again and again in the middle of a story: nothing finished is lost, nothing half is used.

STORYMEM_KILLS says how often; each kill costs a start of the server.
"""

import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import aiohttp
import av
import numpy as np

from host_graph import Graph
from storymem_core.shot_files import load_shot
from tools.server import Server
from tools.setup import BASE, FOOTAGE_NAME, make_base

KILLS = int(os.environ.get("STORYMEM_KILLS", "3"))
KINDS = ["cut", "first_frame", "motion_frames", "cut", "first_frame", "cut", "cut", "motion_frames", "cut", "cut"]
STORY = {
    "story_name": "killed",
    "scenes": [
        {
            "scene_num": 1,
            "video_prompts": [f"shot {number} of a fox" for number in range(1, 11)],
            "cut": [kind == "cut" for kind in KINDS],
            "transition": KINDS,
        }
    ],
}
FRAMES = 10 * 9 - 2 * 1 - 2 * 5
FINISHED = re.compile(r"\d{3}-[0-9a-f]{32}")


def director(server: Server) -> Graph:
    graph = Graph(server.client)
    graph.director(STORY, steps=4, folder="kill_test")
    return graph


def root_of(server: Server) -> Path:
    return server.base / "output" / "kill_test" / "killed"


def pictures(root: Path) -> np.ndarray:
    (film,) = root.glob("film-*.mp4")
    with av.open(str(film)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def finished(root: Path) -> dict[str, tuple]:
    """The finished shots on disk, checked to be whole, and what changes for one that is written anew."""
    folders = [path for path in root.glob("*") if FINISHED.fullmatch(path.name)]
    for folder in folders:
        load_shot(folder, None)
    return {folder.name: (folder.stat().st_ino, folder.stat().st_mtime_ns) for folder in folders}


class Kill:
    """Kills a server with SIGKILL some time after its first sign of work, which is one of three.

    start: the prompt begins; step: a sampling step ends; part: a file is being written.
    """

    def __init__(self, server: Server, sign: str, delay: float):
        self.server, self.sign, self.delay = server, sign, delay
        self.work = threading.Event()
        self.sampled = set()
        self.over = False
        self.thread = threading.Thread(target=self.watch)

    def __call__(self, event: str, data: dict) -> None:
        if event == "execution_start" and self.sign == "start":
            self.work.set()
        if event == "progress" and (found := re.search(r"shot(\d+)_sampler", data["node"])):
            self.sampled.add(int(found[1]))
            if self.sign == "step":
                self.work.set()

    def watch(self) -> None:
        known = set(root_of(self.server).glob(".*.part"))
        while not self.over and not self.work.wait(0.001):
            if self.sign == "part" and set(root_of(self.server).glob(".*.part")) - known:
                break
        if not self.over:
            time.sleep(self.delay)
        os.killpg(self.server._process.pid, signal.SIGKILL)

    def run(self) -> None:
        self.thread.start()
        try:
            director(self.server).run(on_event=self)
        except (OSError, aiohttp.ClientError):
            pass
        finally:
            self.over = True
            self.thread.join()


def test_a_story_survives_kills(server, tmp_path):
    began = time.monotonic()
    director(server).run()
    seconds = time.monotonic() - began
    undisturbed = pictures(root_of(server))
    assert len(undisturbed) == FRAMES
    print(f"undisturbed: {seconds:.1f} s")

    chance = random.Random(KILLS)
    longest = seconds * (1.5 / KILLS + 0.1)  # so that the last kills find the story nearly finished
    make_base(tmp_path, BASE / "input" / FOOTAGE_NAME, models=BASE / "models")
    shots, sampled = {}, []
    for number in range(1, KILLS + 1):
        sign = chance.choice(["start", "step", "step", "part"])
        delay = chance.uniform(0, 0.03 if sign == "part" else longest)
        with Server(tmp_path) as running:
            kill = Kill(running, sign, delay)
            kill.run()
        root, before = root_of(running), shots
        shots = finished(root)
        parts = len(list(root.glob(".*.part")))
        print(f"kill {number}: {delay:.2f} s after {sign}: {len(shots)} shots finished, {parts} half written")
        assert shots.items() >= before.items()
        assert not kill.sampled & {int(name[:3]) for name in before}
        sampled += [int(name[:3]) for name in shots.keys() - before.keys()]

    with Server(tmp_path) as running:
        steps = set()

        def on_event(event: str, data: dict) -> None:
            if event == "progress" and (found := re.search(r"shot(\d+)_sampler", data["node"])):
                steps.add(int(found[1]))

        director(running).run(on_event=on_event)
    after = finished(root)
    assert after.items() >= shots.items()
    assert sorted([*sampled, *steps]) == list(range(1, 11))
    assert np.array_equal(pictures(root), undisturbed)
    (film,) = root.glob("film-*.mp4")
    assert {path.name for path in root.iterdir()} == {*after, film.name, film.with_suffix(".png").name}
    assert after.keys() == finished(root_of(server)).keys()
