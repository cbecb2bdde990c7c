"""Sampling a shot: equal to the host where there is no memory, equal to itself by parts where there is."""

import io

import pytest
import torch
from PIL import Image

from host_graph import (
    FRAMES,
    HEIGHT,
    LENGTH,
    LOW,
    SIZE,
    UNI_PC,
    WIDTH,
    Graph,
    memory_defaults,
    sampler_defaults,
)
from tools.client import NodeError

SEED = 3


def host_conditioning(graph, kind, prompts, vae):
    """What the host's own image-to-video node makes of a shot that continues the last 1 or 5 of 6 frames."""
    count = {"first_frame": 1, "motion_frames": 5}[kind]
    start = graph.node("ImageFromBatch", image=graph.images(11, 6), batch_index=6 - count, length=count)
    shot = graph.node("WanImageToVideo", **prompts, vae=vae, **SIZE, batch_size=1, start_image=start)
    return {"positive": shot, "negative": [shot[0], 1], "latent_image": [shot[0], 2]}


@pytest.mark.parametrize("kind", ["first_frame", "motion_frames"])
@pytest.mark.parametrize("with_bank", [False, True])
def test_an_empty_bank_is_the_hosts_own_image_to_video(client, kind, with_bank):
    graph = Graph(client)
    prompts, vae, model = graph.prompts(), graph.vae(), graph.model()
    bank = {"bank": graph.bank(0)} if with_bank else {}
    ours = graph.node(
        "StoryMemSampler",
        model=model,
        vae=vae,
        **prompts,
        **bank,
        transition=graph.transition(kind),
        **sampler_defaults(),
    )
    shot = host_conditioning(graph, kind, prompts, vae)
    shifted = graph.node("ModelSamplingSD3", model=model, shift=4.0)
    hosts = graph.node("KSampler", model=shifted, **shot, seed=SEED, **UNI_PC, denoise=1.0)
    files = graph.write(ours), graph.write(hosts)
    graph.run()
    ours, hosts = (graph.read(file) for file in files)
    assert ours.shape == (1, 16, FRAMES, HEIGHT // 8, WIDTH // 8)
    assert torch.equal(ours, hosts)


def test_an_empty_bank_and_a_cut_is_the_hosts_sampler_on_grey(client):
    graph = Graph(client)
    prompts, vae, model = graph.prompts(), graph.vae(), graph.model()
    ours = graph.node("StoryMemSampler", model=model, vae=vae, **prompts, **sampler_defaults())
    grey = graph.node("ProbeGrey", vae=vae, **SIZE, **prompts)
    shifted = graph.node("ModelSamplingSD3", model=model, shift=4.0)
    hosts = graph.node(
        "KSampler",
        model=shifted,
        positive=grey,
        negative=[grey[0], 1],
        latent_image=[grey[0], 2],
        seed=SEED,
        **UNI_PC,
        denoise=1.0,
    )
    files = graph.write(ours), graph.write(hosts)
    graph.run()
    assert torch.equal(*(graph.read(file) for file in files))


@pytest.mark.parametrize("boundary, high_steps", [(0.9, 3), (0.5, 7)])
def test_two_experts_are_the_hosts_two_advanced_samplers(client, boundary, high_steps):
    """shift 4: sigma(t) = 4t / (1 + 3t) at t = 1, 7/8, ...: 3 steps stand at 0.9 or above, 7 at 0.5 or above."""
    graph = Graph(client)
    prompts, vae, high, low = graph.prompts(), graph.vae(), graph.model(), graph.model(LOW)
    settings = {**UNI_PC, "steps": 8, "sampler_name": "euler"}
    sigmas = [4 * t / (1 + 3 * t) for t in (1 - i / 8 for i in range(8))]
    assert sum(sigma >= boundary for sigma in sigmas) == high_steps
    ours = graph.node(
        "StoryMemSampler",
        model=high,
        model_low_noise=low,
        vae=vae,
        **prompts,
        transition=graph.transition("first_frame"),
        **sampler_defaults(**settings, boundary=boundary),
    )
    latent = host_conditioning(graph, "first_frame", prompts, vae)
    for model, first, last in ((high, 0, high_steps), (low, high_steps, 10000)):
        latent["latent_image"] = graph.node(
            "KSamplerAdvanced",
            model=graph.node("ModelSamplingSD3", model=model, shift=4.0),
            add_noise="enable" if first == 0 else "disable",
            noise_seed=SEED,
            **settings,
            **latent,
            start_at_step=first,
            end_at_step=last,
            return_with_leftover_noise="enable" if first == 0 else "disable",
        )
    files = graph.write(ours), graph.write(latent["latent_image"])
    graph.run()
    assert torch.equal(*(graph.read(file) for file in files))


def by_parts(graph, shot, settings, low=None, noise="StoryMemNoise"):
    """Apply Memory, the host's custom sampler, Trim Memory; returns both outputs of the sampler, trimmed."""
    names = ("width", "height", "length", *memory_defaults())
    applied = graph.node("StoryMemApplyMemory", **shot, **{name: settings[name] for name in names})
    number = applied[0]
    models = [applied] if low is None else [applied, [number, 4]]
    models = [graph.node("ModelSamplingSD3", model=model, shift=settings["shift"]) for model in models]
    sigmas = [
        graph.node(
            "BasicScheduler",
            model=models[0],
            scheduler=settings["scheduler"],
            steps=settings["steps"],
            denoise=1.0,
        )
    ]
    if low is not None:
        split = graph.node("SplitSigmas", sigmas=sigmas[0], step=low)
        sigmas = [split, [split[0], 1]]
    latent = [number, 3]
    sampler = graph.node("KSamplerSelect", sampler_name=settings["sampler_name"])
    noises = [graph.node(noise, **{"noise_seed" if noise == "RandomNoise" else "seed": settings["seed"]})]
    noises.append(graph.node("DisableNoise"))
    for i, model in enumerate(models):
        guider = graph.node("CFGGuider", model=model, positive=[number, 1], negative=[number, 2], cfg=settings["cfg"])
        latent = graph.node(
            "SamplerCustomAdvanced",
            noise=noises[i],
            guider=guider,
            sampler=sampler,
            sigmas=sigmas[i],
            latent_image=latent,
        )
    return [graph.node("StoryMemTrimMemory", latent=[latent[0], slot]) for slot in (0, 1)]


OTHER_MEMORY = {
    **{"memory_spacing": 5, "memory_strength": 2.0, "memory_start": 0.2, "memory_end": 0.6},
    "memory_guidance": 1.5,
}


@pytest.mark.parametrize("kind", ["cut", "first_frame", "motion_frames"])
@pytest.mark.parametrize("changes", [{}, OTHER_MEMORY])
def test_by_parts_is_the_same_video_bit_for_bit(client, kind, changes):
    graph = Graph(client)
    settings = sampler_defaults(**{**UNI_PC, "steps": 6, "sampler_name": "euler"}, **changes)
    shot = {"model": graph.model(), "vae": graph.vae(), **graph.prompts()}
    shot |= {"bank": graph.bank(3), "transition": graph.transition(kind)}
    whole = graph.node("StoryMemSampler", **shot, **settings)
    parts, denoised = by_parts(graph, shot, settings)
    files = graph.write(whole), graph.write(parts), graph.write(denoised)
    graph.run()
    whole, parts, denoised = (graph.read(file) for file in files)
    assert torch.equal(whole, parts)
    assert whole.shape[2] == denoised.shape[2] == FRAMES
    assert torch.allclose(denoised, parts, atol=1e-5)  # Euler's last step ends on what was denoised


def test_by_parts_with_two_experts_and_unipc(client):
    graph = Graph(client)
    settings = sampler_defaults(**{**UNI_PC, "steps": 8})
    shot = {
        "model": graph.model(),
        "model_low_noise": graph.model(LOW),
        "vae": graph.vae(),
        **graph.prompts(),
    }
    shot["bank"] = graph.bank(3)
    whole = graph.node("StoryMemSampler", **shot, **settings)
    # UniPC's schedule is the host's K-sampler's: one step more, the last but one left out.
    applied_steps = {**settings, "sampler_name": "euler"}
    euler = graph.node("StoryMemSampler", **shot, **applied_steps)
    parts, _ = by_parts(graph, shot, applied_steps, low=3)
    files = graph.write(whole), graph.write(euler), graph.write(parts)
    graph.run()
    whole, euler, parts = (graph.read(file) for file in files)
    assert torch.equal(euler, parts)
    assert torch.isfinite(whole).all() and not torch.equal(whole, euler)


def test_the_hosts_plain_sampler_works_with_memory(client):
    """The host draws the noise of memory and video frames together; what memory shows still arrives."""
    graph = Graph(client)
    shot = {"model": graph.model(), "vae": graph.vae(), **graph.prompts()}
    outs = []
    for seed in (7, 8):
        applied = graph.node("StoryMemApplyMemory", **shot, bank=graph.bank(2, seed), **SIZE, **memory_defaults())
        number = applied[0]
        sampled = graph.node(
            "KSampler",
            model=applied,
            positive=[number, 1],
            negative=[number, 2],
            latent_image=[number, 3],
            seed=SEED,
            **UNI_PC,
            denoise=1.0,
        )
        outs.append(graph.write(graph.node("StoryMemTrimMemory", latent=sampled)))
    graph.run()
    first, second = (graph.read(file) for file in outs)
    assert first.shape == (1, 16, FRAMES, HEIGHT // 8, WIDTH // 8)
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("memory", [0, 1, 10])
def test_video_noise_is_the_hosts_own_whatever_is_remembered(client, memory):
    """The sampler of a single step to sigma 0 at memory strength 0 shows its noise: see the probe."""
    graph = Graph(client)
    shot = {"model": graph.model(), "vae": graph.vae(), **graph.prompts()}
    applied = graph.node("StoryMemApplyMemory", **shot, bank=graph.bank(memory), **SIZE, **memory_defaults())
    empty = graph.node("EmptyHunyuanLatentVideo", width=WIDTH, height=HEIGHT, length=LENGTH, batch_size=1)
    ours = graph.node("ProbeNoise", noise=graph.node("StoryMemNoise", seed=SEED), latent=[applied[0], 3])
    hosts = graph.node("ProbeNoise", noise=graph.node("RandomNoise", noise_seed=SEED), latent=empty)
    files = graph.write(ours), graph.write(hosts)
    graph.run()
    ours, hosts = (graph.read(file) for file in files)
    assert ours.shape[2] == memory + FRAMES
    assert torch.equal(ours[:, :, memory:], hosts)
    past = ours[:, :, :memory]
    assert memory == 0 or (abs(past.std() - 1) < 0.2 and not torch.equal(past[:, :, 0], hosts[:, :, 0]))


def test_memory_noise_knows_every_seed(client):
    graph = Graph(client)
    shot = {"model": graph.model(), "vae": graph.vae(), **graph.prompts()}
    applied = graph.node("StoryMemApplyMemory", **shot, bank=graph.bank(1), **SIZE, **memory_defaults())
    files = [
        graph.write(graph.node("ProbeNoise", noise=graph.node("StoryMemNoise", seed=seed), latent=[applied[0], 3]))
        for seed in (0, 1, 2**64 - 1)
    ]
    graph.run()
    past = [graph.read(file)[:, :, 0] for file in files]
    assert not torch.equal(past[0], past[1]) and not torch.equal(past[1], past[2])


@pytest.mark.parametrize("length", [1, 5, 9])
def test_a_shot_has_exactly_its_length(client, length):
    graph = Graph(client)
    shot = {"model": graph.model(), "vae": graph.vae(), **graph.prompts(), "bank": graph.bank(4)}
    latent = graph.node("StoryMemSampler", **shot, **{**sampler_defaults(), "length": length, "steps": 2})
    images = graph.node("VAEDecode", samples=latent, vae=shot["vae"])
    file = graph.write(images)
    graph.run()
    assert graph.read(file).shape == (length, HEIGHT, WIDTH, 3)


def previews_of(client, graph):
    previews = []
    graph.run(on_event=lambda kind, data: kind == "preview" and previews.append(Image.open(io.BytesIO(data))))
    return previews


@pytest.mark.parametrize("parts", [False, True])
def test_previews_show_video_frames_only(client, parts):
    """At strength 0 the video is as without memory, so its previews must be too, picture by picture."""
    seen = []
    for memory in (0, 6):
        graph = Graph(client)
        settings = sampler_defaults(sampler_name="euler", memory_strength=0.0, seed=100 + parts)
        model = graph.node("ProbeAgain", model=graph.model())
        shot = {"model": model, "vae": graph.vae(), **graph.prompts(), "bank": graph.bank(memory)}
        latent = by_parts(graph, shot, settings)[0] if parts else graph.node("StoryMemSampler", **shot, **settings)
        graph.write(latent)
        seen.append([list(preview.get_flattened_data()) for preview in previews_of(client, graph)])
    assert len(seen[0]) == 4
    assert seen[0] == seen[1]


def test_one_progress_bar_over_both_experts(client):
    graph = Graph(client)
    shot = {"model": graph.node("ProbeAgain", model=graph.model()), "model_low_noise": graph.model(LOW)}
    shot |= {"vae": graph.vae(), **graph.prompts(), "bank": graph.bank(2)}
    latent = graph.node("StoryMemSampler", **shot, **sampler_defaults(steps=8))
    graph.write(latent)
    progress = []
    graph.run(on_event=lambda kind, data: kind == "progress" and progress.append(data))
    ours = [(data["value"], data["max"]) for data in progress if data["node"] == latent[0]]
    assert ours == [(i, 8) for i in range(1, 9)]


def test_sampling_can_be_interrupted_and_the_server_goes_on(client):
    graph = Graph(client)
    shot = {"model": graph.model(), "vae": graph.vae(), **graph.prompts(), "bank": graph.bank(2)}
    latent = graph.node("StoryMemSampler", **shot, **sampler_defaults(steps=4000, seed=9))
    graph.write(latent)

    def stop(kind, data):
        if kind == "progress" and data["node"] == latent[0] and data["value"] == 2:
            client.interrupt()

    with pytest.raises(NodeError) as error:
        graph.run(on_event=stop)
    assert error.value.exception_type == "interrupted" and error.value.node_id == latent[0]
    again = Graph(client)
    shot = {"model": again.model(), "vae": again.vae(), **again.prompts()}
    file = again.write(again.node("StoryMemSampler", **shot, **sampler_defaults(steps=2)))
    again.run()
    assert torch.isfinite(again.read(file)).all()


@pytest.mark.parametrize("cfg, batch", [(1.0, 1), (3.5, 2)])
def test_cfg_1_skips_the_negative_pass(client, cfg, batch):
    graph = Graph(client)
    calls = f"calls_cfg_{batch}.json"
    model = graph.node("ProbeModelCalls", model=graph.node("ProbeAgain", model=graph.model()), name=calls, scale=1.0)
    shot = {"model": model, "vae": graph.vae(), **graph.prompts(), "bank": graph.bank(2)}
    graph.write(graph.node("StoryMemSampler", **shot, **sampler_defaults(steps=3, cfg=cfg, sampler_name="euler")))
    graph.run()
    assert [shape[0] for shape in graph.read_json(calls)] == [batch] * 3


def test_outside_its_window_memory_costs_nothing(client):
    """Fractions of the sampling: of 8 steps, those that begin at 0.25 or later and before 0.5: 2 and 3."""
    graph = Graph(client)
    model = graph.node("ProbeAgain", model=graph.model())
    model = graph.node("ProbeModelCalls", model=model, name="calls_window.json", scale=1.0)
    shot = {"model": model, "vae": graph.vae(), **graph.prompts(), "bank": graph.bank(3)}
    settings = sampler_defaults(steps=8, sampler_name="euler", memory_start=0.25, memory_end=0.5)
    graph.write(graph.node("StoryMemSampler", **shot, **settings))
    graph.run()
    inside = [FRAMES + 3 if step in (2, 3) else FRAMES for step in range(8)]
    assert [shape[2] for shape in graph.read_json("calls_window.json")] == inside


def test_before_its_window_the_video_is_as_without_memory(client):
    """A window that no step reaches gives the video of no memory, bit for bit."""
    outs = []
    for memory in (0, 3):
        graph = Graph(client)
        shot = {"model": graph.model(), "vae": graph.vae(), **graph.prompts(), "bank": graph.bank(memory)}
        settings = sampler_defaults(sampler_name="euler", memory_start=0.99, memory_end=0.99)
        outs.append(graph.write(graph.node("StoryMemSampler", **shot, **settings)))
        graph.run()
    assert torch.equal(graph.read(outs[0]), graph.read(outs[1]))
