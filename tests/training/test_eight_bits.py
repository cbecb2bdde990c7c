"""Weights of eight bits, as the host reads them."""

import torch
from safetensors.torch import load_file

from tools.demo_models import WEIGHTS
from tools.small_world import probe
from tools.small_world.export import SMALLEST, rounded
from tools.small_world.run import restored
from tools.small_world.transformer import trained

T2V = WEIGHTS / "storymem_world_t2v.safetensors"


def test_weights_are_rounded_to_the_nearest_of_255_steps_of_their_row():
    torch.manual_seed(0)
    weights = {
        "a.weight": torch.randn(SMALLEST, 80) * torch.logspace(-3, 1, SMALLEST)[:, None],
        "a.bias": torch.randn(SMALLEST),
        "small.weight": torch.randn(SMALLEST - 1, 80),
    }
    content = rounded(weights)
    assert content["a.weight"].dtype == torch.int8 and content["a.weight"].abs().amax(1).eq(127).all()
    again = restored(content)
    assert list(again) == list(weights)
    step = weights["a.weight"].abs().amax(1, keepdim=True) / 127
    assert ((again["a.weight"] - weights["a.weight"]).abs() <= 0.501 * step).all()
    assert all(torch.equal(again[key], weights[key]) for key in ("a.bias", "small.weight"))


def test_the_host_reads_the_shipped_model():
    """Its velocity is that of the restored weights, but for activations, which the host rounds to eight bits too."""
    from comfy.sd import load_diffusion_model  # found once the small world's host is imported

    host = load_diffusion_model(str(T2V)).model.diffusion_model
    wan = probe.new_transformer(16)
    wan.load_state_dict(trained(WEIGHTS, "t2v"))
    _, text, _ = probe.load_models(WEIGHTS)
    torch.manual_seed(1)
    x, time = torch.randn(2, 16, 5, 8, 12), torch.tensor([1000.0, 500.0])
    words = text(["The robot jumps, town, static.", "The bear waves, forest, pan."])
    with torch.no_grad():
        velocity, expected = host(x, time, words), wan(x, time, words)
    assert (velocity - expected).square().mean() < 0.002 * expected.square().mean()
    assert load_file(T2V)["blocks.0.ffn.0.weight"].dtype == torch.int8
