"""One shot through the host's samplers: conditioning, noise, and the two experts of Wan 2.2."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import node_helpers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from comfy_extras.nodes_model_advanced import ModelSamplingSD3

from ...storymem_core.bank import Keyframe
from ...storymem_core.conditioning import SPATIAL_STRIDE, check_shot_size, latent_frames, unknown_mask
from ...storymem_core.errors import InputError
from ...storymem_core.transitions import Transition
from .latents import check_wan_vae, encode_keyframe, encode_shot

LATENT_KEY = "storymem"
MEMORY_SEED = int.from_bytes(b"StoryMem", "big")


def condition_shot(
    positive: list,
    negative: list,
    vae: VAE,
    recalled: tuple[Keyframe, ...],
    transition: Transition,
    width: int,
    height: int,
    length: int,
) -> tuple[list, list, dict]:
    """Conditioning and the empty LATENT of one shot: memory frames first, then the video.

    The LATENT carries how many of its frames are memory, for StoryMemNoise and StoryMemTrimMemory.
    """
    check_shot_size(width, height, length)
    check_wan_vae(vae)
    memory = [encode_keyframe(vae, keyframe, width, height) for keyframe in recalled]
    values = known_frames(memory, encode_shot(vae, transition, width, height, length), transition.overlap, length)
    positive = node_helpers.conditioning_set_values(positive, values)
    negative = node_helpers.conditioning_set_values(negative, values)

    shape = values["concat_latent_image"].shape
    samples = torch.zeros(shape, device=comfy.model_management.intermediate_device())
    return (
        positive,
        negative,
        {
            "samples": samples,
            LATENT_KEY: {"memory": len(recalled), "video": latent_frames(length)},
        },
    )


def known_frames(memory: list[torch.Tensor], shot: torch.Tensor, overlap: int, length: int) -> dict:
    """What the model is told beside the prompt, as values of a CONDITIONING: memory first, then the shot.

    memory: latents [1, 16, 1, h, w] of keyframes, oldest first; shot: latents [1, 16, T, h, w] of what is known of a
    shot of `length` frames, of which the first `overlap` are known.
    """
    height, width = (size * SPATIAL_STRIDE for size in shot.shape[3:])
    mask = unknown_mask(len(memory), length, overlap, width, height)
    return {"concat_latent_image": torch.cat([*memory, shot], dim=2), "concat_mask": mask}


def memory_noise(latent: dict, seed: int) -> torch.Tensor:
    """Noise for a LATENT: on video frames the host's own for that seed, on memory frames drawn apart.

    So the video part does not depend on how many keyframes are remembered.
    """
    samples = latent["samples"]
    memory = latent.get(LATENT_KEY, {"memory": 0})["memory"]
    video = comfy.sample.prepare_noise(samples[:, :, memory:], seed, latent.get("batch_index"))
    if not memory:
        return video
    generator = torch.Generator().manual_seed(seed ^ MEMORY_SEED)
    past = torch.randn(samples[:, :, :memory].shape, generator=generator).to(video)
    return torch.cat([past, video], dim=2)


def trim_memory(latent: dict) -> dict:
    """The LATENT without its memory frames.

    The host's `denoised_output` comes through the preview and so has video frames only: it passes unchanged.
    """
    if LATENT_KEY not in latent:
        raise InputError(
            "latent",
            "a latent of unknown origin",
            "it does not say how many of its frames are memory",
            "Connect what a sampler made of the latent of Apply Memory",
        )
    counts, frames = latent[LATENT_KEY], latent["samples"].shape[2]
    if frames not in (counts["video"], counts["memory"] + counts["video"]):
        raise InputError(
            "latent",
            f"{frames} latent frames",
            f"Apply Memory made {counts['memory']} memory and {counts['video']} video frames",
            "Trim right after the sampler",
        )
    trimmed = {**latent, "samples": latent["samples"][:, :, frames - counts["video"] :]}
    del trimmed[LATENT_KEY]
    return trimmed


def schedule(model: ModelPatcher, steps: int, sampler_name: str, scheduler: str) -> torch.Tensor:
    """Sigmas [steps + 1] of the host's K-sampler."""
    return comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler).sigmas.cpu()


def switch_step(
    model: ModelPatcher, shift: float, steps: int, sampler_name: str, scheduler: str, boundary: float
) -> int:
    """First step whose sigma is below `boundary`: there the low-noise expert takes over."""
    sigmas = schedule(shift_sigmas(model, shift), steps, sampler_name, scheduler)
    return int((sigmas[:-1] >= boundary).sum())


def sample_shot(
    model: ModelPatcher,
    model_low_noise: ModelPatcher | None,
    positive: list,
    negative: list,
    latent: dict,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    boundary: float,
) -> dict:
    """Samples a LATENT, with `model` at noise levels sigma >= boundary and `model_low_noise` below.

    As with the host's two advanced K-samplers in a row, the second expert starts where the first one stops.
    """
    sigmas = schedule(model, steps, sampler_name, scheduler)
    switch = len(sigmas) - 1 if model_low_noise is None else int((sigmas[:-1] >= boundary).sum())
    total = len(sigmas) - 1
    if sampler_name.startswith("uni_pc") and 1 in (switch, total - switch):
        raise InputError(
            "steps",
            steps,
            f"leaves {switch} steps above the boundary and {total - switch} below; UniPC does nothing in a single step",
            "Use more steps, another boundary, or the euler sampler",
        )
    noise, samples = memory_noise(latent, seed), latent["samples"]
    preview = latent_preview.prepare_callback(model, total)
    for expert, first, last in ((model, 0, switch), (model_low_noise, switch, total)):
        if first == last:
            continue
        samples = comfy.sample.sample_custom(
            expert,
            noise if first == 0 else torch.zeros_like(noise),
            cfg,
            comfy.samplers.sampler_object(sampler_name),
            sigmas[first : last + 1].clone(),
            positive,
            negative,
            samples,
            callback=lambda step, x0, x, _, first=first: preview(first + step, x0, x, total),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
    return {**latent, "samples": samples}


def shift_sigmas(model: ModelPatcher, shift: float) -> ModelPatcher:
    """A clone of `model` whose noise schedule is shifted, as by the host's ModelSamplingSD3."""
    return ModelSamplingSD3().patch(model, shift)[0]
