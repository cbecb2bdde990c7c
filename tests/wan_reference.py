"""An independent Wan model in float64: one literal step after the other, RoPE with complex numbers.

Written from the architecture (Wan 2.x: patch embedding, adaLN blocks of self-attention, cross-attention and
feed-forward, head), not from anybody's code, as the oracle of the tests.
"""

import math

import torch
from torch.nn.functional import gelu, layer_norm, silu


class WanReference:
    """weights: state dict of a Wan diffusion model; heads: attention heads."""

    def __init__(self, weights: dict, heads: int):
        self.w = {name: weight.double() for name, weight in weights.items()}
        self.heads = heads
        self.blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def rms(self, name, x):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * self.w[f"{name}.weight"]

    def attention(self, q, k, v, log_weights=0.0):
        """q [B, L, H, D]; log_weights [Lk] are added to the logits."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        logits = q @ k.mT / math.sqrt(q.shape[-1]) + log_weights
        return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1))

    def rotations(self, times, rows, columns):
        """Unit complex numbers [frames * rows * columns, D / 2]: time, height and width share the head."""
        dim = self.w["blocks.0.self_attn.q.weight"].shape[0] // self.heads
        shares = (dim - 4 * (dim // 6), 2 * (dim // 6), 2 * (dim // 6))
        grid = torch.meshgrid(
            times.double(),
            torch.arange(rows, dtype=torch.float64),
            torch.arange(columns, dtype=torch.float64),
            indexing="ij",
        )
        angles = []
        for positions, share in zip(grid, shares, strict=True):
            frequency = 10000.0 ** (-torch.arange(0, share, 2, dtype=torch.float64) / share)
            angles.append(positions.reshape(-1, 1) * frequency)
        return torch.polar(torch.ones(1, dtype=torch.float64), torch.cat(angles, dim=-1))

    def rotate(self, x, rotations):
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * rotations[None, :, None]).flatten(-2)

    def __call__(self, x, y, timestep, context, times, memory=0, strength=1.0):
        """Velocity [B, 16, F, h, w] for latents x, image conditioning y [B, 20, F, h, w], text [B, L, C].

        times: position of each of the F frames; the keys of the first `memory` frames weigh `strength`.
        """
        x, y, context = x.double(), y.double(), context.double()
        patches = torch.cat([x, y], dim=1)
        b, c, f, h, w = patches.shape
        rows, columns = h // 2, w // 2
        patches = patches.view(b, c, f, rows, 2, columns, 2).permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        tokens = patches @ self.w["patch_embedding.weight"].flatten(1).T + self.w["patch_embedding.bias"]

        half = 128
        angle = timestep * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        e = torch.cat([angle.cos(), angle.sin()])[None]
        e = self.linear("time_embedding.2", silu(self.linear("time_embedding.0", e)))
        e0 = self.linear("time_projection.1", silu(e)).unflatten(-1, (6, -1))
        context = self.linear("text_embedding.2", gelu(self.linear("text_embedding.0", context), approximate="tanh"))

        rotations = self.rotations(times, rows, columns)
        log_weights = torch.zeros(tokens.shape[1], dtype=torch.float64)
        log_weights[: memory * rows * columns] = math.log(strength)
        for i in range(self.blocks):
            tokens = self.block(f"blocks.{i}", tokens, e0, context, rotations, log_weights)

        shift, scale = (self.w["head.modulation"] + e[:, None]).unbind(1)
        tokens = layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift
        out = self.linear("head.head", tokens).view(b, f, rows, columns, 2, 2, 16)
        return out.permute(0, 6, 1, 2, 4, 3, 5).reshape(b, 16, f, h, w)

    def block(self, name, tokens, e0, context, rotations, log_weights):
        modulation = (self.w[f"{name}.modulation"] + e0).unbind(1)
        shift1, scale1, gate1, shift2, scale2, gate2 = (m[:, None] for m in modulation)

        x = layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale1) + shift1
        q = self.rotate(
            self.split(self.rms(f"{name}.self_attn.norm_q", self.linear(f"{name}.self_attn.q", x))), rotations
        )
        k = self.rotate(
            self.split(self.rms(f"{name}.self_attn.norm_k", self.linear(f"{name}.self_attn.k", x))), rotations
        )
        v = self.split(self.linear(f"{name}.self_attn.v", x))
        attended = self.linear(f"{name}.self_attn.o", self.attention(q, k, v, log_weights))
        tokens = tokens + attended * gate1

        x = layer_norm(
            tokens, tokens.shape[-1:], self.w[f"{name}.norm3.weight"], self.w[f"{name}.norm3.bias"], eps=1e-6
        )
        q = self.split(self.rms(f"{name}.cross_attn.norm_q", self.linear(f"{name}.cross_attn.q", x)))
        k = self.split(self.rms(f"{name}.cross_attn.norm_k", self.linear(f"{name}.cross_attn.k", context)))
        v = self.split(self.linear(f"{name}.cross_attn.v", context))
        tokens = tokens + self.linear(f"{name}.cross_attn.o", self.attention(q, k, v))

        x = layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale2) + shift2
        x = self.linear(f"{name}.ffn.2", gelu(self.linear(f"{name}.ffn.0", x), approximate="tanh"))
        return tokens + x * gate2
