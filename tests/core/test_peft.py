"""Adapter conversion against W + alpha / sqrt(r) * B @ A in float64 (invariant 12)."""

import math

import pytest
import torch

from storymem_core.errors import InputError
from storymem_core.peft import to_host_lora

MODULES = ("blocks.0.self_attn.q", "blocks.0.ffn.2", "blocks.11.cross_attn.o")


def adapter(rank=128, default=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rank)
    state = {}
    for n, module in enumerate(MODULES):
        name = ".default" if default else ""
        wide, high = 40 + n, 24 + n
        for side, shape in (("A", (rank, wide)), ("B", (high, rank))):
            weight = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            state[f"base_model.model.{module}.lora_{side}{name}.weight"] = weight
    return state


def apply_as_the_host_does(weight, lora, module):
    """What a plain LoRA loader computes: alpha / rank of the stored pair, 1 where the file has no alpha."""
    up, down = (
        lora[f"diffusion_model.{module}.lora_B.weight"],
        lora[f"diffusion_model.{module}.lora_A.weight"],
    )
    alpha = lora.get(f"diffusion_model.{module}.alpha")
    scale = 1.0 if alpha is None else alpha.item() / down.shape[0]
    return weight + scale * (up.double() @ down.double())


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 128])
@pytest.mark.parametrize("alpha", [None, 16.0, 128.0])
def test_the_weight_is_the_rank_stabilised_one(default, rank, alpha):
    state = adapter(rank, default)
    lora = to_host_lora(state, alpha)
    name = ".default" if default else ""
    for module in MODULES:
        a = state[f"base_model.model.{module}.lora_A{name}.weight"]
        b = state[f"base_model.model.{module}.lora_B{name}.weight"]
        weight = torch.ones(b.shape[0], a.shape[1], dtype=torch.float64)
        expected = weight + (rank if alpha is None else alpha) / rank**0.5 * (b @ a)
        torch.testing.assert_close(apply_as_the_host_does(weight, lora, module), expected, rtol=1e-13, atol=1e-13)
    assert len(lora) == 3 * len(MODULES)


def test_official_numbers():
    lora = to_host_lora(adapter(128))
    alpha = lora["diffusion_model.blocks.0.self_attn.q.alpha"].item()
    assert math.isclose(alpha / 128, 11.3137085, rel_tol=1e-8)


def test_each_pair_has_its_own_rank():
    state = adapter(4) | {
        "base_model.model.head.lora_A.weight": torch.ones(9, 2),
        "base_model.model.head.lora_B.weight": torch.ones(2, 9),
    }
    lora = to_host_lora(state)
    assert lora["diffusion_model.head.alpha"].item() / 9 == 3
    assert lora["diffusion_model.blocks.0.ffn.2.alpha"].item() / 4 == 2


def test_weights_are_passed_on_as_they_are():
    state = adapter(8, dtype=torch.bfloat16)
    keys = list(state)
    lora = to_host_lora(state)
    given = {id(weight) for weight in state.values()}
    assert all(id(weight) in given for key, weight in lora.items() if not key.endswith(".alpha"))
    assert list(state) == keys


@pytest.mark.parametrize(
    "names",
    [
        (
            "diffusion_model.blocks.0.self_attn.q.lora_A.weight",
            "diffusion_model.blocks.0.self_attn.q.lora_B.weight",
        ),
        ("lora_unet_blocks_0_self_attn_q.lora_down.weight", "lora_unet_blocks_0_self_attn_q.lora_up.weight"),
        ("base_model.model.x.lora_A.weight", "base_model.model.x.lora_B.weight", "base_model.model.x.alpha"),
    ],
)
def test_community_conversions_are_returned_unchanged(names):
    state = {name: torch.ones(3, 3) for name in names}
    assert to_host_lora(state) is state
    state["diffusion_model.blocks.0.self_attn.q.alpha"] = torch.tensor(5.0)
    assert to_host_lora(state) is state


def test_nothing_in_nothing_out():
    assert to_host_lora({}) == {}


@pytest.mark.parametrize("side", ["A", "B"])
def test_half_a_pair(side):
    state = adapter(4)
    del state[f"base_model.model.blocks.0.ffn.2.lora_{side}.weight"]
    with pytest.raises(InputError, match=r"^lora_name='blocks\.0\.ffn\.2': one of lora_A and lora_B is missing"):
        to_host_lora(state)


def test_ranks_that_differ():
    state = adapter(4)
    state["base_model.model.blocks.0.ffn.2.lora_B.weight"] = torch.ones(25, 5)
    with pytest.raises(InputError, match=r"^lora_name='blocks\.0\.ffn\.2': lora_A has rank 4, lora_B 5"):
        to_host_lora(state)


@pytest.mark.parametrize(
    "extra",
    [
        {"base_model.model.blocks.0.ffn.2.lora_magnitude_vector": torch.ones(3)},
        {"base_model.model.head.modules_to_save.weight": torch.ones(3, 3)},
        {"stray.weight": torch.ones(3, 3)},
        {"base_model.model.x.lora_A.weight": torch.ones(3)},
    ],
)
def test_other_weights_are_not_dropped_silently(extra):
    (key,) = extra
    with pytest.raises(InputError, match=f"^lora_name='{key}'"):
        to_host_lora(adapter(4) | extra)
