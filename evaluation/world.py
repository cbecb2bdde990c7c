"""All methods and ablations on unseen stories of the small world, against its truth: one table and one figure."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from tqdm import tqdm

from storymem_core.transitions import OVERLAP
from tools.server import Server
from tools.setup import BASE, FOOTAGE_NAME, REPO, make_base

from . import figure, tables
from .frames import frames_of
from .methods import ABLATIONS, M2V, Method, references, wrong_story
from .produce import Models, Studio
from .scores import Film, Tally, score, true_looks
from .tables import BASELINE, JUDGED_BY_WRONG, TRUTH, Scores
from .tale import SHOTS, Tale

FIRST_SEED = 50_000
RESULTS = REPO / "benchmarks" / "results"


def run(compared: Sequence[Method], stories: int, ablation_stories: int, servers: int) -> None:
    """Make the films that are missing, measure all of them, and write world.md and world.png.

    servers: how many make stories side by side, each on a core of its own.
    """
    models = Models()
    contents = models.contents(BASE / "models")
    jobs = [(method, stories) for method in compared] + [(method, ablation_stories) for method in ABLATIONS]
    shots = SHOTS * sum(count for _, count in jobs)
    with ExitStack() as running, tqdm(total=shots, desc="films", unit="shot") as bar:
        pool, idle = ThreadPoolExecutor(servers), SimpleQueue()
        running.callback(pool.shutdown, cancel_futures=True)  # once the servers have stopped
        for number in range(servers):
            base = server_base(number)
            server = running.enter_context(Server(base, keep_memory=True))
            idle.put(Studio(server.client, base / "output", models, contents))

        def story(index: int) -> Scores:
            studio = idle.get()
            try:
                return score_story(studio, index, [method for method, count in jobs if index < count], bar.update)
            finally:
                idle.put(studio)

        scores: Scores = {}
        for of_story in pool.map(story, range(max(stories, ablation_stories))):
            for name, tallies in of_story.items():
                scores.setdefault(name, []).extend(tallies)
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = tables.report(scores)
    (RESULTS / "world.md").write_text(text)
    figure.draw(scores, RESULTS / "world.png")
    print(text)


def server_base(number: int) -> Path:
    """A base directory for one server; all of them write their shots to one folder."""
    base = BASE / "evaluation" / f"server{number}"
    output = BASE / "evaluation" / "output"
    output.mkdir(parents=True, exist_ok=True)
    base.mkdir(exist_ok=True)
    if not (base / "output").exists():
        (base / "output").symlink_to(output, target_is_directory=True)
    make_base(base, BASE / "input" / FOOTAGE_NAME, models=BASE / "models")
    return base


def score_story(studio: Studio, index: int, methods: Sequence[Method], on_shot: Callable[[], object]) -> Scores:
    """Scores of one story by every method. M2V counts for the ablations too, where there are any."""
    tale = Tale.of_seed(FIRST_SEED + index)
    scores: Scores = {TRUTH: [score_truth(tale)]}
    for method in methods:
        for name, tally in score_method(studio, tale, method, on_shot).items():
            scores[name] = [tally]
    if M2V.name in scores and any(method in ABLATIONS for method in methods):
        scores[BASELINE] = scores[M2V.name]
    return scores


def score_method(
    studio: Studio, tale: Tale, method: Method, on_shot: Callable[[], object] = lambda: None
) -> dict[str, Tally]:
    """Scores of a method on a story by the name of their row; memory of the wrong story gets a second one.

    Looks are judged by the references where there are any, else by the story's own first appearances; with memory
    of the wrong story, by those of the film with its own memory.
    """
    film = measure_film(studio, tale, method, on_shot)
    if method.memory is references:
        return {method.name: score(film, true_looks(tale, tale))}
    if method.memory is wrong_story:
        own = measure_film(studio, tale, replace(method, memory=M2V.memory)).first_looks()
        wrong = true_looks(tale, tale.twin())
        return {method.name: score(film, own), JUDGED_BY_WRONG: score(film, wrong)}
    return {method.name: score(film, film.first_looks())}


def measure_film(studio: Studio, tale: Tale, method: Method, on_shot: Callable[[], object] = lambda: None) -> Film:
    return Film.measured(tale, [frames_of(shot) for shot in studio.make(tale, method, on_shot)])


def score_truth(tale: Tale) -> Tally:
    """The same for the story as it truly is: the best that these measurements can say of a film."""
    film = Film.measured(tale, true_shots(tale))
    return score(film, film.first_looks())


def true_shots(tale: Tale) -> list[np.ndarray]:
    """The rendered shots, without the frame that a continuation repeats."""
    return [
        tale.frames(number)[0 if shot.cut else OVERLAP["first_frame"] :] for number, shot in enumerate(tale.shots, 1)
    ]
