"""Memory beside everybody else's patches, and what is encoded how often (invariants 9, 10 and 12)."""

import pytest
import torch
from safetensors.torch import load_file

from host_graph import (
    FRAMES,
    HEIGHT,
    HIGH,
    SIZE,
    UNI_PC,
    WIDTH,
    Graph,
    memory_defaults,
    sampler_defaults,
)

LORA = HIGH  # the demo's adapter has the name of its model
EULER = {**UNI_PC, "steps": 2, "sampler_name": "euler"}


def lora(graph, model):
    return graph.node("StoryMemLoraLoader", model=model, lora_name=LORA, strength=1.0)


def attention(graph, model, kernel="pytorch", scale=0.5, name="attention_calls.json"):
    return graph.node("ProbeAttention", model=model, kernel=kernel, scale=scale, name=name)


def wrapper(graph, model):
    return graph.node("ProbeModelCalls", model=model, name="calls_composition.json", scale=0.5)


def sample_applied(graph, model, before, after, strength, memory=2, guidance=1.0):
    """Another pack's patch before and after Apply Memory, then the host's K-sampler; the written latent."""
    shot = {"vae": graph.vae(), "bank": graph.bank(memory), **graph.prompts()}
    settings = {**SIZE, **memory_defaults(memory_strength=strength, memory_guidance=guidance)}
    applied = graph.node("StoryMemApplyMemory", model=before(graph, model), **shot, **settings)
    number = applied[0]
    sampled = graph.node(
        "KSampler",
        model=after(graph, applied),
        positive=[number, 1],
        negative=[number, 2],
        latent_image=[number, 3],
        seed=5,
        **EULER,
        denoise=1.0,
    )
    return graph.write(graph.node("StoryMemTrimMemory", latent=sampled))


def none(graph, model):
    return model


@pytest.mark.parametrize("strength", [1.0, 2.0])
@pytest.mark.parametrize("patch", [lora, attention, wrapper])
def test_others_patches_apply_in_any_order(client, patch, strength):
    graph = Graph(client)
    model = graph.model()
    orders = [(patch, none), (none, patch), (none, none)]
    files = [sample_applied(graph, model, *order, strength) for order in orders]
    graph.run()
    before, after, without = (graph.read(file) for file in files)
    assert torch.allclose(before, after, atol=1e-5)
    assert (before - without).abs().max() > 1e-2


@pytest.mark.parametrize("kernel", ["pytorch", "sub_quad", "split"])
@pytest.mark.parametrize("strength, guidance", [(3.0, 1.0), (1.0, 2.0)])
def test_another_attention_is_given_the_strength_as_a_mask(client, kernel, strength, guidance):
    """With and without an override of the same attention the result is the same: nothing was lost."""
    graph = Graph(client)
    model = graph.model()

    def same_attention(graph, model):
        return attention(graph, model, kernel, scale=1.0)

    files = [sample_applied(graph, model, none, after, strength, guidance=guidance) for after in (none, same_attention)]
    files.append(sample_applied(graph, model, none, same_attention, 1.0))
    graph.run()
    merged, masked, unweighted = (graph.read(file) for file in files)
    assert (merged - masked).norm() < 1e-4 * merged.norm()  # guidance multiplies rounding
    assert (masked - unweighted).abs().max() > 1e-2


def test_strength_1_leaves_the_attention_alone(client):
    """At strength 1 no call has a mask; at 2 the self-attention has one and the cross-attention has none."""
    for strength in (1.0, 2.0):
        graph = Graph(client)
        model = graph.node("ProbeAgain", model=graph.model())
        sample_applied(graph, model, none, attention, strength)
        graph.run()
        calls = graph.read_json("attention_calls.json")
        tokens = (FRAMES + 2) * (HEIGHT // 16) * (WIDTH // 16)
        assert {(queries, keys == tokens) for queries, keys, _ in calls} == {(tokens, True), (tokens, False)}
        assert all(masked == (strength != 1 and keys == tokens) for _, keys, masked in calls)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_easy_cache_composes_with_a_memory_window(client, guidance):
    """The host's EasyCache sees the frame count change at the window's edges, and second passes inside, and goes on."""
    graph = Graph(client)
    settings = {"reuse_threshold": 0.2, "start_percent": 0.1, "end_percent": 0.95, "verbose": False}
    cached = graph.node("EasyCache", model=graph.model(), **settings)
    shot = {"vae": graph.vae(), "bank": graph.bank(3), **graph.prompts()}
    changes = {**UNI_PC, "steps": 8, "memory_start": 0.3, "memory_end": 0.7}
    changes["memory_guidance"] = guidance
    file = graph.write(graph.node("StoryMemSampler", model=cached, **shot, **sampler_defaults(**changes)))
    graph.run()
    out = graph.read(file)
    assert out.shape[2] == FRAMES and torch.isfinite(out).all()


def test_the_callers_model_is_untouched(client):
    """The host's own video and the weights are the same before and after sampling with memory."""
    videos, weights = [], []
    for turn in ("before", "memory", "after"):
        graph = Graph(client)
        model = graph.model()
        if turn == "memory":
            patched = lora(graph, model)
            shot = {"vae": graph.vae(), "bank": graph.bank(3), **graph.prompts()}
            settings = sampler_defaults(memory_strength=2.0, memory_spacing=5, **EULER)
            graph.write(graph.node("StoryMemSampler", model=patched, **shot, **settings))
            graph.run()
            continue
        prompts = graph.prompts()
        shot = graph.node("WanImageToVideo", **prompts, vae=graph.vae(), **SIZE, batch_size=1)
        shot = {"positive": shot, "negative": [shot[0], 1], "latent_image": [shot[0], 2]}
        again = graph.node("ProbeAgain", model=model)
        sampled = graph.node("KSampler", model=again, **shot, seed=5, **EULER, denoise=1.0)
        files = graph.write(sampled), graph.write_weights(again)
        graph.run()
        videos.append(graph.read(files[0]))
        weights.append(graph.read_all(files[1]))
    assert torch.equal(*videos)
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_memory_is_applied_once(client):
    from tools.client import NodeError

    graph = Graph(client)
    shot = {"vae": graph.vae(), "bank": graph.bank(1), **graph.prompts(), **SIZE, **memory_defaults()}
    first = graph.node("StoryMemApplyMemory", model=graph.model(), **shot)
    second = graph.node("StoryMemApplyMemory", model=first, **shot)
    graph.write([second[0], 3])
    with pytest.raises(NodeError, match=r"model=.*applied already"):
        graph.run()


def test_the_lora_adds_its_rank_stabilised_product(client, server):
    graph = Graph(client)
    model = graph.model()
    files = graph.write_weights(model), graph.write_weights(lora(graph, model))
    graph.run()
    plain, patched = (graph.read_all(file) for file in files)
    adapter = load_file(server.base / "models" / "loras" / LORA)
    layers = {key.split(".lora_A")[0] for key in adapter if ".lora_A" in key}
    assert len(layers) == 20  # 10 linears in each of 2 blocks
    for layer in layers:
        a, b = (adapter[f"{layer}.lora_{side}.weight"].double() for side in "AB")
        rank = a.shape[0]
        name = layer.removeprefix("base_model.model.") + ".weight"
        expected = plain[name].double() + rank / rank**0.5 * b @ a  # alpha = rank
        change = (expected - plain[name].double()).norm()
        assert change > 0
        assert (patched[name].double() - expected).norm() < 1e-3 * change
    changed = {key for key in plain if not torch.equal(plain[key], patched[key])}
    assert changed == {layer.removeprefix("base_model.model.") + ".weight" for layer in layers}


def test_every_picture_is_encoded_once_per_size(client):
    """Three shots that recall 4, 4 and 6 keyframes: 6 one-frame encodes and one grey video; then another size."""
    graph = Graph(client)
    vae = graph.node("ProbeVAE", vae=graph.vae(), name="encodes.json")
    shot = {"model": graph.model(), "vae": vae, **graph.prompts()}
    four = graph.bank(4, seed=901)
    six = graph.node(
        "StoryMemMemoryBank",
        bank=four,
        reference_images=graph.images(902, 2),
        capacity=10,
        sink=3,
        policy="sliding_window",
    )
    for seed, bank in enumerate((four, four, six)):
        settings = sampler_defaults(**EULER, seed=seed, width=64, height=48, length=5)  # no other test's size
        graph.write(graph.node("StoryMemSampler", **shot, bank=bank, **settings))
    graph.run()
    encodes = graph.read_json("encodes.json")
    assert sorted(encodes) == sorted([[1, 48, 64, 3]] * 6 + [[5, 48, 64, 3]])

    settings = sampler_defaults(**EULER, width=64, height=64, length=5)
    graph.write(graph.node("StoryMemSampler", **shot, bank=four, **settings))
    graph.run()
    more = graph.read_json("encodes.json")[len(encodes) :]
    assert sorted(more) == sorted([[1, 64, 64, 3]] * 4 + [[5, 64, 64, 3]])
