"""Attention in which memory keys weigh more or less: exact, without a mask, through log-sum-exp.

softmax(logits + log s on memory keys) V = merge(attention over memory keys, attention over video keys), where
each side counts with the sum of its exponentials; adding log(s) to the memory side's log-sum-exp is the same
as adding it to every memory logit.
"""

import torch

QUERY_CHUNK = 1024


def attention_with_lse(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention output [B, H, Lq, D] and the log-sum-exp of its logits, float32 [B, H, Lq].

    q [B, H, Lq, D], k and v [B, H, Lk, D]; logits are q k^T / sqrt(D). Torch's fused kernels compute the
    log-sum-exp anyway and return it; on a device that has none of them it is computed literally, in chunks.
    """
    length, kernels = q.shape[-2], torch.ops.aten
    if q.device.type == "cpu":
        return kernels._scaled_dot_product_flash_attention_for_cpu(q, k, v)[:2]
    if q.device.type == "cuda" and q.dtype in (torch.float16, torch.bfloat16):
        out, lse = kernels._scaled_dot_product_flash_attention(q, k, v)[:2]
        return out, lse[..., :length]
    if q.device.type == "cuda":
        out, lse = kernels._scaled_dot_product_efficient_attention(q, k, v, None, True)[:2]
        return out, lse[..., :length]  # this kernel pads the log-sum-exp to a multiple of 32
    outs, lses = [], []
    for chunk in q.split(QUERY_CHUNK, dim=-2):
        logits = (chunk @ k.mT).float() * q.shape[-1] ** -0.5
        lse = logits.logsumexp(-1)
        outs.append((logits - lse[..., None]).exp().to(v.dtype) @ v)
        lses.append(lse)
    return torch.cat(outs, dim=-2), torch.cat(lses, dim=-1)


def merge_attention(out_a: torch.Tensor, lse_a: torch.Tensor, out_b: torch.Tensor, lse_b: torch.Tensor) -> torch.Tensor:
    """Attention over the union of two disjoint key sets, from the attention over each.

    out [B, H, L, D], lse [B, H, L]. A set whose lse is -inf carries no weight.
    """
    share_a = torch.sigmoid(lse_a - lse_b)[..., None].to(out_a.dtype)
    return torch.lerp(out_b, out_a, share_a)


def weighted_memory_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, memory: int, log_strength: float
) -> torch.Tensor:
    """Attention [B, H, L, D] with `log_strength` added to the logits of the first `memory` keys."""
    out_memory, lse_memory = attention_with_lse(q, k[..., :memory, :], v[..., :memory, :])
    out_video, lse_video = attention_with_lse(q, k[..., memory:, :], v[..., memory:, :])
    return merge_attention(out_memory, lse_memory + log_strength, out_video, lse_video)


def memory_bias(keys: int, memory: int, log_strength: float, like: torch.Tensor) -> torch.Tensor:
    """The same weighting as an additive mask [1, 1, keys], for attention functions that know only masks."""
    bias = torch.zeros(1, 1, keys, dtype=like.dtype, device=like.device)
    bias[..., :memory] = log_strength
    return bias
