"""Weights of eight bits, as the host reads them."""

import torch
from safetensors.torch import load_file

from tools.demo_models import WEIGHTS
from tools.small_world import probe
from tools.small_world.export import SMALLEST, rounded
from tools.small_world.run import restored
from tools.small_world.transformer import trained

I2V, LORA = (WEIGHTS / f"storymem_world_{name}.safetensors" for name in ("i2v", "lora_first_frame"))
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


def test_the_host_adds_a_lora_to_the_shipped_model():
    """Its velocity is that of restored weights with the LoRA's products, but for rounding of sums and activations."""
    from comfy.model_management import load_models_gpu
    from comfy.sd import load_diffusion_model, load_lora_for_models

    patched, _ = load_lora_for_models(load_diffusion_model(str(I2V)), None, load_file(LORA), 1.0, 0.0)
    load_models_gpu([patched], force_full_load=True)
    base, merged = (probe.new_transformer(36) for _ in range(2))
    base.load_state_dict(trained(WEIGHTS, "i2v"))
    merged.load_state_dict(probe.with_lora(trained(WEIGHTS, "i2v"), LORA))
    _, text, _ = probe.load_models(WEIGHTS)
    torch.manual_seed(1)
    x, time = torch.randn(2, 36, 5, 8, 12), torch.tensor([1000.0, 500.0])
    words = text(["The robot jumps, town, static.", "The bear waves, forest, pan."])
    with torch.no_grad():
        velocity = patched.model.diffusion_model(x, time, words)
        without, expected = base(x, time, words), merged(x, time, words)
    assert (velocity - expected).square().mean() < 0.002 * expected.square().mean()
    assert (without - expected).square().mean() > 0.02 * expected.square().mean(), "the LoRA can be seen"
    assert load_file(I2V)["blocks.0.ffn.0.weight"].dtype == torch.int8
