import math

import pytest
import torch

from storymem_core.attention import (
    attention_with_lse,
    memory_bias,
    merge_attention,
    weighted_memory_attention,
)


def qkv(batch=2, heads=3, queries=37, keys=41, dim=16, scale=1.0):
    generator = torch.Generator().manual_seed(5)
    shapes = [(batch, heads, n, dim) for n in (queries, keys, keys)]
    return [scale * torch.randn(s, generator=generator) for s in shapes]


def literal(q, k, v, bias):
    """Softmax attention in float64 with a bias added to the logits, row by row."""
    q, k, v = q.double(), k.double(), v.double()
    logits = q @ k.mT / math.sqrt(q.shape[-1]) + bias
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    return weights @ v / weights.sum(-1, keepdim=True)


def test_lse_is_the_log_of_the_sum_of_exponentials():
    q, k, v = qkv()
    out, lse = attention_with_lse(q, k, v)
    logits = q.double() @ k.double().mT / 4
    torch.testing.assert_close(lse.double(), logits.exp().sum(-1).log(), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.double(), literal(q, k, v, 0.0), atol=1e-5, rtol=0)


def test_devices_without_a_kernel_compute_the_same(monkeypatch):
    q, k, v = qkv(queries=9)
    expected = attention_with_lse(q, k, v)
    monkeypatch.setattr("storymem_core.attention.QUERY_CHUNK", 4)

    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

    out, lse = attention_with_lse(q.as_subclass(Elsewhere), k, v)
    torch.testing.assert_close(torch.Tensor(out), expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.Tensor(lse), expected[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("memory", [1, 13, 40])
@pytest.mark.parametrize("strength", [1e-6, 0.25, 1.0, 2.0, 50.0])
@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_strength_adds_its_logarithm_to_memory_logits(memory, strength, scale):
    q, k, v = qkv(scale=scale)
    bias = torch.zeros(k.shape[-2], dtype=torch.float64)
    bias[:memory] = math.log(strength)
    out = weighted_memory_attention(q, k, v, memory, math.log(strength))
    tolerance = 2e-5 * scale**2  # float32 rounding grows with the logits
    torch.testing.assert_close(out.double(), literal(q, k, v, bias), atol=tolerance, rtol=0)


def test_the_mask_form_weighs_alike():
    q, k, v = qkv()
    mask = memory_bias(k.shape[-2], 13, math.log(2.0), q)
    by_mask = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(by_mask, weighted_memory_attention(q, k, v, 13, math.log(2.0)), atol=1e-5, rtol=0)


def test_a_side_without_weight_does_not_count():
    q, k, v = qkv()
    out, lse = attention_with_lse(q, k, v)
    nothing = torch.full_like(lse, -math.inf)
    assert torch.equal(merge_attention(torch.randn_like(out), nothing, out, lse), out)
