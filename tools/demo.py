"""make demo: a shipped story on the demo models, through a real ComfyUI server, into demo_output/."""

import json
import shutil
import sys
from pathlib import Path

import av
import cv2

from .client import NodeError
from .server import Server, ServerError
from .setup import BASE, REPO
from .story import WORKFLOW, StoryClient, make_job, run_story, table

EXAMPLES = REPO / "example_workflows"
STORY = EXAMPLES / "stories" / "lighthouse.json"
BY_HAND = EXAMPLES / "api" / "three_shots.json"
OUTPUT = REPO / "demo_output"
FOLDER = "storymem_demo"
SIZE = {"width": 128, "height": 80, "length": 17, "steps": 6}


def demo_workflow() -> dict:
    """The story workflow with the demo models, taken from the example that is built by hand."""
    workflow, by_hand = json.loads(WORKFLOW.read_text()), json.loads(BY_HAND.read_text())
    loaders = ("model_high_noise", "model_low_noise", "lora_high_noise", "lora_low_noise", "clip", "vae")
    return workflow | {name: by_hand[name] for name in loaders}


def begin_with_footage(workflow: dict) -> dict:
    """The workflow with keyframes of real footage in the memory that the story begins with."""
    by_hand = json.loads(BY_HAND.read_text())
    footage = {name: node for name, node in by_hand.items() if name.startswith(("footage", "bank", "shot1_"))}
    footage["footage_size"]["inputs"] |= {"width": 416, "height": 240}
    workflow["director"]["inputs"]["bank"] = ["shot1_keyframes", 0]
    return workflow | footage


def count_frames(video: Path) -> int:
    """Frames of a video that plays in every browser; ValueError for any other."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        if stream.codec_context.name != "h264" or stream.codec_context.pix_fmt != "yuv420p":
            raise ValueError(f"{video}: {stream.codec_context.name} does not play in every browser")
        return sum(1 for _ in container.decode(stream))


def main() -> int:
    workflow = begin_with_footage(demo_workflow())
    workflow["director"]["inputs"] |= {"folder": FOLDER, **SIZE}
    job = make_job(STORY, workflow)
    video, picture = OUTPUT / "story.mp4", OUTPUT / "memory.png"
    OUTPUT.mkdir(exist_ok=True)
    for old in OUTPUT.iterdir():
        old.unlink()
    # shots of an earlier demo would be reused
    shutil.rmtree(BASE / "output" / FOLDER, ignore_errors=True)
    try:
        print("starting ComfyUI ...", flush=True)
        with Server() as server:
            shots = run_story(StoryClient(server.client.url), job, video, picture)
    except (NodeError, ServerError) as error:
        print(error, file=sys.stderr)
        return 1

    frames, sheet = count_frames(video), cv2.imread(str(picture))
    print(f"\n{table(shots)}\n")
    print(f"{video.relative_to(REPO)}  {frames} frames")
    print(f"{picture.relative_to(REPO)}")
    if frames != job.frames or sheet is None:
        print(f"{job.frames} frames and a picture were promised", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
