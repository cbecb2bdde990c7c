"""The example workflows, and what they need to run on the demo models: files under the names they ask for."""

import json
from pathlib import Path

import av
from PIL import Image

from host_graph import HEIGHT, HIGH, LENGTH, LOW, T2V, WIDTH
from storymem_core.film import write_video
from tools.setup import BASE, FOOTAGE_NAME, REPO

FOLDER = REPO / "example_workflows"
OVERLAP = 1  # of the first_frame continuation in story_director
NAMES = {  # each workflow: frames of its film, and how many keyframes each of its samplings recalls at least
    "story_director": (3 * LENGTH - OVERLAP, [1, 2]),
    "two_shots_by_hand": (2 * LENGTH, [0, 1]),
    "references_to_story": (2 * LENGTH, [2, 3]),
    "native_sampler": (LENGTH, [1]),
}
TRAINING = "train_lora"  # makes no film: a folder of clips becomes a LoRA
FILES = ("unet_name", "lora_name", "clip_name", "vae_name", "image", "file")
DEMO_FILES = {
    "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors": HIGH,
    "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors": LOW,
    "wan2.2_i2v_high_noise_14B_fp16.safetensors": HIGH,
    "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": T2V,
    "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": T2V,
    "backbone_high_noise.safetensors": HIGH,
    "backbone_low_noise.safetensors": LOW,
    "wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors": HIGH,
    "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors": LOW,
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": "storymem_demo_umt5.safetensors",
    "wan_2.1_vae.safetensors": "storymem_demo_vae.safetensors",
}
SMALL = {"width": WIDTH, "height": HEIGHT, "length": LENGTH, "steps": 4}


def read_graph(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def read_api(name: str) -> dict:
    return json.loads((FOLDER / "api" / f"{name}.json").read_text())


def put_models(folder: Path) -> Path:
    """A models folder with the demo's files under their own names and under those that the workflows ask for."""
    for file in (BASE / "models").glob("*/*.safetensors"):
        names = [file.name, *(name for name, demo in DEMO_FILES.items() if demo == file.name)]
        for link in (folder / file.parent.name / name for name in names):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    return folder


def put_inputs(folder: Path, prompt: dict) -> None:
    """Real pictures and a real clip under the names the workflow asks for."""
    with av.open(str(BASE / "input" / FOOTAGE_NAME)) as container:
        frames = [frame for _, frame in zip(range(90), container.decode(video=0), strict=False)]
    pictures = [frame.to_ndarray(width=WIDTH * 16, height=HEIGHT * 16, format="rgb24") for frame in frames]
    for number, node in enumerate(prompt.values()):
        if node["class_type"] == "LoadImage":
            Image.fromarray(pictures[number * 31 % len(pictures)]).save(folder / node["inputs"]["image"])
        elif node["class_type"] == "LoadVideo":
            write_video(folder / node["inputs"]["file"], pictures[::10], fps=16)
