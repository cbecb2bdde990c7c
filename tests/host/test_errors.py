"""A wrong input is one node error that names input, value and remedy; the server answers the next prompt."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from host_graph import EXTRACTOR, HIGH, SIZE, T2V, Graph, memory_defaults, sampler_defaults
from storymem_core.bank import Keyframe, MemoryBank
from storymem_core.storage import save_bank
from tools.client import NodeError

BANK = {"capacity": 10, "sink": 3, "policy": "sliding_window"}
LAYER = "base_model.model.blocks.0.ffn.0"
I2V = "Load a Wan 2.2 I2V A14B model"
T2V_PROBLEM = "this is a text-to-video model: the patch embedding has 16 channels, 36 needed"
REPAIR = "Choose a file that Save Memory Bank wrote; if it is one, it was damaged: save or copy it again"
DECODE = "Decode again, with a VAE in float32 or bfloat16"
PLAIN_NAME = "Give a plain file name, or one with sub-folders"


def sampler(graph, **changes):
    """A sampler with everything right but `changes`."""
    shot = {"model": graph.model(), "vae": graph.vae(), **graph.prompts(), **sampler_defaults(steps=2)}
    return graph.node("StoryMemSampler", **{**shot, **changes})


def apply_memory(graph, **changes):
    shot = {"model": graph.model(), "vae": graph.vae(), **graph.prompts(), **SIZE, **memory_defaults()}
    return graph.node("StoryMemApplyMemory", **{**shot, **changes})


def not_wan(graph):
    return sampler(graph, model=graph.node("ProbeNotWan", model=graph.model()))


def wrong_vae(graph):
    return sampler(graph, vae=graph.node("VAELoader", vae_name="pixel_space"))


def two_experts(graph, **changes):
    return sampler(graph, model_low_noise=graph.model(), **changes)


def too_short_to_continue(graph):
    return sampler(graph, length=1, transition=graph.transition("motion_frames"))


def latent_of_another_length(graph):
    """With the model of Apply Memory but an ordinary latent it is the host's sampler that cannot go on."""
    applied = apply_memory(graph, bank=graph.bank(2))
    latent = graph.node("EmptyHunyuanLatentVideo", **SIZE, batch_size=1)
    conditioning = {"positive": [applied[0], 1], "negative": [applied[0], 2]}
    settings = {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return graph.node("KSampler", model=applied, latent_image=latent, **conditioning, **settings)


def trim_of_another_latent(graph):
    latent = graph.node("EmptyHunyuanLatentVideo", **SIZE, batch_size=1)
    return graph.node("StoryMemTrimMemory", latent=latent)


def references(graph, count=3, labels="", nan=False, **settings):
    images = graph.images(1, count, nan=nan)
    return graph.bank(0, reference_images=images, reference_labels=labels, **settings)


def extractor_of_an_empty_bank(graph):
    return graph.extractor([graph.bank(0)[0], 1])


def clip_twice(graph):
    clip_vision = graph.node("ProbeClipVision", seed=1, name="clip_twice.json")
    return graph.extractor(graph.images(1, 2), clip_vision=clip_vision, clip_checkpoint="broken.safetensors")


def transition(graph, kind, previous=None):
    previous = {} if previous is None else {"previous_images": previous}
    return graph.node("StoryMemShotTransition", kind=kind, **previous)


def two_previous_shots(graph):
    latent = graph.node("EmptyHunyuanLatentVideo", **SIZE, batch_size=1)
    files = {"folder": "by_hand/001", "number": 1, "fps": 16.0, "crossfade": 0, "keep_last": 5, "match_color": False}
    made = {"latent": latent, "vae": graph.vae(), "bank": graph.bank(1), "transition": graph.transition("cut")}
    shot = graph.node("StoryMemSaveShot", **made, **files, **EXTRACTOR)
    both = {"previous_images": graph.images(1, 6), "previous_shot": shot}
    return graph.node("StoryMemShotTransition", kind="first_frame", **both)


def join(graph, previous, images, kind="cut", crossfade=0):
    """Joins two shots with a transition that is right in itself."""
    shots = {"previous_images": previous, "images": images, "transition": graph.transition(kind)}
    return graph.node("StoryMemJoinShots", **shots, crossfade=crossfade, match_color=False)


def lora(graph, name):
    return graph.node("StoryMemLoraLoader", model=graph.model(), lora_name=name, strength=1.0)


def load(graph, bank_file):
    return graph.node("StoryMemLoadBank", bank_file=bank_file)


def save(graph, prefix):
    return graph.node("StoryMemSaveBank", bank=graph.bank(1), filename_prefix=prefix)


# what is wrong -> (graph -> the node to blame, the whole message: "..." stands for anything)
WRONG = {
    "text-to-video model": (
        lambda graph: sampler(graph, model=graph.model(T2V)),
        f"model='WanModel': {T2V_PROBLEM}. {I2V}",
    ),
    "text-to-video model for low noise": (
        lambda graph: sampler(graph, model_low_noise=graph.model(T2V)),
        f"model_low_noise='WanModel': {T2V_PROBLEM}. {I2V}",
    ),
    "text-to-video model, by parts": (
        lambda graph: apply_memory(graph, model=graph.model(T2V)),
        f"model='WanModel': {T2V_PROBLEM}. {I2V}",
    ),
    "text-to-video model for low noise, by parts": (
        lambda graph: apply_memory(graph, model_low_noise=graph.model(T2V)),
        f"model_low_noise='WanModel': {T2V_PROBLEM}. {I2V}",
    ),
    "no Wan model": (not_wan, f"model='Identity': is not a Wan model. {I2V}"),
    "another VAE": (
        wrong_vae,
        "vae='3 latent channels': 16 channels of a video VAE needed. Load the Wan 2.1 VAE",
    ),
    "width": (lambda graph: sampler(graph, width=40), "width=40: must be a multiple of 16 pixels. Use 32"),
    "height": (lambda graph: sampler(graph, height=56), "height=56: must be a multiple of 16 pixels. Use 64"),
    "length": (lambda graph: sampler(graph, length=8), "length=8: must be 4n+1 frames. Use 5 or 9"),
    "width, by parts": (
        lambda graph: apply_memory(graph, width=17),
        "width=17: must be a multiple of 16 pixels. Use 16",
    ),
    "shorter than what it continues": (
        too_short_to_continue,
        "length=1: is shorter than the 5 frames it continues. Use a longer shot",
    ),
    "memory window": (
        lambda graph: sampler(graph, memory_start=0.6, memory_end=0.5),
        "memory_start, memory_end=(0.6, 0.5): must hold 0 <= start <= end <= 1. Use 0.0 and 1.0",
    ),
    "memory window, by parts": (
        lambda graph: apply_memory(graph, memory_start=1.0, memory_end=0.0),
        "memory_start, memory_end=(1.0, 0.0): must hold 0 <= start <= end <= 1. Use 0.0 and 1.0",
    ),
    "UniPC in one step": (
        lambda graph: sampler(graph, steps=1),
        "steps=1: leaves 1 steps above the boundary and 0 below; UniPC does nothing in a single step. "
        "Use more steps, another boundary, or the euler sampler",
    ),
    "UniPC in one step of an expert": (
        lambda graph: two_experts(graph, steps=4, boundary=0.95),
        "steps=4: leaves 1 steps above the boundary and 3 below; UniPC does nothing in a single step. "
        "Use more steps, another boundary, or the euler sampler",
    ),
    "latent of another length": (
        latent_of_another_length,
        "model='3 latent frames': memory expects 2 memory and 3 video frames at once. "
        "Connect the latent of Apply Memory, and no context windows",
    ),
    "latent of unknown origin": (
        trim_of_another_latent,
        "latent='a latent of unknown origin': it does not say how many of its frames are memory. "
        "Connect what a sampler made of the latent of Apply Memory",
    ),
    "capacity below sink": (
        lambda graph: graph.bank(0, capacity=2, sink=3),
        "capacity=2: smaller than sink=3. Raise capacity or lower sink",
    ),
    "capacity below references": (
        lambda graph: references(graph, capacity=2, sink=1),
        "capacity=2: 3 keyframes are pinned (references always are). Raise capacity to 3 or more, or pin fewer",
    ),
    "too few labels": (
        lambda graph: references(graph, labels="Ada\nBo"),
        r"reference_labels='Ada\nBo': has 2 lines for 3 reference images. Write one line per image, or none",
    ),
    "too many labels": (
        lambda graph: references(graph, labels="a\nb\nc\nd"),
        r"reference_labels='a\nb\nc\nd': has 4 lines for 3 reference images. Write one line per image, or none",
    ),
    "labels without images": (
        lambda graph: graph.bank(0, reference_labels="Ada"),
        "reference_labels='Ada': names no image. Connect reference_images or clear it",
    ),
    "NaN in references": (
        lambda graph: references(graph, nan=True),
        f"reference_images='frame 1': has NaN or infinite pixels. {DECODE}",
    ),
    "NaN in a shot": (
        lambda graph: graph.extractor(graph.images(1, 5, nan=True)),
        f"images='frame 2': has NaN or infinite pixels. {DECODE}",
    ),
    "shot without frames": (
        extractor_of_an_empty_bank,
        "images='0 images': an empty batch. Connect at least one image",
    ),
    "two CLIPs": (
        clip_twice,
        "clip_checkpoint='broken.safetensors': clip_vision is connected too. "
        "Disconnect clip_vision, or set clip_checkpoint to built-in",
    ),
    "broken CLIP checkpoint": (
        lambda graph: graph.extractor(graph.images(1, 2), clip_checkpoint="broken.safetensors"),
        "clip_checkpoint='...broken.safetensors': this file cannot be read as a state dict (...). "
        "Choose a .safetensors of open_clip weights.",
    ),
    "first_frame of nothing": (
        lambda graph: transition(graph, "first_frame"),
        "previous_images=None: first_frame continues the previous shot. Connect its images, or choose cut",
    ),
    "motion_frames of nothing": (
        lambda graph: transition(graph, "motion_frames"),
        "previous_images=None: motion_frames continues the previous shot. Connect its images, or choose cut",
    ),
    "motion_frames of too few": (
        lambda graph: transition(graph, "motion_frames", graph.images(1, 4)),
        "previous_images='4 frames': motion_frames needs its last 5. "
        "Connect the whole previous shot, or choose another kind",
    ),
    "two previous shots": (
        two_previous_shots,
        "previous_shot='shot 1': previous_images is connected too. Connect one",
    ),
    "NaN in a transition": (
        lambda graph: transition(graph, "motion_frames", graph.images(1, 6, nan=True)),
        "previous_images='5 frames': NaN or infinite values. Decode the shot again",
    ),
    "NaN before a join": (
        lambda graph: join(graph, graph.images(1, 6, nan=True), graph.images(2, 6)),
        "previous_images='6 frames': NaN or infinite values. Decode the shot again",
    ),
    "NaN in a joined shot": (
        lambda graph: join(graph, graph.images(1, 6), graph.images(2, 7, nan=True), "first_frame"),
        "images='7 frames': NaN or infinite values. Decode the shot again",
    ),
    "shots of two sizes": (
        lambda graph: join(graph, graph.images(1, 6), graph.images(2, 6, height=48, width=64)),
        "images='64x48': the previous shot is 48x32. Use one size for all shots",
    ),
    "shot of repeated frames only": (
        lambda graph: join(graph, graph.images(1, 6), graph.images(2, 5), "motion_frames"),
        "images='5 frames': all of them repeat the previous shot (motion_frames). Connect the whole decoded shot",
    ),
    "join to too few frames": (
        lambda graph: join(graph, graph.images(1, 4), graph.images(2, 9), "motion_frames"),
        "previous_images='4 frames': motion_frames continues its last 5. Connect the whole shot",
    ),
    "crossfade longer than the overlap": (
        lambda graph: join(graph, graph.images(1, 6), graph.images(2, 9), "first_frame", crossfade=2),
        "crossfade=2: a continuation blends the repeated frames only: 1 here. Set 0..1",
    ),
    "crossfade longer than a shot": (
        lambda graph: join(graph, graph.images(1, 6), graph.images(2, 4), crossfade=4),
        "crossfade=4: the shots have 6 and 4 frames. Set 0..3",
    ),
    "LoRA of another model": (
        lambda graph: lora(graph, "other.safetensors"),
        "lora_name='other.safetensors': none of its 2 keys matches the model. Choose a LoRA made for this Wan model",
    ),
    "LoRA of another size": (
        lambda graph: lora(graph, "narrow.safetensors"),
        "lora_name='narrow.safetensors': diffusion_model.blocks.0.ffn.0.weight has shape (512, 256), the LoRA was made "
        "for (512, 248). Choose a LoRA made for this Wan model",
    ),
    "half a LoRA": (
        lambda graph: lora(graph, "half.safetensors"),
        "lora_name='blocks.0.ffn.0': one of lora_A and lora_B is missing. "
        "Choose a whole StoryMem adapter: download the file again",
    ),
    "missing bank file": (
        lambda graph: load(graph, "errors/missing.safetensors"),
        "bank_file='...missing.safetensors': there is no such file. Choose a saved memory bank",
    ),
    "truncated bank file": (
        lambda graph: load(graph, "errors/truncated.safetensors"),
        f"bank_file='...truncated.safetensors': not a readable StoryMem bank (...). {REPAIR}",
    ),
    "bank file of a newer version": (
        lambda graph: load(graph, "errors/newer.safetensors"),
        "bank_file='...newer.safetensors': format version 3, this pack reads up to 2. Update ComfyUI-StoryMem",
    ),
    "another file": (
        lambda graph: load(graph, "errors/other.safetensors"),
        f"bank_file='...other.safetensors': not a readable StoryMem bank (it holds something else). {REPAIR}",
    ),
    "bank file above the folder": (
        lambda graph: load(graph, "../bank.safetensors"),
        f"bank_file='../bank.safetensors': leads out of its folder. {PLAIN_NAME}",
    ),
    "bank file anywhere": (
        lambda graph: load(graph, "/etc/bank.safetensors"),
        f"bank_file='/etc/bank.safetensors': an absolute path. {PLAIN_NAME}",
    ),
    "bank file behind a link": (
        lambda graph: load(graph, "errors/link/bank.safetensors"),
        f"bank_file='errors/link/bank.safetensors': a link that leads out of its folder. {PLAIN_NAME}",
    ),
    "no bank file": (lambda graph: load(graph, ""), f"bank_file='': empty. {PLAIN_NAME}"),
    "saving above the folder": (
        lambda graph: save(graph, "banks/../../bank"),
        f"filename_prefix='banks/../../bank': leads out of its folder. {PLAIN_NAME}",
    ),
    "saving anywhere": (
        lambda graph: save(graph, "/tmp/bank"),
        f"filename_prefix='/tmp/bank': an absolute path. {PLAIN_NAME}",
    ),
    "saving behind a link": (
        lambda graph: save(graph, "errors/link/bank"),
        f"filename_prefix='errors/link/bank': a link that leads out of its folder. {PLAIN_NAME}",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def wrong_files(server, tmp_path_factory):
    """Files in the output folder, where the host looks for LoRAs too."""
    output = server.base / "output"
    folder = output / "errors"
    for name in (folder, output / "loras", output / "clip_vision"):
        name.mkdir(exist_ok=True)
    picture, embedding = np.zeros((32, 48, 3), np.uint8), np.float32([1, 0])
    bank = MemoryBank().add_shot([Keyframe(picture, 1, 0, embedding, "none")])
    save_bank(bank, folder / "truncated.safetensors")
    content = (folder / "truncated.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(content[:-100])
    save_file({}, folder / "newer.safetensors", {"format": "storymem_bank", "format_version": "3"})
    save_file({"weight": torch.zeros(1)}, folder / "other.safetensors")
    outside = tmp_path_factory.mktemp("outside")
    save_bank(bank, outside / "bank.safetensors")
    (folder / "link").symlink_to(outside)

    adapter = load_file(server.base / "models" / "loras" / HIGH)
    adapter = {key: weight for key, weight in adapter.items() if key.startswith(LAYER)}
    foreign = {key.replace("blocks.0", "blocks.99"): weight.clone() for key, weight in adapter.items()}
    half = {f"{LAYER}.lora_A.weight": adapter[f"{LAYER}.lora_A.weight"]}
    narrow = {key: weight[:, :-8].clone() if "lora_A" in key else weight for key, weight in adapter.items()}
    loras = {"narrow": narrow, "other": foreign, "half": half, "partly": adapter | foreign}
    for name, weights in loras.items():
        save_file(weights, output / "loras" / f"{name}.safetensors")
    (output / "clip_vision" / "broken.safetensors").write_text("not weights")


def message_pattern(message):
    return re.escape(message).replace(re.escape("..."), ".*")


@pytest.mark.parametrize("build, message", WRONG.values(), ids=WRONG)
def test_a_wrong_input_is_told_and_the_server_goes_on(client, build, message):
    graph = Graph(client)
    blamed = build(graph)
    graph.text(blamed)
    with pytest.raises(NodeError) as error:
        graph.run()
    assert error.value.node_id == blamed[0]
    assert error.value.node_type == graph[blamed[0]]["class_type"]
    assert error.value.exception_type.endswith(".InputError")
    assert re.fullmatch(message_pattern(message), error.value.message), error.value.message

    following = Graph(client)
    file = following.write(following.images(1, 1))
    following.run()
    assert torch.isfinite(following.read(file)).all()


@pytest.mark.parametrize(
    "node, inputs, kind, message",
    [
        ("StoryMemMemoryBank", {**BANK, "capacity": 0}, "value_smaller_than_min", "capacity"),
        ("StoryMemMemoryBank", {**BANK, "policy": "guess"}, "value_not_in_list", "policy: 'guess'"),
        ("StoryMemShotTransition", {"kind": "wipe"}, "value_not_in_list", "kind: 'wipe'"),
    ],
)
def test_what_the_host_itself_refuses(client, node, inputs, kind, message):
    """Ranges and lists of the schema never reach the node."""
    graph = Graph(client)
    blamed = graph.node(node, **inputs)
    graph.text(blamed)
    with pytest.raises(NodeError) as error:
        graph.run()
    assert (error.value.node_id, error.value.node_type) == (blamed[0], node)
    assert error.value.exception_type == kind and message in error.value.message


def test_a_lora_that_matches_in_part_is_applied_in_part_and_told(client, server):
    graph = Graph(client)
    model = graph.model()
    files = graph.write_weights(model), graph.write_weights(lora(graph, "partly.safetensors"))
    graph.run()
    plain, patched = (graph.read_all(file) for file in files)
    layer = LAYER.removeprefix("base_model.model.")
    assert {key for key in plain if not torch.equal(plain[key], patched[key])} == {f"{layer}.weight"}
    assert "partly.safetensors: only 1 of 2 layers match the model" in server.log.read_text()
