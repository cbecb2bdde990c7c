"""The report on a story's videos: Markdown, and a contact sheet with a row of frames for every shot."""

import html
from collections.abc import Sequence

import cv2
import numpy as np

from storymem_core.script import Story

from .videos import Scores

WIDTH, GAP, MARGIN = 160, 4, 48  # pixels of a thumbnail, between them, for the shot's number
BACKGROUND, INK = 24, (235, 235, 235)


def contact_sheet(shots: Sequence[np.ndarray]) -> np.ndarray:
    """A row for each shot's frames, uint8 [N, H, W, 3] -> uint8 [H, W, 3]; all shots have as many frames."""
    rows = [_row(number, frames) for number, frames in enumerate(shots, 1)]
    return np.concatenate([*rows, np.full((GAP, rows[0].shape[1], 3), BACKGROUND, np.uint8)])


def _row(number: int, frames: np.ndarray) -> np.ndarray:
    height = round(WIDTH * frames.shape[1] / frames.shape[2])
    row = np.full((GAP + height, MARGIN + len(frames) * (WIDTH + GAP), 3), BACKGROUND, np.uint8)
    cv2.putText(row, str(number), (8, GAP + height // 2 + 6), cv2.FONT_HERSHEY_SIMPLEX, 0.6, INK, 1, cv2.LINE_AA)
    for index, frame in enumerate(frames):
        left = MARGIN + index * (WIDTH + GAP)
        larger = frame.shape[1] < WIDTH
        thumbnail = cv2.resize(frame, (WIDTH, height), interpolation=cv2.INTER_NEAREST if larger else cv2.INTER_AREA)
        row[GAP:, left : left + WIDTH] = thumbnail
    return row


def report(story: Story, scores: Scores, sheet: str) -> str:
    """Markdown; `sheet` is the contact sheet's file beside it."""
    rows = (
        ("cross-shot consistency, all pairs of shots", scores.overall),
        (f"cross-shot consistency, the {len(scores.pairs)} pairs with the most similar prompts", scores.top),
        ("prompt following, story", scores.story),
        ("prompt following, shots", scores.shots),
        ("aesthetic score", scores.aesthetic),
    )
    pairs = ", ".join(f"{i} and {j}" for i, j in scores.pairs)
    lines = [
        f"# {_plain(story.name)}",
        "",
        "| score | value |",
        "| --- | --: |",
        *(f"| {name} | {value if isinstance(value, str) else format(value, '.4f')} |" for name, value in rows),
        "",
        f"Pictures compared with `{scores.embedder}`, prompts by {scores.prompts_by}. ST-Bench compares both with "
        "ViCLIP: figures of different embedders do not compare.",
        *(["", f"Shots whose prompts are most alike: {pairs}."] if pairs else []),
        *(f"\n{note}" for note in scores.notes),
        "",
        f"![a row of frames for each shot]({sheet})",
        "",
        "| shot | begins with | prompt |",
        "| --: | --- | --- |",
        *(
            f"| {shot.number} | {'a cut' if shot.cut else 'the shot before'} | {_plain(shot.prompt)} |"
            for shot in story.shots
        ),
    ]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """A text that Markdown shows as it is written, on one line."""
    escaped = "".join(f"\\{letter}" if letter in r"\`*_[]#|~!" else letter for letter in " ".join(text.split()))
    return html.escape(escaped, quote=False)
