"""python -m tools.side_by_side OUT.gif FILM.mp4 FILM.mp4: two films beside each other as an animated picture."""

import argparse
from pathlib import Path

import av
import numpy as np
from PIL import Image

SCALE, GAP = 2, 8  # for the small world's films: enlarged without blur; pixels between the two
STRIDE = 2  # every second frame halves the file


def side_by_side(first: Path, second: Path, out: Path) -> int:
    """Write an endless GIF at the first film's speed, as long as the shorter one; its number of frames."""
    films = [frames_of(film) for film in (first, second)]
    gap = np.full((films[0][0][0].shape[0], GAP // SCALE, 3), 255, np.uint8)
    frames = [
        np.concatenate([left, gap, right], 1)
        for left, right in zip(films[0][0][::STRIDE], films[1][0][::STRIDE], strict=False)
    ]
    # One palette for all, so that what stays the same does so here too; k-means keeps the colours of small parts. No
    # dither: a flat area stays flat, which is what makes a GIF small.
    palette = Image.fromarray(np.concatenate(frames)).quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3)
    pictures = [
        Image.fromarray(frame.repeat(SCALE, 0).repeat(SCALE, 1)).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    milliseconds = round(1000 * STRIDE / films[0][1])
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return len(pictures)


def frames_of(film: Path) -> tuple[list[np.ndarray], float]:
    """Frames, uint8 [H, W, 3], and frames per second."""
    with av.open(str(film)) as container:
        rate = float(container.streams.video[0].average_rate)
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], rate


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.side_by_side", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("films", type=Path, nargs=2)
    arguments = parser.parse_args()
    print(f"{arguments.out}  {side_by_side(*arguments.films, arguments.out)} frames")
