"""Runs a story on any running ComfyUI, without a browser: `python -m tools.story run story.json --out film.mp4`."""

import argparse
import asyncio
import copy
import difflib
import hashlib
import http.client
import itertools
import json
import re
import sys
import time
import urllib.error
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import aiohttp
from tqdm import tqdm

from storymem_core.film import replace_file
from storymem_core.script import Story, StoryError, parse_story
from storymem_core.transitions import OVERLAP

from .client import Client, NodeError
from .setup import REPO

WORKFLOW = REPO / "example_workflows" / "api" / "story.json"
SCRIPT, DIRECTOR = "StoryMemScript", "StoryMemDirector"
# no rate: decoding a shot takes time after its last step
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}s [{elapsed}]"
FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


class UsageError(Exception):
    """What the user gave cannot be used; the message is one line."""


# --- the prompt


@dataclass(frozen=True)
class Job:
    """A story ready for a server.

    prompt: in API format; images: image file on this machine -> its name in the server's input folder;
    kinds and lengths: per shot, a key of OVERLAP and its frames before joining.
    """

    prompt: dict
    images: dict[Path, str]
    kinds: tuple[str, ...]
    lengths: tuple[int, ...]

    @property
    def frames(self) -> int:
        """Frames of the film when cuts are hard; each cross-fade takes its length off."""
        return sum(self.lengths) - sum(OVERLAP[kind] for kind in self.kinds)


def make_job(script: Path, workflow: dict) -> Job:
    """A copy of a workflow in API format with a story script in it, and the images that the script names.

    Images are looked for beside the script; one that is not there is taken from the server's input folder.
    Raises StoryError for a faulty script, UsageError for a file or workflow that cannot be used.
    """
    try:
        story = parse_story(script.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{script}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{script}: not a text in UTF-8. Save it with UTF-8 encoding") from error
    files = {name: script.parent / name for _, name in story.references}
    images = {path: _server_name(path) for path in files.values() if path.is_file()}
    names = {name: images.get(path, name) for name, path in files.items()}
    prompt = copy.deepcopy(workflow)
    director = _only_node(prompt, DIRECTOR)["inputs"]
    _only_node(prompt, SCRIPT)["inputs"]["script"] = _script(story, names)
    return Job(
        prompt,
        images,
        tuple("cut" if shot.cut else shot.transition or director["continuation"] for shot in story.shots),
        tuple(director["length"] if shot.length is None else shot.length for shot in story.shots),
    )


def _server_name(image: Path) -> str:
    # by its content, so that no story sees the picture of another that has the same name
    return f"storymem/{hashlib.sha256(image.read_bytes()).hexdigest()[:16]}/{image.name}"


def _script(story: Story, names: dict[str, str]) -> str:
    """The script of a story, with other names for its image files."""
    scenes = [
        {
            "scene_num": scene,
            "video_prompts": [shot.prompt for shot in shots],
            "cut": [shot.cut for shot in shots],
            "transition": [shot.transition for shot in shots],
            "length": [shot.length for shot in shots],
            "seed": [shot.seed for shot in shots],
            "characters": [list(shot.characters) for shot in shots],
        }
        for scene, shots in (
            (number, list(shots)) for number, shots in itertools.groupby(story.shots, attrgetter("scene"))
        )
    ]
    references = {label: names[name] for label, name in story.references}
    record = {"story_name": story.name, "story_overview": story.overview, "references": references, "scenes": scenes}
    return json.dumps(record, indent=2, ensure_ascii=False)


def _only_node(workflow: dict, class_type: str) -> dict:
    found = [node for node in workflow.values() if node["class_type"] == class_type]
    if len(found) != 1:
        raise UsageError(f"the workflow has {len(found)} nodes of type {class_type}. It needs one")
    return found[0]


def read_workflow(path: Path) -> dict:
    """A workflow in API format; UsageError for anything else."""
    try:
        workflow = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    nodes = workflow.values() if isinstance(workflow, dict) else [None]
    if not all(isinstance(node, dict) and {"class_type", "inputs"} <= node.keys() for node in nodes):
        raise UsageError(f"{path}: not a workflow in API format. Save it with ComfyUI's Export (API)")
    return workflow


def change(workflow: dict, setting: str) -> None:
    """Apply `input=value` to the Director, or `node.input=value` to any node; the value keeps the input's type.

    Text is taken as it stands; all else is JSON: 8, 3.5, true, or ["node", 0] where another node is connected.
    """
    name, equals, text = setting.partition("=")
    number, dot, input_name = name.rpartition(".")
    if not equals:
        raise UsageError(f"--set {setting}: write name=value or node.name=value")
    if dot and number not in workflow:
        raise UsageError(f"--set {setting}: no node {number!r}. {_similar(number, workflow)}")
    inputs = (workflow[number] if dot else _only_node(workflow, DIRECTOR))["inputs"]
    if input_name not in inputs:
        raise UsageError(f"--set {setting}: no input {input_name!r}. {_similar(input_name, inputs)}")
    old = inputs[input_name]
    try:
        new = text if isinstance(old, str) else json.loads(text)
    except ValueError:
        new = None
    number_like = isinstance(old, float) and type(new) is int
    if type(new) is not type(old) and not number_like:
        raise UsageError(f"--set {setting}: {text!r} is of another type than the value {json.dumps(old)} it replaces")
    inputs[input_name] = new


def _similar(name: str, known: dict) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]}" if close else f"There are {', '.join(known)}"


# --- the server


class StoryClient(Client):
    """A Client that also brings images and can take its own prompt back."""

    def upload(self, image: Path, name: str) -> None:
        """Put an image into the server's input folder as `name`, with sub-folders."""
        asyncio.run(self._upload(image, name))

    async def _upload(self, image: Path, name: str) -> None:
        folder, _, file = name.rpartition("/")
        form = aiohttp.FormData({"type": "input", "subfolder": folder, "overwrite": "true"})
        form.add_field("image", image.read_bytes(), filename=file)
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            await session.post(f"{self.url}/upload/image", data=form)

    def cancel(self) -> None:
        """Take this client's prompts from the queue and interrupt the one that runs; nobody else's."""
        self._post("/queue", {"delete": self._queued("queue_pending")})
        for prompt_id in self._queued("queue_running"):
            self._post("/interrupt", {"prompt_id": prompt_id})

    def _queued(self, state: str) -> list[str]:
        items = self._json("/queue")[state]
        return [prompt_id for _, prompt_id, _, extra, *_ in items if extra.get("client_id") == self.id]


class Progress:
    """Follows the server's messages: a bar for the story, one for each shot, and what became of the shot.

    The Director names the nodes of a shot `<its own id>.0.0.shot<number>_<what>`; `files` is the last of them.

    Attributes:
        seconds: shot number -> from the end of the shot before to its own.
        sampled: numbers of the shots that were sampled, not reused.
    """

    def __init__(self, kinds: tuple[str, ...]):
        self.kinds = kinds
        self.seconds: dict[int, float] = {}
        self.sampled: set[int] = set()
        self.began = time.monotonic()
        self.shot, self.steps = None, {}
        # below the bar of the shot
        self.story = tqdm(total=len(kinds), desc="story", unit="shot", position=1, bar_format=BAR)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        for bar in filter(None, (self.shot, self.story)):
            bar.close()

    def __call__(self, event: str, data: dict) -> None:
        if event in ("progress", "executed") and (match := re.search(r"\.shot(\d+)_(\w+)$", data["node"])):
            number, what = int(match[1]), match[2]
            if event == "progress" and what.startswith("sampler"):
                self.step(number, data)
            elif event == "executed" and what == "files":
                self.finish(number)

    def step(self, number: int, data: dict) -> None:
        self.sampled.add(number)
        # a text-to-video shot has a sampler for each expert
        self.steps[data["node"]] = (data["value"], data["max"])
        done, total = (sum(counts) for counts in zip(*self.steps.values(), strict=True))
        if self.shot is None:
            self.shot = tqdm(desc=self.title(number), unit="step", position=0, leave=True, total=total, bar_format=BAR)
        self.shot.total = total
        self.shot.update(done - self.shot.n)

    def finish(self, number: int) -> None:
        if self.shot:
            self.shot.close()
        else:
            tqdm.write(f"{self.title(number)}: reused", file=sys.stderr)
        self.shot, self.steps = None, {}
        self.story.update()
        now = time.monotonic()
        self.seconds[number] = now - self.began
        self.began = now

    def title(self, number: int) -> str:
        return f"shot {number} ({self.kinds[number - 1]})"


# --- a run


@dataclass(frozen=True)
class ShotReport:
    """A row of the table. seconds: from the end of the shot before; frames: in the film."""

    shot: int
    kind: str
    seconds: float
    keyframes_added: int
    keyframes_recalled: int
    frames: int
    sampled: bool


def run_story(client: StoryClient, job: Job, film: Path, sheet: Path) -> list[ShotReport]:
    """Make a film on a server: writes `film` (MP4) and `sheet` (PNG of the memory), returns a row per shot.

    NodeError if a node fails. Leaving by KeyboardInterrupt takes the job off the server.
    """
    try:
        for image, name in job.images.items():
            client.upload(image, name)
        with Progress(job.kinds) as progress:
            outputs = client.run(job.prompt, progress)["outputs"]
    except KeyboardInterrupt:
        client.cancel()
        raise
    shown = next(output for output in outputs.values() if "storymem_shots" in output)
    for path, saved in zip((film, sheet), shown["images"], strict=True):
        fetch(client, saved, path)
    return [
        ShotReport(
            number := shot["number"],
            job.kinds[number - 1],
            progress.seconds[number],
            shot["keyframes"],
            shot["recalled"],
            shot["frames"],
            number in progress.sampled,
        )
        for shot in shown["storymem_shots"]
    ]


def fetch(client: Client, saved: dict, path: Path) -> None:
    """Copy a file that the server names in a node's output."""
    content = client.view(**saved)
    replace_file(path, lambda part: part.write_bytes(content))


def table(shots: list[ShotReport]) -> str:
    rows = [("shot", "kind", "seconds", "keyframes added", "keyframes recalled", "frames", "made")]
    for shot in shots:
        keyframes = (shot.keyframes_added, shot.keyframes_recalled)
        made = "sampled" if shot.sampled else "reused"
        rows.append((shot.shot, shot.kind, f"{shot.seconds:.1f}", *keyframes, shot.frames, made))
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(str(cell).rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


# --- the command line


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.story", description="Stories without a browser.")
    run = parser.add_subparsers(required=True).add_parser("run", help="make a film of a story on a running ComfyUI")
    run.add_argument("script", type=Path, help="the story: JSON, and beside it the images it names")
    run.add_argument("--server", default="127.0.0.1:8188", help="host:port of ComfyUI (%(default)s)")
    run.add_argument("--out", type=Path, help="the film, .mp4; a picture of the memory goes to .png beside it")
    run.add_argument("--workflow", type=Path, default=WORKFLOW, help="another workflow in API format")
    run.add_argument(
        "--set",
        dest="settings",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="an input of the Story Director (steps=8), or of any node (vae.vae_name=wan_2.1_vae.safetensors)",
    )
    run.add_argument("--dry-run", action="store_true", help="print the prompt and send nothing")
    options = parser.parse_args(arguments)
    if not options.dry_run:
        if options.out is None or options.out.suffix != ".mp4":
            run.error("--out: name the film, ending in .mp4")
        if not options.out.parent.is_dir():
            run.error(f"--out: there is no folder {options.out.parent}")
    return options


def run(options: argparse.Namespace) -> None:
    workflow = read_workflow(options.workflow)
    for setting in options.settings:
        change(workflow, setting)
    job = make_job(options.script, workflow)
    if options.dry_run:
        print(json.dumps(job.prompt, indent=2))
        return
    client = StoryClient(options.server if "://" in options.server else f"http://{options.server}")
    client.system_stats()  # a server that is not there says so before anything else
    sheet = options.out.with_suffix(".png")
    shots = run_story(client, job, options.out, sheet)
    print(f"\n{table(shots)}\n\n{options.out}  {sum(shot.frames for shot in shots)} frames\n{sheet}")


def main(arguments: list[str]) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except (StoryError, UsageError) as error:
        print(error, file=sys.stderr)
        return WRONG_INPUT
    except NodeError as error:
        print(error, file=sys.stderr)
        return FAILED
    except (urllib.error.URLError, http.client.HTTPException, aiohttp.ClientError, ConnectionError) as error:
        print(f"cannot reach ComfyUI at {options.server}: {getattr(error, 'reason', error)}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted: finished shots are kept, the next run goes on from there", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
