"""Gives a Wan model its memory: M known latent frames before the video, at negative positions in time.

Everything is done through ModelPatcher on a clone, and decided anew in every call of the model, so that other
patches (LoRA, attention overrides, wrappers, caches, compilation) apply in any order of nodes:
  APPLY_MODEL wrapper      outside memory_start..memory_end the model gets the video frames alone; inside, for a
                           guidance other than 1, it runs a second time with memory keys of no weight
  rope_encode patch        memory frames get negative time positions
  self_attn.forward patch  only where it is needed: memory keys weigh `strength` times as much
  OUTER_SAMPLE wrapper     previews get video frames only
"""

import math
import uuid
from dataclasses import dataclass, replace

import torch
from comfy.ldm.wan.model import WanModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...storymem_core.attention import memory_bias, weighted_memory_attention
from ...storymem_core.errors import InputError
from ...storymem_core.positions import memory_rope_options

KEY = "storymem"
OVERRIDE = "optimized_attention_override"
I2V_CHANNELS = 36
LATENT_CHANNELS = 16
SIGMA_ROUNDING = 1e-5  # a step that begins where the window ends is outside, whatever float32 made of it


@dataclass(frozen=True)
class Memory:
    """How a model uses its memory: `frames` memory latents before `video` latents of the shot.

    spacing: latent frames between memory positions; strength: weight of memory keys, 1 = as trained;
    start, end: fractions of the sampling (0..1); steps that begin in start <= fraction < end use memory.
    guidance: how far to follow what memory changes in a prediction, 1 = as predicted, 0 = not at all.
    """

    frames: int
    video: int
    spacing: int = 1
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guidance: float = 1.0

    def __post_init__(self):
        if self.spacing < 1:
            raise InputError("memory_spacing", self.spacing, "must be at least 1 latent frame", "Use 1")
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise InputError("memory_strength", self.strength, "must be 0 or more", "Use 1.0")
        if not 0 <= self.start <= self.end <= 1:
            span = (self.start, self.end)
            raise InputError("memory_start, memory_end", span, "must hold 0 <= start <= end <= 1", "Use 0.0 and 1.0")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise InputError("memory_guidance", self.guidance, "must be 0 or more", "Use 1.0")


def check_wan_i2v(model: ModelPatcher, name: str) -> None:
    """Raises InputError unless `model` (node input `name`) is a Wan 2.x image-to-video model."""
    wan = model.get_model_object("diffusion_model")
    if not isinstance(wan, WanModel):
        raise InputError(name, type(wan).__name__, "is not a Wan model", "Load a Wan 2.2 I2V A14B model")
    if wan.in_dim != I2V_CHANNELS:
        problem = f"the patch embedding has {wan.in_dim} channels, {I2V_CHANNELS} needed"
        if wan.in_dim == LATENT_CHANNELS:
            problem = f"this is a text-to-video model: {problem}"
        raise InputError(name, type(wan).__name__, problem, "Load a Wan 2.2 I2V A14B model")


def with_memory(model: ModelPatcher, memory: Memory, name: str = "model") -> ModelPatcher:
    """A clone of `model` that takes latents of memory.frames + memory.video frames, memory first.

    The caller's model is untouched. Without memory frames the clone is the model as it was.
    """
    check_wan_i2v(model, name)
    if model.get_wrappers(WrappersMP.APPLY_MODEL, KEY):
        raise InputError(name, "a model with memory", "has memory applied already", "Connect the model itself")
    patched = model.clone()
    if not memory.frames:
        return patched

    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _memory_window(memory))
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _video_previews(memory))
    rope = "diffusion_model.rope_encode"
    patched.add_object_patch(rope, memory_positions(patched.get_model_object(rope)))
    if memory.strength not in (0, 1) or memory.guidance != 1:
        for i in range(len(patched.get_model_object("diffusion_model").blocks)):
            forward = f"diffusion_model.blocks.{i}.self_attn.forward"
            patched.add_object_patch(forward, _weighted_self_attention(patched.get_model_object(forward)))
    return patched


def _memory_window(memory: Memory):
    """APPLY_MODEL wrapper: with memory inside its window, else the video alone at the cost of the video.

    Guidance is classifier-free guidance in memory: of the denoised video d, d(without memory) + guidance *
    (d(with memory) - d(without memory)).
    """
    m, silent = memory.frames, replace(memory, strength=0.0)

    def apply_model(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kw):
        options = transformer_options or {}
        if x.shape[2] != m + memory.video:
            raise InputError(
                "model",
                f"{x.shape[2]} latent frames",
                f"memory expects {m} memory and {memory.video} video frames at once",
                "Connect the latent of Apply Memory, and no context windows",
            )
        percent_to_sigma = executor.class_obj.model_sampling.percent_to_sigma
        sigma = t.max().item() / (1 + SIGMA_ROUNDING)
        inside = percent_to_sigma(memory.start) >= sigma > percent_to_sigma(memory.end)
        if not (inside and memory.strength and memory.guidance):
            video = executor(x[:, :, m:], t, c_concat[:, :, m:], c_crossattn, control, options, **kw)
            # What memory frames denoise to is known: their keyframes keep them on course for a later window.
            keyframes = c_concat[:, -LATENT_CHANNELS:, :m].to(video).expand(len(x), -1, -1, -1, -1)
            return torch.cat([keyframes, video], dim=2)
        remembered = executor(x, t, c_concat, c_crossattn, control, {**options, KEY: memory}, **kw)
        if memory.guidance == 1:
            return remembered
        # Step caches, such as the host's EasyCache, tell passes apart by uuid and want them of one shape.
        other = {KEY: silent, "uuids": [uuid.uuid5(each, KEY) for each in options.get("uuids", [])]}
        forgotten = executor(x, t, c_concat, c_crossattn, control, {**options, **other}, **kw)
        video = torch.lerp(forgotten[:, :, m:], remembered[:, :, m:], memory.guidance)
        return torch.cat([remembered[:, :, :m], video], dim=2)

    return apply_model


def _video_previews(memory: Memory):
    """OUTER_SAMPLE wrapper: the sampler's callback sees the video frames only."""

    def sample(executor, noise, latent, sampler, sigmas, denoise_mask=None, callback=None, *args, **kwargs):
        def video_only(step, x0, x, total_steps):
            return callback(step, x0[:, :, memory.frames :], x[:, :, memory.frames :], total_steps)

        video_only = video_only if callback else None
        return executor(noise, latent, sampler, sigmas, denoise_mask, video_only, *args, **kwargs)

    return sample


def memory_positions(rope_encode):
    """Wraps the model's rope_encode: memory frames are drawn apart, in the past; the video as without memory."""

    def rope_with_memory(t, h, w, *args, transformer_options=None, **kwargs):
        options = transformer_options or {}
        memory = options.get(KEY)
        if memory is None:
            return rope_encode(t, h, w, *args, transformer_options=options, **kwargs)
        past = memory_rope_options(options.get("rope_options"), memory.frames, memory.spacing)
        past = {**options, "rope_options": past}
        return torch.cat(
            [
                rope_encode(memory.frames, h, w, *args, transformer_options=past, **kwargs),
                rope_encode(t - memory.frames, h, w, *args, transformer_options=options, **kwargs),
            ],
            dim=1,
        )

    return rope_with_memory


def _weighted_self_attention(forward):
    """Wraps a block's self-attention: inside it, memory keys get log(strength) added to their logits."""

    def weighted_forward(x, freqs, transformer_options=None):
        options = transformer_options or {}
        memory = options.get(KEY)
        if memory is None or memory.strength == 1:
            return forward(x, freqs, transformer_options=options)
        _, rows, columns = options["grid_sizes"]
        tokens = memory.frames * rows * columns
        log_strength = math.log(memory.strength) if memory.strength else -math.inf
        others = options.get(OVERRIDE)

        def override(func, q, k, v, heads, mask=None, **kwargs):
            if others is not None:  # another pack's attention: hand it the weights as a mask
                bias = memory_bias(k.shape[1], tokens, log_strength, q)
                return others(func, q, k, v, heads, mask=bias if mask is None else mask + bias, **kwargs)
            q, k, v = (tensor.unflatten(2, (heads, -1)).transpose(1, 2) for tensor in (q, k, v))
            return weighted_memory_attention(q, k, v, tokens, log_strength).transpose(1, 2).flatten(2)

        return forward(x, freqs, transformer_options={**options, OVERRIDE: override})

    return weighted_forward
