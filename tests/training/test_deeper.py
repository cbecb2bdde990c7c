"""Deeper models begin as what they were."""

import pytest
import torch
from safetensors.torch import load_file

from tools.demo_models import WEIGHTS
from tools.small_world import transformer
from tools.small_world.deeper import deeper
from tools.small_world.lora_loop import add_lora
from tools.small_world.run import restored

LORA = WEIGHTS / "storymem_world_lora_first_frame.safetensors"


def velocity_of(monkeypatch, weights: dict, lora: dict, layers: int) -> torch.Tensor:
    monkeypatch.setitem(transformer.CONFIG, "num_layers", layers)
    wan = transformer.new_transformer(36)
    wan.load_state_dict(weights)
    assert len(add_lora(wan, lora)) == len(lora) // 3, "every layer of the LoRA is one of the model"
    torch.manual_seed(1)
    x, words = torch.randn(2, 36, 5, 8, 12), torch.randn(2, 8, transformer.TEXT_WIDTH)
    with torch.no_grad():
        return wan(x, torch.tensor([1000.0, 500.0]), words)


def test_layers_that_come_twice_change_nothing_yet(monkeypatch):
    weights, lora = transformer.trained(WEIGHTS, "i2v"), load_file(LORA)
    layers = transformer.CONFIG["num_layers"]
    before = velocity_of(monkeypatch, weights, lora, layers)
    twice, lora_twice = deeper(weights, {1, 4}), deeper(lora, {1, 4})
    assert torch.equal(velocity_of(monkeypatch, twice, lora_twice, layers + 2), before)
    for new, old in ((2, 1), (6, 4), (7, 5)):
        for name in ("self_attn.q.weight", "ffn.0.weight", "modulation"):
            assert torch.equal(twice[f"blocks.{new}.{name}"], weights[f"blocks.{old}.{name}"])


def test_and_learn_from_the_first_step(monkeypatch):
    weights = deeper(transformer.trained(WEIGHTS, "i2v"), {1})
    monkeypatch.setitem(transformer.CONFIG, "num_layers", transformer.CONFIG["num_layers"] + 1)
    wan = transformer.new_transformer(36)
    wan.load_state_dict(weights)
    torch.manual_seed(1)
    x, words = torch.randn(1, 36, 5, 8, 12), torch.randn(1, 8, transformer.TEXT_WIDTH)
    wan(x, torch.ones(1), words).square().mean().backward()
    assert all(wan.blocks[2].get_parameter(name).grad.any() for name in ("self_attn.o.weight", "ffn.2.weight"))


def test_rounded_weights_stay_rounded():
    twice = deeper(load_file(WEIGHTS / "storymem_world_i2v.safetensors"), {0})
    assert twice["blocks.1.ffn.2.weight"].dtype == torch.int8 and not twice["blocks.1.ffn.2.weight"].any()
    assert torch.equal(restored(twice)["blocks.1.ffn.0.weight"], restored(twice)["blocks.0.ffn.0.weight"])


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no layer 6 to double: layers are 0, 1, 2, 3, 4, 5"):
        deeper(load_file(LORA), {1, 6})
