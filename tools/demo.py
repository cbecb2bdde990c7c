"""make demo: a three-shot story on the demo models, through a real ComfyUI server, into demo_output/."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
from tqdm import tqdm

from storymem_core.bank import MemoryBank
from storymem_core.contact_sheet import contact_sheet
from storymem_core.storage import load_bank
from storymem_core.transitions import OVERLAP

from .client import NodeError
from .server import Server, ServerError
from .setup import REPO

WORKFLOW = REPO / "example_workflows" / "api" / "three_shots.json"
OUTPUT = REPO / "demo_output"


@dataclass
class Shot:
    """One shot of the workflow, whose nodes are named shot<number>_<what>, and what became of it."""

    number: int
    nodes: dict[str, dict]
    began: float = 0.0
    seconds: float = 0.0

    def node(self, what: str) -> str:
        return f"shot{self.number}_{what}"

    @property
    def sampled(self) -> bool:
        return self.node("sampler") in self.nodes

    @property
    def kind(self) -> str:
        return self.nodes[self.node("transition")]["inputs"]["kind"] if self.sampled else "footage"

    @property
    def frames(self) -> int:
        """Frames of the shot: as sampled, or as taken from the footage."""
        node = self.node("sampler") if self.sampled else "footage_shot"
        return self.nodes[node]["inputs"]["length"]


def shots_of(workflow: dict) -> list[Shot]:
    numbers = sorted({int(name[4:].split("_")[0]) for name in workflow if name.startswith("shot")})
    return [
        Shot(n, {name: node for name, node in workflow.items() if name.startswith((f"shot{n}_", "footage"))})
        for n in numbers
    ]


class Progress:
    """Follows the server's messages: a progress bar per sampled shot, and the seconds of every shot."""

    def __init__(self, shots: list[Shot]):
        self.shots = {name: shot for shot in shots for name in shot.nodes if name.startswith("shot")}
        self.bar = None

    def __call__(self, event: str, data: dict) -> None:
        if event == "executing" and data.get("node") in self.shots:
            shot = self.shots[data["node"]]
            shot.began = shot.began or time.monotonic()
        elif event == "progress" and data["node"].endswith("_sampler"):
            if data["value"] == 1 or self.bar is None:
                shot = self.shots[data["node"]]
                self.bar = tqdm(total=data["max"], desc=f"shot {shot.number} ({shot.kind})", unit="step")
            self.bar.update(data["value"] - self.bar.n)
            if data["value"] == data["max"]:
                self.bar.close()
                self.bar = None
        elif event == "executed" and data["node"].endswith("_keyframes"):
            shot = self.shots[data["node"]]
            shot.seconds = time.monotonic() - shot.began


def table(shots: list[Shot], outputs: dict) -> str:
    rows = [("shot", "kind", "seconds", "keyframes added", "keyframes recalled", "frames")]
    for shot in shots:
        added = len(outputs[shot.node("keyframes")]["storymem_keyframes"])
        recalled = len(outputs[shot.node("sampler")]["storymem_recalled"]) if shot.sampled else 0
        rows.append((shot.number, shot.kind, f"{shot.seconds:.1f}", added, recalled, shot.frames))
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(str(cell).rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def recalled_by(shots: list[Shot], outputs: dict) -> dict[str, list[int]]:
    """Which shots recalled each keyframe (by id), as their samplers report."""
    recalled: dict[str, list[int]] = {}
    for shot in shots:
        if shot.sampled:
            for keyframe in outputs[shot.node("sampler")]["storymem_recalled"]:
                recalled.setdefault(keyframe["id"], []).append(shot.number)
    return recalled


def fetch(client, output: dict, key: str, path: Path) -> Path:
    saved = output[key][0]
    saved = {"filename": saved} if isinstance(saved, str) else saved
    folder, _, name = saved["filename"].rpartition("/")
    path.write_bytes(client.view(name, saved.get("subfolder") or folder))
    return path


def count_frames(video: Path) -> int:
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        if stream.codec_context.name != "h264" or stream.codec_context.pix_fmt != "yuv420p":
            raise ValueError(f"{video}: {stream.codec_context.name} does not play in every browser")
        return sum(1 for _ in container.decode(stream))


def main() -> int:
    workflow = json.loads(WORKFLOW.read_text())
    shots = shots_of(workflow)
    OUTPUT.mkdir(exist_ok=True)
    for old in OUTPUT.iterdir():
        old.unlink()
    try:
        print("starting ComfyUI ...", flush=True)
        with Server() as server:
            outputs = server.client.run(workflow, Progress(shots))["outputs"]
            video = fetch(server.client, outputs["save_video"], "images", OUTPUT / "story.mp4")
            saved = fetch(server.client, outputs["save_bank"], "text", OUTPUT / "memory.safetensors")
    except (NodeError, ServerError) as error:
        print(error, file=sys.stderr)
        return 1

    bank: MemoryBank = load_bank(saved)
    picture = OUTPUT / "memory.png"
    sheet = contact_sheet(bank.keyframes, recalled_by(shots, outputs))
    cv2.imwrite(str(picture), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))

    print("\n" + table(shots, outputs) + "\n")
    promised = sum(shot.frames - OVERLAP[shot.kind] for shot in shots if shot.sampled)
    frames = count_frames(video)
    print(f"{video.relative_to(REPO)}  {frames} frames")
    print(f"{picture.relative_to(REPO)}  {len(bank.keyframes)} keyframes")
    if frames != promised:
        print(f"{video}: {promised} frames were promised", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
