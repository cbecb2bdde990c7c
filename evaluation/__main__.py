"""python -m evaluation world|videos: see each one's --help."""

import argparse
import sys
from pathlib import Path

import cv2

from storymem_core.errors import InputError
from storymem_core.script import StoryError, parse_story
from tools.client import NodeError
from tools.server import ServerError

from . import report, videos, world
from .clip import AestheticHead
from .methods import METHODS


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evaluation", description="How well stories hold together.")
    commands = parser.add_subparsers(required=True)

    known = commands.add_parser("world", help="all methods on unseen stories of the small world, against the truth")
    known.add_argument("--stories", type=int, default=50, help="(%(default)s)")
    known.add_argument("--methods", nargs="+", choices=(names := [one.name for one in METHODS]), default=names)
    known.add_argument("--ablation-stories", type=int, default=20, help="for each ablation; 0 for none (%(default)s)")
    known.add_argument("--servers", type=int, default=1, help="to make stories side by side (%(default)s)")
    known.set_defaults(run=run_world)

    real = commands.add_parser("videos", help="the shots of one story, without ground truth")
    real.add_argument("folder", type=Path, help="a story's folder of Story Director, or a folder of .mp4 files by name")
    real.add_argument("--script", type=Path, required=True, help="the story script")
    real.add_argument(
        "--embedder",
        default=videos.COLOUR_LAYOUT,
        help="%(default)s (built in, reads no prompts), or an open_clip ViT-B/32 file",
    )
    real.add_argument("--aesthetic", type=Path, help="a linear head on the embedder's features that scores beauty")
    real.add_argument("--out", type=Path, help="folder of the report (evaluation, in the folder of the shots)")
    real.set_defaults(run=run_videos)
    return parser.parse_args(arguments)


def run_world(options: argparse.Namespace) -> None:
    methods = [method for method in METHODS if method.name in options.methods]
    world.run(methods, options.stories, options.ablation_stories, options.servers)


def run_videos(options: argparse.Namespace) -> None:
    story = parse_story(options.script.read_text(encoding="utf-8"))
    shots = videos.find_shots(options.folder)
    videos.check_count(story, shots, options.folder)
    embedder, text = videos.choose_embedder(options.embedder)
    head = options.aesthetic and AestheticHead(options.aesthetic)
    frames = [videos.sample_frames(shot) for shot in shots]
    scores = videos.evaluate(story, frames, embedder, text, head)
    out = options.out or options.folder / "evaluation"
    out.mkdir(parents=True, exist_ok=True)
    sheet = out / "shots.jpg"
    cv2.imwrite(str(sheet), report.contact_sheet(frames)[..., ::-1])
    (out / "report.md").write_text(report.report(story, scores, sheet.name), encoding="utf-8")
    print(f"{out / 'report.md'}\n{sheet}")


def main(arguments: list[str]) -> int:
    options = parse_arguments(arguments)
    try:
        options.run(options)
    except (InputError, StoryError, NodeError, ServerError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: finished shots are kept, the next run goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
