"""make demo: a shipped story on the small world's models, through a real ComfyUI server, into demo_output/."""

import shutil
import sys
from pathlib import Path

import av
import cv2

from .client import NodeError
from .server import Server, ServerError
from .setup import BASE, REPO
from .story import StoryClient, make_job, read_workflow, run_story, table

EXAMPLES = REPO / "example_workflows"
STORY = EXAMPLES / "stories" / "small_world.json"
WORKFLOW = EXAMPLES / "api" / "small_world.json"
OUTPUT = REPO / "demo_output"


def count_frames(video: Path) -> int:
    """Frames of a video that plays in every browser; ValueError for any other."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        if stream.codec_context.name != "h264" or stream.codec_context.pix_fmt != "yuv420p":
            raise ValueError(f"{video}: {stream.codec_context.name} does not play in every browser")
        return sum(1 for _ in container.decode(stream))


def main() -> int:
    workflow = read_workflow(WORKFLOW)
    job = make_job(STORY, workflow)
    video, picture = OUTPUT / "story.mp4", OUTPUT / "memory.png"
    OUTPUT.mkdir(exist_ok=True)
    for old in OUTPUT.iterdir():
        old.unlink()
    # shots of an earlier demo would be reused
    shutil.rmtree(BASE / "output" / workflow["director"]["inputs"]["folder"], ignore_errors=True)
    try:
        print("starting ComfyUI ...", flush=True)
        with Server(keep_memory=True) as server:
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
