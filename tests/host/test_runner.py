"""The headless runner, as a user starts it: films, tables, errors, Ctrl-C, and what it leaves on the server."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import av
import cv2
import numpy as np
import pytest

from host_graph import DIRECTOR, HEIGHT, LENGTH, T2V, WIDTH, Graph
from storymem_core.script import parse_story
from tools.client import Client
from tools.demo import count_frames
from tools.setup import REPO
from tools.story import WORKFLOW, UsageError, change, make_job, read_workflow

BY_HAND = REPO / "example_workflows" / "api" / "three_shots.json"
SCENES = [
    {"scene_num": 1, "video_prompts": ["a red fox", "the fox runs"], "cut": [True, False]},
    {"scene_num": 2, "video_prompts": ["the fox jumps"], "cut": [True], "characters": [["fox"]]},
]
FRAMES = LENGTH + (LENGTH - 1) + LENGTH
ROW = re.compile(r"^ *(\d) +(cut|first_frame) +[\d.]+ +(\d+) +(\d+) +(\d+) +(sampled|reused)$", re.MULTILINE)


def demo_workflow() -> dict:
    """The story workflow with the demo models, taken from the example that is built by hand."""
    workflow, by_hand = (json.loads(path.read_text()) for path in (WORKFLOW, BY_HAND))
    loaders = ("model_high_noise", "model_low_noise", "lora_high_noise", "lora_low_noise", "clip", "vae")
    return workflow | {name: by_hand[name] for name in loaders}


@pytest.fixture
def story(tmp_path):
    """A story file of three shots with an image beside it, and a workflow with the demo models."""
    workflow = demo_workflow()
    settings = DIRECTOR | {"width": WIDTH, "height": HEIGHT, "length": LENGTH, "folder": f"runner/{tmp_path.name}"}
    workflow["director"]["inputs"] |= settings
    (tmp_path / "workflow.json").write_text(json.dumps(workflow))
    picture = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "fox.png"), picture)
    script = tmp_path / "story.json"
    script.write_text(json.dumps({"story_name": "Fox", "references": {"fox": "fox.png"}, "scenes": SCENES}))
    return script


def command(server, script, *more):
    place = ("--server", server.client.url, "--out", script.with_name("film.mp4"))
    workflow = ("--workflow", script.with_name("workflow.json"))
    return [sys.executable, "-m", "tools.story", "run", script, *place, *workflow, *more]


def run(server, script, *more):
    return subprocess.run(command(server, script, *more), cwd=REPO, capture_output=True, text=True, timeout=300)


def frames_of(film):
    with av.open(str(film)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def start_and_read(server, script, wanted, *more):
    """Start the runner and wait until it has printed `wanted` on its screen."""
    # a shell has its background jobs ignore Ctrl-C, and so would what they start
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(command(server, script, *more), cwd=REPO, stderr=subprocess.PIPE, **heed)
    seen = b""
    while wanted not in seen:
        part = os.read(process.stderr.fileno(), 4096)
        assert part, seen.decode()
        seen += part
    return process


def queued(client):
    return [len(items) for items in client._json("/queue").values()]


def test_film_table_and_reuse(server, story):
    done = run(server, story)
    assert done.returncode == 0, done.stderr
    assert count_frames(story.with_name("film.mp4")) == FRAMES
    assert cv2.imread(str(story.with_name("film.png"))) is not None
    rows = ROW.findall(done.stdout)
    assert [row[:2] for row in rows] == [("1", "cut"), ("2", "first_frame"), ("3", "cut")]
    assert [int(row[4]) for row in rows] == [LENGTH, LENGTH - 1, LENGTH]
    added, recalled = ([int(row[i]) for row in rows] for i in (2, 3))
    # the fox's picture joins the keyframes of both shots before it
    assert recalled == [0, added[0], added[0] + added[1] + 1]
    assert {row[5] for row in rows} == {"sampled"}
    for bar in ("shot 1 (cut): 100%", "shot 2 (first_frame): 100%", "shot 3 (cut): 100%", "story: 100%"):
        assert bar in done.stderr

    film = frames_of(story.with_name("film.mp4"))
    again = run(server, story)
    assert again.returncode == 0, again.stderr
    assert [row[:2] + row[3:] for row in ROW.findall(again.stdout)] == [(*row[:2], *row[3:5], "reused") for row in rows]
    assert "shot 2 (first_frame): reused" in again.stderr
    assert np.array_equal(frames_of(story.with_name("film.mp4")), film)

    # the prompt that a dry run prints is the one that has just run
    dry = run(server, story, "--dry-run")
    outputs = server.client.run(json.loads(dry.stdout))["outputs"]
    assert next(output["storymem_frames"] for output in outputs.values() if "storymem_frames" in output) == [FRAMES]


def test_dry_run_needs_no_server(story):
    arguments = ("--server", "127.0.0.1:9", "--dry-run", "--set", "steps=3", "vae.vae_name=other.safetensors")
    command = [sys.executable, "-m", "tools.story", "run", story, *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    prompt = json.loads(done.stdout)
    assert prompt["director"]["inputs"]["steps"] == 3
    assert prompt["vae"]["inputs"]["vae_name"] == "other.safetensors"
    assert prompt["model_high_noise"]["inputs"]["unet_name"] == "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors"


@pytest.mark.parametrize(
    "setting, message",
    [
        (f"model_high_noise.unet_name={T2V}", "the patch embedding has 16 channels, 36 needed"),
        ("model_high_noise.unet_name=absent.safetensors", "absent.safetensors"),
    ],
)
def test_failing_node(server, story, setting, message):
    done = run(server, story, "--set", setting)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert not story.with_name("film.mp4").exists()


def test_faulty_script_lists_all_faults(server, story):
    story.write_text('{"scenes": [{"scene_num": 1, "video_prompts": ["a", ""], "cut": [false]}]}')
    done = run(server, story, "--server", "127.0.0.1:9")  # nobody is there: nothing was sent
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    for part in ("story_name", "shot 2, video_prompts", "scene 1, cut", "shot 1, cut"):
        assert sum(part in line for line in lines) == 1, part


def test_no_server(server, story):
    done = run(server, story, "--server", "127.0.0.1:9")
    assert done.returncode == 1
    assert re.fullmatch(r"cannot reach ComfyUI at 127\.0\.0\.1:9: .*Connection refused\n", done.stderr)


def test_interrupt_keeps_finished_shots(server, story):
    steps = ("--set", "steps=60")
    process = start_and_read(server, story, b"shot 2 (", *steps)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    end = time.monotonic() + 30
    while queued(server.client) != [0, 0]:
        assert time.monotonic() < end
        time.sleep(0.1)
    newest = list(server.client._json("/history").values())[-1]
    assert newest["status"]["messages"][-1][0] == "execution_interrupted"

    again = run(server, story, *steps)
    assert [row[5] for row in ROW.findall(again.stdout)] == ["reused", "sampled", "sampled"], again.stderr


def test_interrupt_leaves_jobs_of_others(server, story):
    other = Graph(Client(server.client.url))
    other.director({"story_name": story.parent.name, "scenes": SCENES}, steps=60)
    first = other.client.submit(dict(other))
    process = start_and_read(server, story, b"story:")
    while queued(server.client) != [1, 1]:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert queued(server.client) == [1, 0]
    other.client.wait(first)  # raises if it was interrupted


def test_images_of_one_name_stay_apart(story):
    workflow = read_workflow(story.with_name("workflow.json"))
    job = make_job(story, workflow)
    [(path, name)] = job.images.items()
    assert path == story.with_name("fox.png")
    sent = parse_story(job.prompt["story"]["inputs"]["script"])
    assert sent.references == (("fox", name),)
    written = parse_story(story.read_text())
    assert (sent.name, sent.shots) == (written.name, written.shots)

    cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert make_job(story, workflow).images[path] != name
    path.unlink()
    job = make_job(story, workflow)
    assert not job.images
    assert parse_story(job.prompt["story"]["inputs"]["script"]).references == (("fox", "fox.png"),)


@pytest.mark.parametrize(
    "setting, message",
    [
        ("stps=8", "no input 'stps'. Did you mean steps"),
        ("vea.vae_name=x", "no node 'vea'. Did you mean vae"),
        ("steps", "write name=value"),
        ("steps=many", "another type"),
        ("steps=8.5", "another type"),
        ("steps=true", "another type"),
        ("match_color=1", "another type"),
    ],
)
def test_wrong_settings(setting, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        change(demo_workflow(), setting)


def test_settings_keep_their_type():
    workflow = demo_workflow()
    for setting in ("steps=8", "cfg=1", "match_color=true", "folder=7", 'model=["model_low_noise", 0]'):
        change(workflow, setting)
    inputs = workflow["director"]["inputs"]
    assert (inputs["steps"], inputs["cfg"], inputs["match_color"], inputs["folder"]) == (8, 1, True, "7")
    assert inputs["model"] == ["model_low_noise", 0]


@pytest.mark.parametrize("text", ["{", "[]", '{"nodes": [], "links": []}'])
def test_workflow_that_is_none(tmp_path, text):
    path = tmp_path / "workflow.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"workflow\.json: not "):
        read_workflow(path)


def test_three_shots_by_hand(server, tmp_path):
    outputs = server.client.run(json.loads(BY_HAND.read_text()))["outputs"]
    film = tmp_path / "film.mp4"
    film.write_bytes(server.client.view(**outputs["save_video"]["images"][0]))
    assert count_frames(film) == 17 + 16 + 12
