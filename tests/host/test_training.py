"""Training sets through the host's own LoRA trainer, on the demo models."""

import json
import shutil
import uuid
from collections import Counter

import cv2
import numpy as np
import pytest
import tomllib
import torch
from PIL import Image
from safetensors.torch import load_file

from example_workflows import TRAINING, read_api
from host_graph import FRAMES, HEIGHT, HIGH, LENGTH, ONE_STEP, SIZE, T2V, WIDTH, Graph, sampler_defaults
from storymem_core.clips import list_clips, read_frames
from storymem_core.embedders import ColorLayout
from storymem_core.film import write_video
from storymem_core.positions import frame_positions
from storymem_core.training import EmbeddedClip, compose_samples
from tests.core.footage import read_footage
from tests.host.test_model_with_memory import HEADS, normalised
from tests.host.test_workflows import with_demo_models
from tools.client import NodeError
from wan_reference import WanReference

KINDS = ("m2v", "mi2v", "mm2v", "no_memory")
TRANSITION = {"m2v": "cut", "mi2v": "first_frame", "mm2v": "motion_frames", "no_memory": "cut"}
SET = {**SIZE, "samples": 4, "seed": 1, "max_memory": 10, "min_similarity": 0.0, "noise_levels": "all"}
SET |= {"boundary": 0.9}
LATENT = (16, FRAMES, HEIGHT // 8, WIDTH // 8)
LAYERS = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "ffn.0", "ffn.2"]
LAYERS += [layer.replace("self", "cross") for layer in LAYERS[:4]]
TRAINED = [f"blocks.{block}.{layer}.weight" for block in range(2) for layer in LAYERS]
TRAINER = {
    "batch_size": 1,
    "grad_accumulation_steps": 1,
    "steps": 1,
    "learning_rate": 5e-4,
    "rank": 4,
    "optimizer": "AdamW",
    "loss_function": "MSE",
    "seed": 5,
    "training_dtype": "fp32",
    "lora_dtype": "fp32",
    "quantized_backward": False,
    "algorithm": "LoRA",
    "gradient_checkpointing": False,
    "checkpoint_depth": 1,
    "offloading": False,
    "existing_lora": "[None]",
    "bucket_mode": False,
    "bypass_mode": False,
}


@pytest.fixture(scope="module")
def folder(server):
    """Four captioned clips of 17 to 25 frames: three of the real footage, one of colours that change."""
    path = server.base / "input" / "clips"
    path.mkdir()
    footage = read_footage(75, WIDTH, HEIGHT)
    for number, first, count in ((1, 0, 25), (2, 25, 21), (3, 50, 17)):
        write_video(path / f"rabbit {number}.mp4", footage[first : first + count], 16)
        (path / f"rabbit {number}.txt").write_text(f"a big rabbit, part {number}\n")
    coarse = np.random.default_rng(1).integers(0, 255, (2, 4, 6, 3), np.uint8)
    colours = [cv2.addWeighted(coarse[0], 1 - i / 21, coarse[1], i / 21, 0) for i in range(21)]
    write_video(path / "colours.mp4", [cv2.resize(frame, (WIDTH, HEIGHT)) for frame in colours], 16)
    (path / "colours.txt").write_text("colours")
    return path


def shares(**given):
    return {f"share_{kind}": float(given.get(kind, 0)) for kind in KINDS}


def training_set(graph, folder="clips", *, model=None, vae=None, of=None, **settings):
    """The node; `of`: shares by kind, else M2V alone."""
    inputs = {"model": model or graph.model(), "vae": vae or graph.vae(), "clip": graph.clip(), "folder": folder}
    return graph.node("StoryMemTrainingSet", **inputs, **SET | shares(**(of or {"m2v": 1})) | settings)


def train(graph, made, **settings):
    samples = {"model": made, "latents": [made[0], 1], "positive": [made[0], 2]}
    return graph.node("TrainLoraNode", **samples, **TRAINER | settings)


def write_samples(graph, made):
    name = f"{uuid.uuid4().hex}.safetensors"
    graph.node("ProbeTrainingSet", latents=[made[0], 1], positive=[made[0], 2], name=name)
    return name


def write_losses(graph, lora):
    name = f"{uuid.uuid4().hex}.json"
    graph.node("ProbeLoss", loss=[lora[0], 1], name=name)
    return name


def composed(path, count, max_memory=10, seed=1, **of):
    """The samples that the node draws: the core's, with the built-in embedder on every fourth frame."""
    clips = list_clips(path, LENGTH)
    embedded = []
    for clip in clips:
        numbers = np.arange(0, clip.frames, 4)
        frames = read_frames(clip, numbers.tolist())
        embeddings = ColorLayout()(np.stack([frames[i] for i in numbers]))
        embedded.append(EmbeddedClip(clip.name, clip.group, clip.frames, numbers, embeddings))
    of = {kind: float(of.get(kind, 0)) for kind in KINDS}
    return clips, compose_samples(embedded, LENGTH, count, of, max_memory, 0.0, seed)


def load_picture(graph, server, picture):
    """A picture, uint8, through the host's Load Image."""
    name = f"{uuid.uuid4().hex}.png"
    Image.fromarray(picture).save(server.base / "input" / name)
    return graph.node("LoadImage", image=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_gets_what_inference_gives_it(client, server, folder, kind):
    """Conditioning, positions and text of a sample in training: those of a sampled shot with the same pictures.

    The oracle is the sampler node on a bank and a transition made of the same pictures.
    """
    clips, (sample,) = composed(folder, 1, **{kind: 1})
    clip = clips[sample.clip]
    assert bool(sample.memory) == (kind != "no_memory")

    graph = Graph(client)
    training, sampling = (f"{uuid.uuid4().hex}.safetensors" for _ in range(2))
    model = graph.node("ProbeModelInput", model=graph.model(), name=training)
    write_losses(graph, train(graph, training_set(graph, model=model, of={kind: 1}, samples=1)))

    bank = graph.node("StoryMemMemoryBank", capacity=10, sink=3, policy="sliding_window")
    for number, frame in sample.memory:
        picture = load_picture(graph, server, read_frames(clips[number], [frame])[frame])
        settings = {"bank": bank, "reference_images": picture, "capacity": 10, "sink": 3}
        bank = graph.node("StoryMemMemoryBank", **settings, policy="sliding_window")
    overlap = {"cut": 0, "first_frame": 1, "motion_frames": 5}[TRANSITION[kind]]
    transition = {"kind": TRANSITION[kind]}
    if overlap:
        first = read_frames(clip, range(sample.start, sample.start + overlap))
        images = [load_picture(graph, server, first[i]) for i in sorted(first)]
        transition["previous_images"] = images[0]
        for image in images[1:]:
            batch = {"image1": transition["previous_images"], "image2": image}
            transition["previous_images"] = graph.node("ImageBatch", **batch)
    text = graph.node("CLIPTextEncode", clip=graph.clip(), text=clip.caption)
    latent = graph.node(
        "StoryMemSampler",
        model=graph.node("ProbeModelInput", model=graph.model(), name=sampling),
        positive=text,
        negative=text,
        vae=graph.vae(),
        bank=bank,
        transition=graph.node("StoryMemShotTransition", **transition),
        **sampler_defaults(**{**ONE_STEP, "cfg": 1.0}),
    )
    graph.write(latent)
    graph.run()
    trained, sampled = graph.read_all(training), graph.read_all(sampling)
    assert trained["x"].shape == sampled["x"].shape == (1, 36, len(sample.memory) + 3, HEIGHT // 8, WIDTH // 8)
    assert torch.equal(trained["x"][:, 16:], sampled["x"][:, 16:])
    assert torch.equal(trained["rotations"], sampled["rotations"])
    assert torch.equal(trained["context"], sampled["context"])
    if overlap:  # the first frames are the target's own, not another clip's
        assert not torch.equal(trained["x"][:, 16:, -3], trained["x"][:, 16:, -1])


@pytest.mark.parametrize("kind", ["m2v", "mm2v", "no_memory"])
def test_an_export_is_what_the_model_gets(client, server, folder, kind):
    """musubi-tuner's cache against what the network itself is given in training, and the VAE's latents."""
    graph, seen = Graph(client), f"{uuid.uuid4().hex}.safetensors"
    model = graph.node("ProbeModelInput", model=graph.model(), name=seen)
    made = training_set(graph, model=model, of={kind: 1}, samples=1)
    write_losses(graph, train(graph, made))
    samples, name = write_samples(graph, made), f"musubi/{uuid.uuid4().hex}"
    graph.node("StoryMemExportTrainingSet", latents=[made[0], 1], positive=[made[0], 2], folder=name)
    graph.run()
    seen, latent = graph.read_all(seen), graph.read_all(samples)["0.latent"]
    frames = seen["x"].shape[2]
    pixels, length = f"{WIDTH:04d}x{HEIGHT:04d}", 4 * frames - 3
    written = server.base / "output" / name
    files = {f"sample000000_00000-{length:03d}_{pixels}_wan.safetensors", "sample000000_wan_te.safetensors"}
    assert {path.name for path in written.iterdir()} == files | {"dataset.toml"}
    tensors = {key: tensor for file in files for key, tensor in load_file(written / file).items()}
    shape = f"{frames}x{HEIGHT // 8}x{WIDTH // 8}_bfloat16"
    assert tensors.keys() == {f"latents_{shape}", f"latents_image_{shape}", "varlen_t5_bfloat16"}
    known, clean = tensors[f"latents_image_{shape}"].double(), tensors[f"latents_{shape}"].double()
    assert torch.allclose(known, seen["x"][0, 16:].double(), rtol=2**-8, atol=1e-6)  # bfloat16
    expected = torch.cat([seen["x"][0, 20:, : frames - 3].double(), normalised(latent)[0]], dim=1)
    assert torch.allclose(clean, expected, rtol=2**-8, atol=1e-6)
    text = tensors["varlen_t5_bfloat16"]
    assert torch.allclose(text.float(), seen["context"][0, : len(text)], rtol=2**-8, atol=1e-6)
    assert 0 < len(text) < 512 and not seen["context"][0, len(text) :].any()
    dataset = tomllib.loads((written / "dataset.toml").read_text())
    assert dataset["general"]["resolution"] == [WIDTH, HEIGHT]
    assert dataset["datasets"][0]["cache_directory"] == written.as_posix()


def test_an_export_overwrites_nothing(client, server, folder):
    graph = Graph(client)
    made = training_set(graph, samples=1)
    graph.node("StoryMemExportTrainingSet", latents=[made[0], 1], positive=[made[0], 2], folder="storymem")
    write_samples(graph, made)  # so that output/storymem is there
    fails(graph, "folder='storymem': is there already")


def first_batch(count, size=1):
    """The samples of the trainer's first step."""
    torch.manual_seed(TRAINER["seed"])
    torch.randn(count, *LATENT)
    return torch.randperm(count)[:size].tolist()


def sample_of(tensors, index):
    return {key.split(".")[1]: tensor for key, tensor in tensors.items() if key.startswith(f"{index}.")}


def drawn_in_first_step(samples, shift, first=0.0, last=1.0):
    """(noise of the memory frames, of the video, noise level) of each sample, as the host's trainer draws them.

    The memory frames' noise comes last: that of the samples with as many of them together.
    """
    torch.manual_seed(TRAINER["seed"])
    noise = torch.randn(len(samples), *LATENT)
    percents = [first + (last - first) * torch.rand(1).item() for _ in samples]
    frames = [sample["concat_latent_image"].shape[2] - FRAMES for sample in samples]
    past = {}
    for number in dict.fromkeys(frames):  # in the order in which they appear
        alike = [i for i, other in enumerate(frames) if other == number]
        past |= dict(zip(alike, torch.randn(len(alike), 16, number, *LATENT[2:]), strict=True))
    sigmas = [shift * (1 - percent) / (1 + (shift - 1) * (1 - percent)) for percent in percents]
    return [(past[i][None].double(), noise[i][None].double(), sigma) for i, sigma in enumerate(sigmas)]


def denoise(reference, latent, conditioning, past, noise, sigma):
    """(clean, denoised) latents, memory first, in float64: the latent of one sample, the conditioning of any."""
    memory = past.shape[2]
    known = 1 - conditioning["concat_mask"].double().expand(-1, 4, -1, -1, -1)
    y = torch.cat([known, normalised(conditioning["concat_latent_image"])], dim=1)
    clean = torch.cat([y[:, 4:, :memory], normalised(latent["latent"])], dim=2)
    noised = (1 - sigma) * clean + sigma * torch.cat([past, noise], dim=2)
    times = frame_positions(memory, FRAMES)
    return clean, noised - sigma * reference(noised, y, 1000 * sigma, conditioning["cross_attn"], times, memory)


def video_error(clean, denoised):
    return (denoised - clean)[:, :, -FRAMES:].square().mean()


@pytest.fixture(scope="module")
def reference(server):
    return WanReference(load_file(server.base / "models" / "diffusion_models" / HIGH), HEADS)


@pytest.mark.parametrize(
    "kind, shift, levels, span",
    [
        ("m2v", 4.0, "all", (0.0, 1.0)),
        ("mi2v", 1.0, "all", (0.0, 1.0)),
        ("mm2v", 4.0, "high_noise", (0.0, 1 - 0.9 / (4 - 3 * 0.9))),
        ("m2v", 8.0, "low_noise", (1 - 0.9 / (8 - 7 * 0.9), 1.0)),
        ("no_memory", 4.0, "all", (0.0, 1.0)),
    ],
)
def test_the_loss_is_of_the_video_alone(client, folder, reference, kind, shift, levels, span):
    """The host's loss against an independent float64 Wan: memory frames are seen and do not count.

    The LoRA begins at nothing, so the first step's loss is the base model's. Whatever the model makes of memory
    frames cannot change a loss that is this one, and so gets no gradient.
    """
    graph = Graph(client)
    model = graph.node("ModelSamplingSD3", model=graph.model(), shift=shift)
    made = training_set(graph, model=model, of={kind: 1}, samples=3, noise_levels=levels)
    samples, losses = write_samples(graph, made), write_losses(graph, train(graph, made))
    graph.run()
    tensors, (loss,) = graph.read_all(samples), graph.read_json(losses)
    sample = sample_of(tensors, *first_batch(3))
    (drawn,) = drawn_in_first_step([sample], shift, *span)
    clean, denoised = denoise(reference, sample, sample, *drawn)
    video, everything = video_error(clean, denoised).item(), (denoised - clean).square().mean().item()
    assert loss == pytest.approx(video, rel=1e-4)
    if kind != "no_memory":
        assert abs(everything / video - 1) > 1e-3  # ten times as far apart as the line above allows


def test_a_batch_trains_each_sample_with_its_own_conditioning(client, server, folder, reference):
    """Loss and gradients of a batch with memories of several lengths, against one sample after the other in float64.

    A LoRA begins with down = 0, which SGD at learning rate 1 moves by minus its gradient alone: minus alpha / rank
    times up^T times the gradient of the layer's weight.
    """
    count, size, shift = 7, 5, 4.0
    graph, calls, prefix = Graph(client), f"{uuid.uuid4().hex}.json", f"loras/{uuid.uuid4().hex}"
    model = graph.node("ModelSamplingSD3", model=graph.model(), shift=shift)
    model = graph.node("ProbeModelCalls", model=model, name=calls, scale=1.0)
    made = training_set(graph, model=model, of={"m2v": 1, "mi2v": 1, "no_memory": 1}, samples=count, max_memory=2)
    lora = train(graph, made, batch_size=size, optimizer="SGD", learning_rate=1.0)
    graph.node("SaveLoRA", lora=lora, prefix=prefix, steps=[lora[0], 2])
    samples, losses = write_samples(graph, made), write_losses(graph, lora)
    graph.run()
    tensors, (loss,) = graph.read_all(samples), graph.read_json(losses)
    batch = [sample_of(tensors, index) for index in first_batch(count, size)]

    frames = [sample["concat_latent_image"].shape[2] for sample in batch]
    alike = Counter(frames)
    assert frames != sorted(frames, key=list(alike).index) and 1 in alike.values()  # apart, and one by itself
    assert [(call[0], call[2]) for call in graph.read_json(calls)] == [(alike[number], number) for number in alike]

    drawn = drawn_in_first_step(batch, shift)
    weights = [reference.w[name].requires_grad_() for name in TRAINED]
    errors = [video_error(*denoise(reference, one, one, *noise)) for one, noise in zip(batch, drawn, strict=True)]
    own = sum(errors) / size
    gradients = torch.autograd.grad(own, weights)
    for weight in weights:
        weight.requires_grad_(False)
    assert loss == pytest.approx(own.item(), rel=1e-4)
    mixed = 0  # what the trainer does without help: the mean over everybody's conditioning
    for one, (_, noise, sigma) in zip(batch, drawn, strict=True):
        by_all = [denoise(reference, one, by, past, noise, sigma) for by, (past, *_) in zip(batch, drawn, strict=True)]
        mean = sum(denoised[:, :, -FRAMES:] for _, denoised in by_all) / size
        mixed += (mean - normalised(one["latent"])).square().mean() / size
    assert abs(mixed / own - 1) > 1e-2  # the two can be told apart

    (path,) = (server.base / "output" / "loras").glob(f"{prefix.split('/')[1]}*")
    trained = load_file(path)
    for name, gradient in zip(TRAINED, gradients, strict=True):
        layer = f"diffusion_model.{name.removesuffix('.weight')}"
        up, down = (trained[f"{layer}.lora_{part}.weight"].double() for part in ("up", "down"))
        expected = -up.T @ gradient / TRAINER["rank"]
        assert (down - expected).abs().max() < 1e-3 * expected.abs().max() and expected.any(), name


def test_training_lowers_the_loss_and_the_file_loads_everywhere(client, server, folder):
    prefix = f"loras/{uuid.uuid4().hex}"
    graph = Graph(client)
    made = training_set(graph, of={"m2v": 1, "mi2v": 1}, samples=2)
    before = write_losses(graph, train(graph, made, steps=6, learning_rate=1e-7))
    lora = train(graph, made, steps=40, learning_rate=2e-3, seed=77, rank=8)
    graph.node("SaveLoRA", lora=lora, prefix=prefix, steps=[lora[0], 2])
    graph.run()
    (path,) = (server.base / "output" / "loras").glob(f"{prefix.split('/')[1]}*")

    graph2 = Graph(client)
    hosts = graph2.node("LoraLoaderModelOnly", model=graph2.model(), lora_name=path.name, strength_model=1.0)
    ours = graph2.node("StoryMemLoraLoader", model=graph2.model(), lora_name=path.name, strength=1.0)
    files = [graph2.write_weights(model) for model in (hosts, ours, graph2.model())]
    made = training_set(graph2, model=ours, of={"m2v": 1, "mi2v": 1}, samples=2)
    after = write_losses(graph2, train(graph2, made, steps=6, learning_rate=1e-7))
    graph2.run()
    # the same clips, noise and noise levels with and without the LoRA
    assert np.mean(graph2.read_json(after)) < 0.9 * np.mean(graph.read_json(before))

    hosts, ours, base = (graph2.read_all(name) for name in files)
    trained = load_file(path)
    pairs = {key.removesuffix(".lora_up.weight") for key in trained if key.endswith(".lora_up.weight")}
    changed = set()
    for key, weight in base.items():
        assert torch.equal(hosts[key], ours[key]), key
        module = f"diffusion_model.{key.removesuffix('.weight')}"
        if key.endswith(".weight") and module in pairs:
            up, down, alpha = (trained[f"{module}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
            weight = weight.double() + alpha.double() / len(down) * (up.double() @ down.double()).view(weight.shape)
        assert (ours[key].double() - weight).abs().max() < 1e-5, key
        if not torch.equal(ours[key], base[key]):
            changed.add(key)
    assert all(trained[key] == 1 for key in trained if key.endswith(".alpha"))
    assert changed == set(TRAINED)


@pytest.mark.parametrize("depth, batch_size", [(1, 1), (2, 3)])
def test_the_trainers_own_defaults(client, folder, depth, batch_size):
    """bfloat16 with gradient checkpointing and accumulation, on samples with and without memory."""
    graph = Graph(client)
    made = training_set(graph, of=dict.fromkeys(KINDS, 1))
    settings = {"training_dtype": "bf16", "lora_dtype": "bf16", "gradient_checkpointing": True}
    settings |= {"checkpoint_depth": depth, "batch_size": batch_size}
    losses = write_losses(graph, train(graph, made, steps=4, grad_accumulation_steps=2, **settings))
    graph.run()
    losses = graph.read_json(losses)
    assert len(losses) == 8 and np.isfinite(losses).all()


def test_each_sample_is_held_once(client, folder):
    """The trainer would hold the conditioning of every sample as often as there are samples."""
    graph, seen = Graph(client), f"{uuid.uuid4().hex}.json"
    model = graph.node("ProbeTrainer", model=graph.model(), name=seen)
    made = training_set(graph, model=model, of=dict.fromkeys(KINDS, 1), samples=8)
    write_losses(graph, train(graph, made))
    graph.run()
    _, samples = composed(folder, 8, **dict.fromkeys(KINDS, 1))
    seen = graph.read_json(seen)
    shapes = [[1, 20, len(sample.memory) + 3, HEIGHT // 8, WIDTH // 8] for sample in samples]
    assert seen == {"conds": [[shape, "cpu"] for shape in shapes], "noise": [1, 16, 3, HEIGHT // 8, WIDTH // 8]}


def trained(client, server, quick=False, **settings):
    """The LoRA file of a few samples; quick: through the small world's node for that."""
    graph, prefix = Graph(client), f"loras/{uuid.uuid4().hex}"
    model = graph.node("StoryMemDemoQuickTraining", model=graph.model()) if quick else None
    made = training_set(graph, model=model, of={"m2v": 1, "mi2v": 1}, samples=4)
    lora = train(graph, made, optimizer="SGD", learning_rate=1.0, **settings)
    graph.node("SaveLoRA", lora=lora, prefix=prefix, steps=[lora[0], 2])
    graph.run()
    (path,) = (server.base / "output" / "loras").glob(f"{prefix.split('/')[1]}*")
    return path


def assert_same(one, other):
    """The same weights but for rounding."""
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert (other[name] - weight).abs().max() <= 1e-4 * weight.abs().max(), name


@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler")
def test_quick_training_trains_the_same(client, server, folder):
    """Compiled, and with attention as matrix products."""
    start = trained(client, server)  # a new LoRA is random: both go on from the same
    settings = {"existing_lora": start.name, "steps": 4, "batch_size": 3}
    plain = load_file(trained(client, server, **settings))
    assert any((weight - load_file(start)[name]).any() for name, weight in plain.items())
    assert_same(plain, load_file(trained(client, server, quick=True, **settings)))


def test_bypass_mode_trains_the_same(client, server, folder):
    """Beside the layers instead of on their weights: the same file after ten steps, but for rounding."""
    start = trained(client, server)
    settings = {"existing_lora": start.name, "steps": 10}
    on_weights = load_file(trained(client, server, **settings))
    beside = load_file(trained(client, server, bypass_mode=True, gradient_checkpointing=True, **settings))
    assert_same(on_weights, beside)
    begins_at_zero = ("down.weight", "diff", "diff_b")
    moved = {name for name, weight in beside.items() if name.endswith(begins_at_zero) and weight.any()}
    assert moved == {f"diffusion_model.{name.removesuffix('.weight')}.lora_down.weight" for name in TRAINED}


def test_nothing_is_encoded_twice(client, server, folder):
    """The second run, and the rest of a larger set, encode only what is new; the tensors are the same."""

    def run(**settings):
        graph, encodes = Graph(client), f"{uuid.uuid4().hex}.json"
        vae = graph.node("ProbeVAE", vae=graph.vae(), name=encodes)
        # another size than the other tests': nothing is on disk yet
        settings = {"of": {"m2v": 1, "mi2v": 1}, "width": 64, "height": 48, "samples": 6, **settings}
        made = training_set(graph, vae=vae, **settings)
        samples, shown = write_samples(graph, made), graph.text([made[0], 3])
        outputs = graph.run()["outputs"]
        return graph.read_json(encodes), graph.read_all(samples), outputs[shown]["text"][0]

    first, samples, text = run()
    _, drawn = composed(folder, 6, m2v=1, mi2v=1)
    windows = {(s.clip, s.start) for s in drawn}
    begun = {(s.clip, s.start) for s in drawn if s.kind == "mi2v"}
    pictures = {place for s in drawn for place in s.memory}
    assert len(first) == len(windows) + len(begun) + len(pictures) + 1  # and grey, once
    assert f"{len(first)} latents" in text
    again, same, text = run()
    assert again == [] and "0 latents" in text
    assert samples.keys() == same.keys() and all(torch.equal(samples[key], same[key]) for key in samples)
    more, *_ = run(samples=7)
    assert 0 < len(more) < len(first)

    changed = folder / "rabbit 3.mp4"
    content = changed.read_bytes()
    try:
        write_video(changed, read_footage(70, WIDTH, HEIGHT)[50:70], 16)
        assert run()[0]  # another content under the same name
    finally:
        changed.write_bytes(content)
    assert run()[0] == []


def test_encoding_can_be_interrupted(client, server, folder):
    """What was encoded before stays on disk; progress is shown."""
    cache = server.base / "output" / "storymem" / "training_cache"
    before = set(cache.iterdir()) if cache.is_dir() else set()
    graph, progress = Graph(client), []
    made = training_set(graph, samples=40, width=112, height=64)
    write_samples(graph, made)

    def interrupt(event, data):
        if event == "progress" and data["node"] == made[0]:
            progress.append(data["value"])
            if data["value"] >= 6:  # four clips and two samples, at least
                client.interrupt()

    with pytest.raises(NodeError, match="interrupted"):
        graph.run(on_event=interrupt)
    assert progress == sorted(progress) and progress[-1] < 44
    assert set(cache.iterdir()) - before
    assert all(load_file(file) for file in cache.iterdir())  # none is half written


def test_a_damaged_latent_is_named(client, server, folder):
    def run():
        graph = Graph(client)
        write_samples(graph, training_set(graph, samples=1, width=80, height=48))
        graph.run()

    run()
    cache = server.base / "output" / "storymem" / "training_cache"
    damaged = max(cache.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    damaged.write_bytes(damaged.read_bytes()[:40])
    (folder / "rabbit 1.txt").touch()  # so that the host runs the node again
    with pytest.raises(NodeError, match="a damaged file") as raised:
        run()
    assert damaged.name in raised.value.message
    damaged.unlink()
    run()


def test_the_callers_model_is_untouched(client, folder):
    graph = Graph(client)
    model, prompts, vae = graph.model(), graph.prompts(), graph.vae()

    def sample(model):
        shot = {"vae": vae, "bank": graph.bank(2), **prompts}
        return graph.write(graph.node("StoryMemSampler", model=model, **shot, **sampler_defaults(**ONE_STEP)))

    before = sample(model)
    graph.run()
    # the rest of the same prompt: the loaded MODEL stays the same object
    made = training_set(graph, model=model, noise_levels="high_noise")
    after = sample(graph.node("ProbeAfter", model=model, after=train(graph, made, learning_rate=0.1, steps=2)))
    graph.run()
    assert torch.equal(graph.read(before), graph.read(after))


def fails(graph, message):
    with pytest.raises(NodeError) as raised:
        graph.run()
    assert message in raised.value.message, raised.value.message


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"folder": "nowhere"}, "folder='nowhere': there is no such folder"),
        ({"folder": "../output"}, "folder='../output': leads out of its folder"),
        ({"folder": "/etc"}, "folder='/etc': an absolute path"),
        ({"folder": "empty"}, "folder='empty': has no clips"),
        ({"length": 10}, "length=10: must be 4n+1 frames. Use 9 or 13"),
        ({"length": 21}, "length=21: rabbit 3.mp4 has only 17 frames"),
        ({"width": 50}, "width=50: must be a multiple of 16"),
        ({"of": {"m2v": 0}}, "shares=0: all of them are 0"),
        ({"folder": "single"}, "min_similarity=0.0: there is nothing to remember for only.mp4 from frame 0"),
        ({"folder": "uncaptioned"}, "folder='only.mp4': the clip has no caption"),
        ({"model": T2V}, "model='WanModel': this is a text-to-video model"),
    ],
)
def test_wrong_inputs(client, folder, settings, message):
    for name in ("empty", "single", "uncaptioned"):
        path = folder.parent / name
        path.mkdir(exist_ok=True)
        if name != "empty":
            write_video(path / "only.mp4", read_footage(LENGTH, WIDTH, HEIGHT), 16)
    (folder.parent / "single" / "only.txt").write_text("a meadow")
    graph = Graph(client)
    if "model" in settings:
        settings = {**settings, "model": graph.model(settings["model"])}
    write_samples(graph, training_set(graph, **settings))
    fails(graph, message)


def test_buckets_are_refused(client, folder):
    """The trainer would not scale their latents for Wan."""
    graph = Graph(client)
    write_losses(graph, train(graph, training_set(graph), bucket_mode=True))
    fails(graph, "bucket_mode=True: its latents are not scaled for Wan. Switch it off")


def test_the_model_is_for_training_alone(client, folder):
    graph = Graph(client)
    made = training_set(graph)
    shot = {"positive": graph.prompts()["positive"], "negative": graph.prompts()["negative"]}
    empty = graph.node("EmptyHunyuanLatentVideo", **SIZE, batch_size=1)
    graph.write(graph.node("KSampler", model=made, **shot, latent_image=empty, seed=1, **ONE_STEP, denoise=1.0))
    fails(graph, "model='the model of a training set': is for training. Sample with the model itself")
    again = Graph(client)
    write_samples(again, training_set(again, model=training_set(again)))
    fails(again, "model='a model with memory': has memory applied already")


def test_the_report_names_every_sample(client, folder):
    graph = Graph(client)
    shown = graph.text([training_set(graph, of=dict.fromkeys(KINDS, 1), samples=8)[0], 3])
    text = graph.run()["outputs"][shown]["text"][0]
    clips, samples = composed(folder, 8, **dict.fromkeys(KINDS, 1))
    assert "clips: 4 clips, 8 samples: 2 m2v, 2 mi2v, 2 mm2v, 2 no_memory" in text
    assert "similarity by color-layout-1" in text and "16 (4 clips)" in text
    lines = text.splitlines()[-8:]
    for line, sample in zip(lines, samples, strict=True):
        assert f"{clips[sample.clip].name} {sample.start} ->" in line
        assert all(f"{clips[clip].name} {frame}" in line.split("->")[1] for clip, frame in sample.memory)


def test_clip_vision_is_used(client, folder):
    graph, made = Graph(client), f"{uuid.uuid4().hex}.json"
    clip_vision = graph.node("ProbeClipVision", seed=3, name=made)
    shown = graph.text([training_set(graph, clip_vision=clip_vision, min_similarity=0.0)[0], 3])
    text = graph.run()["outputs"][shown]["text"][0]
    assert "similarity by clip_vision-" in text
    frames = sum(-(-clip.frames // 4) for clip in list_clips(folder, LENGTH))
    assert len(json.loads(client.view(made))) == frames


def test_the_example_workflow_trains(client, server, folder):
    """Its nodes and settings, on the demo models at a small size, give a LoRA file and a picture of the losses."""
    prompt = with_demo_models(read_api(TRAINING))
    (made,) = (node["inputs"] for node in prompt.values() if node["class_type"] == "StoryMemTrainingSet")
    (folder.parent / made["folder"]).symlink_to(folder)
    made["samples"] = 3
    outputs = client.run(prompt)["outputs"]
    (graph,) = (number for number, node in prompt.items() if node["class_type"] == "LossGraphNode")
    assert len(outputs[graph]["images"]) == 1
    (path,) = (server.base / "output" / "loras").glob("storymem_high_noise_4_steps_*")
    assert any(weight.any() for key, weight in load_file(path).items() if key.endswith("lora_down.weight"))
