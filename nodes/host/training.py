"""Gives a Wan model its memory in the host's own LoRA trainer (Train LoRA), by its extension points alone.

What the trainer does: it takes one latent per sample, adds noise at a noise level drawn by the model's own schedule
(so that ModelSamplingSD3's shift counts), has the model denoise it, and compares the result with the latent.

What is done here: the trainer gets the latents of the *video* alone. Memory frames join them just before the model
runs, with the sample's noise level and noise of their own, and are dropped from its output. So the loss is the mean
over the video's frames: what the model makes of memory frames has no target and no gradient.
  CALC_COND_BATCH wrapper  each sample of a batch gets its own conditioning; equally long memories run at once
  APPLY_MODEL wrapper      memory frames, from the sample's own conditioning, around the video; varies by sample
  rope_encode patch        memory frames get negative time positions, as in sampling
  concat_cond patch        conditioning of all samples stays in main memory
  model_sampling patch     noise levels of one expert only
  OUTER_SAMPLE wrapper     trains only the layers that StoryMem's LoRAs have; refuses what would train something else

Not changed: the trainer compares denoised latents, x - sigma * v, not velocities v. Its loss is the flow-matching
loss weighted by sigma squared, so low noise levels count less.
"""

import copy
import hashlib
import re
from collections.abc import Callable, Iterator

import torch
from comfy.latent_formats import Wan21
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import cond_equal_size
from comfy.sd import VAE
from comfy.weight_adapter.bypass import BypassForwardHook

from ...storymem_core.errors import InputError
from ...storymem_core.training import percent_of
from .memory import KEY, LATENT_CHANNELS, Memory, check_wan_i2v, memory_positions

# Attention and feed-forward matrices. The trainer adapts every layer, biases and norms too, each at the full rate.
TRAINED = re.compile(
    r"diffusion_model\.blocks\.\d+\.(self_attn\.[qkvo]|cross_attn\.([qkvo]|[kv]_img)|ffn\.[02])\.weight"
)
HIGH_NOISE, LOW_NOISE, ALL = "high_noise", "low_noise", "all"
NOISE_LEVELS = (HIGH_NOISE, LOW_NOISE, ALL)


def training_model(model: ModelPatcher, noise_levels: str, boundary: float) -> ModelPatcher:
    """A clone of `model` for the host's trainer; the caller's model is untouched.

    noise_levels: which it is trained at, those of the expert for sigma >= boundary, for sigma < boundary, or all;
    within them as the model's schedule has them.
    """
    check_wan_i2v(model, "model")
    if model.get_wrappers(WrappersMP.APPLY_MODEL, KEY):
        raise InputError("model", "a model with memory", "has memory applied already", "Connect the model itself")
    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, _to_each_its_own)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _remember)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _train)
    for name, patch in (("diffusion_model.rope_encode", memory_positions), ("concat_cond", _in_main_memory)):
        patched.add_object_patch(name, patch(patched.get_model_object(name)))
    if noise_levels != ALL:
        sampling = copy.deepcopy(patched.get_model_object("model_sampling"))
        _limit_noise_levels(sampling, noise_levels, boundary)
        patched.add_object_patch("model_sampling", sampling)
    return patched


def _to_each_its_own(executor, model, conds, x, timestep, model_options):
    """CALC_COND_BATCH wrapper: sample i of a batch gets conditioning i; those of equal shapes run at once.

    The host would denoise every sample with every conditioning, and take the mean.
    """
    if len(x) == 1:
        return executor(model, conds, x, timestep, model_options)
    positive, *others = conds  # others: that there is no negative
    groups = []
    for i, cond in enumerate(positive):
        for group in groups:
            if cond_equal_size(positive[group[0]]["model_conds"], cond["model_conds"]):
                group.append(i)
                break
        else:
            groups.append([i])
    results = []
    for group in groups:
        first, *rest = (positive[i]["model_conds"] for i in group)
        merged = {name: cond._copy_with(cond.concat([each[name] for each in rest])) for name, cond in first.items()}
        own = [{**positive[group[0]], "model_conds": merged}]
        results.append(executor(model, [own, *others], x[group], timestep[group], model_options))
    order = [i for group in groups for i in group]
    places = [order.index(i) for i in range(len(x))]
    return [torch.cat(parts)[places] for parts in zip(*results, strict=True)]


def _remember(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
    """APPLY_MODEL wrapper: the frames that c_concat has before those of x are the memory of this sample."""
    video = x.shape[2]
    frames = c_concat.shape[2] - video
    if not frames:
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
    keyframes = c_concat[:, -LATENT_CHANNELS:, :frames].to(x)
    # The trainer seeds torch's own generator in every step.
    noise = torch.randn(keyframes.shape).to(x)
    past = executor.class_obj.model_sampling.noise_scaling(t, noise, keyframes)
    options = {**(transformer_options or {}), KEY: Memory(frames, video)}
    denoised = executor(torch.cat([past, x], dim=2), t, c_concat, c_crossattn, control, options, **kwargs)
    return denoised[:, :, frames:]


def _train(executor, noise, latent, sampler, *args, **kwargs):
    """OUTER_SAMPLE wrapper: only the host's trainer, and only the layers in TRAINED.

    Other layers stay in the LoRA file, as zeros.
    """
    if not hasattr(sampler, "loss_fn"):  # its class is loaded from a file and has no name to import it by
        raise InputError("model", "the model of a training set", "is for training", "Sample with the model itself")
    if sampler.bucket_latents is not None:
        raise InputError("bucket_mode", True, "its latents are not scaled for Wan", "Switch it off")
    for weight, adapter in _adapters(executor.class_obj.model_patcher):
        for name, parameter in adapter.named_parameters():
            # alpha is a scale: a run that goes on from the file begins at 1 again
            parameter.requires_grad_(bool(TRAINED.fullmatch(weight)) and name != "alpha")
    # By the batch of this noise, which is not used, the host makes the conditioning of each sample.
    return executor(noise[:1], latent, sampler, *args, **kwargs)


def _adapters(patcher: ModelPatcher) -> Iterator[tuple[str, torch.nn.Module]]:
    """What the trainer trains, with the weight's name: on the weight or, with bypass_mode, in the layer's forward."""
    for name, adapters in patcher.weight_wrapper_patches.items():
        yield from ((name, adapter) for adapter in adapters)
    for name, module in patcher.model.named_modules():
        hook = getattr(module.forward, "__self__", None)
        if isinstance(hook, BypassForwardHook):
            yield f"{name}.weight", hook.adapter


def _in_main_memory(concat_cond: Callable) -> Callable:
    """Wraps the model's concat_cond: what it makes waits there for its step."""
    return lambda **kwargs: concat_cond(**{**kwargs, "device": torch.device("cpu")})


def _limit_noise_levels(sampling: torch.nn.Module, noise_levels: str, boundary: float) -> None:
    """Have the schedule's fraction run over one expert's noise levels only; the trainer draws it uniformly."""
    if not 0 < boundary < 1:
        raise InputError("boundary", boundary, "a noise level between 0 and 1", "Wan 2.2 I2V uses 0.9")
    switch, whole = percent_of(boundary, sampling.shift), sampling.percent_to_sigma
    first, last = (0.0, switch) if noise_levels == HIGH_NOISE else (switch, 1.0)
    sampling.percent_to_sigma = lambda percent: whole(first + (last - first) * percent)


def seen_by_model(latent: dict, conditioning: list) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A sample as the model sees it: clean latents [1, 16, M + T, h, w], known [1, 20, M + T, h, w], text [1, L, D]."""
    ((text, values),) = conditioning
    process = Wan21().process_in
    known = process(values["concat_latent_image"].float())
    memory = known[:, :, : known.shape[2] - latent["samples"].shape[2]]
    mask = 1 - values["concat_mask"].expand(-1, 4, -1, -1, -1)
    clean = torch.cat([memory, process(latent["samples"].float())], dim=2)
    return clean, torch.cat([mask, known], dim=1), text


def content_of(vae: VAE) -> str:
    """A hash of the VAE: latents of another one, or of another precision, are not its own."""
    digest = hashlib.sha256(str(vae.vae_dtype).encode())
    for name, weight in sorted(vae.get_sd().items()):
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
