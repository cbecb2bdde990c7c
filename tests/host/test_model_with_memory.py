"""The model with memory, run by the host, against an independent float64 Wan (invariants 1, 2 and 4)."""

import pytest
import torch
from safetensors.torch import load_file

from host_graph import FRAMES, HEIGHT, HIGH, ONE_STEP, SIZE, WIDTH, Graph, memory_defaults, sampler_defaults
from storymem_core.positions import frame_positions
from wan_reference import WanReference

SEED = 3
HEADS = 2


@pytest.fixture(scope="module")
def reference(server):
    return WanReference(load_file(server.base / "models" / "diffusion_models" / HIGH), HEADS)


def expected_step(reference, seen, noise, memory, spacing=1, strength=1.0, cfg=3.5):
    """One Euler step from noise to nothing, sigma 1 -> 0: noise minus velocity."""
    times = frame_positions(memory, noise.shape[2] - memory, spacing)
    velocities = []
    for conditioning in seen:
        known = 1 - conditioning["concat_mask"].expand(-1, 4, -1, -1, -1)
        y = torch.cat([known, normalised(conditioning["concat_latent_image"])], dim=1)
        text = conditioning["cross_attn"]
        velocities.append(reference(noise, y, 1000.0, text, times, memory, strength))
    positive, negative = velocities
    return noise.double() - (negative + cfg * (positive - negative))


WAN_MEAN = [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508]
WAN_MEAN += [0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921]
WAN_STD = [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743]
WAN_STD += [3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160]


def normalised(latent):
    """VAE latents as the model sees them (mean and deviation per channel published with Wan 2.1)."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 16, 1, 1, 1) for v in (WAN_MEAN, WAN_STD))
    return (latent.double() - mean) / std


def sampled_step(client, kind, memory, **changes):
    """What the node samples in one step, and what its model was told and given."""
    graph = Graph(client)
    shot = {
        "vae": graph.vae(),
        "bank": graph.bank(memory),
        "transition": graph.transition(kind),
        **graph.prompts(),
    }
    settings = sampler_defaults(seed=SEED, **ONE_STEP, **changes)
    latent = graph.node("StoryMemSampler", model=graph.model(), **shot, **settings)
    apply = {name: settings[name] for name in (*SIZE, *memory_defaults())}
    applied = graph.node("StoryMemApplyMemory", model=graph.model(), **shot, **apply)
    files = [graph.write_conditioning([applied[0], slot]) for slot in (1, 2)]
    out = graph.write(latent)
    graph.run()
    return normalised(graph.read(out)), [graph.read_all(name) for name in files]


def seeded_noise(memory, frames=FRAMES):
    video = torch.randn(1, 16, frames, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(SEED))
    if not memory:
        return video
    # The memory frames' own noise is what it is; that video noise is the host's is tested elsewhere.
    own = torch.Generator().manual_seed(SEED ^ int.from_bytes(b"StoryMem", "big"))
    return torch.cat([torch.randn(1, 16, memory, HEIGHT // 8, WIDTH // 8, generator=own), video], dim=2)


@pytest.mark.parametrize("kind", ["cut", "first_frame", "motion_frames"])
@pytest.mark.parametrize("spacing", [1, 5])
def test_the_host_computes_what_the_reference_does(client, reference, kind, spacing):
    """Two batch items: positive and negative prompt go through the model together at cfg 3.5."""
    memory = 3
    ours, seen = sampled_step(client, kind, memory, memory_spacing=spacing)
    expected = expected_step(reference, seen, seeded_noise(memory), memory, spacing)[:, :, memory:]
    assert relative_error(ours, expected) < 1e-4


@pytest.mark.parametrize("strength", [0.25, 3.0])
def test_strength_weighs_memory_keys(client, reference, strength):
    memory = 4
    ours, seen = sampled_step(client, "cut", memory, memory_spacing=2, memory_strength=strength)
    noise = seeded_noise(memory)
    expected = expected_step(reference, seen, noise, memory, 2, strength)[:, :, memory:]
    assert relative_error(ours, expected) < 1e-4
    plain = expected_step(reference, seen, noise, memory, 2, 1.0)[:, :, memory:]
    assert relative_error(plain, expected) > 1e-2  # the strength matters in this model


@pytest.mark.parametrize("spacing", [1, 5])
@pytest.mark.parametrize("kind", ["cut", "motion_frames"])
def test_no_strength_is_no_memory(client, spacing, kind):
    """Strength 0, and a strength so small that only the attention path is left to make it nothing."""
    without, _ = sampled_step(client, kind, 0, memory_spacing=spacing)
    zero, _ = sampled_step(client, kind, 10, memory_spacing=spacing, memory_strength=0.0)
    assert relative_error(zero, without) < 1e-5
    full, _ = sampled_step(client, kind, 10, memory_spacing=spacing)
    assert relative_error(full, without) > 1e-2


@pytest.mark.parametrize("spacing", [1, 5])
def test_a_vanishing_strength_approaches_no_memory(client, reference, spacing):
    """Memory keys without weight: the video is as without memory, at its own positions, for any spacing.

    The host takes strengths from 0 to 100; 1e-9 leaves memory in the model but silent.
    """
    without, _ = sampled_step(client, "cut", 0, memory_spacing=spacing)
    silent, _ = sampled_step(client, "cut", 5, memory_spacing=spacing, memory_strength=1e-9)
    assert relative_error(silent, without) < 1e-5


@pytest.mark.parametrize("guidance", [0.0, 0.5, 2.0])
def test_guidance_goes_that_far_from_no_memory_to_memory(client, reference, guidance):
    memory = 4
    ours, seen = sampled_step(client, "cut", memory, memory_guidance=guidance)
    _, alone = sampled_step(client, "cut", 0)
    remembered = expected_step(reference, seen, seeded_noise(memory), memory)[:, :, memory:]
    forgotten = expected_step(reference, alone, seeded_noise(0), 0)
    assert relative_error(ours, forgotten + guidance * (remembered - forgotten)) < 1e-4
    assert relative_error(ours, remembered) > 1e-2  # guidance matters in this model


def relative_error(ours, expected):
    return ((ours.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("memory, frames", [(1, 2), (3, 8), (10, 31)])
@pytest.mark.parametrize("spacing", [1, 5])
@pytest.mark.parametrize("height, width", [(8, 12), (60, 104)])
def test_rope_places_every_frame(client, reference, memory, frames, spacing, height, width):
    graph = Graph(client)
    shot = {"vae": graph.vae(), "bank": graph.bank(1), **graph.prompts()}
    applied = graph.node(
        "StoryMemApplyMemory",
        model=graph.model(),
        **shot,
        **SIZE,
        **memory_defaults(),
    )
    graph.node(
        "ProbeRope",
        model=applied,
        frames=frames,
        height=height,
        width=width,
        memory=memory,
        spacing=spacing,
        name=(name := f"rope_{memory}_{frames}_{spacing}_{height}.safetensors"),
    )
    graph.run()
    rotations = graph.read(name).double().squeeze()  # [tokens, D / 2, 2, 2]
    ours = torch.complex(rotations[..., 0, 0], rotations[..., 1, 0])
    times = frame_positions(memory, frames - memory, spacing)
    expected = reference.rotations(times, height // 2, width // 2)
    assert (ours - expected).abs().max() < 1e-4
