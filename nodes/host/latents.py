"""VAE latents of keyframes and shots; what was encoded once is not encoded again."""

from collections import OrderedDict
from collections.abc import Callable
from weakref import WeakKeyDictionary

import comfy.utils
import torch
from comfy.sd import VAE

from nodes import VAEDecode

from ...storymem_core.bank import Keyframe
from ...storymem_core.conditioning import shot_pixels
from ...storymem_core.errors import InputError
from ...storymem_core.transitions import Transition

CACHE_BYTES = 256 * 2**20
LATENT_CHANNELS = 16

# One cache per VAE, gone with it: keyed by what was encoded and its size.
_encoded: "WeakKeyDictionary[torch.nn.Module, OrderedDict[tuple, torch.Tensor]]" = WeakKeyDictionary()


def check_wan_vae(vae: VAE) -> None:
    """Raises InputError unless `vae` makes the 16-channel video latents of Wan 2.1 and Wan 2.2 A14B."""
    if vae.latent_channels != LATENT_CHANNELS or vae.latent_dim != 3:
        raise InputError(
            "vae",
            f"{vae.latent_channels} latent channels",
            f"{LATENT_CHANNELS} channels of a video VAE needed",
            "Load the Wan 2.1 VAE",
        )


def fit(images: torch.Tensor, width: int, height: int, method: str = "bilinear") -> torch.Tensor:
    """IMAGE [N, H, W, 3] scaled and cropped around its centre to [N, height, width, 3]."""
    return comfy.utils.common_upscale(images.movedim(-1, 1), width, height, method, "center").movedim(1, -1)


def keyframe_image(keyframe: Keyframe) -> torch.Tensor:
    """The keyframe as an IMAGE [1, H, W, 3] in 0..1."""
    return torch.from_numpy(keyframe.image.copy())[None].float() / 255


def _once(vae: VAE, key: tuple, pixels: Callable[[], torch.Tensor]) -> torch.Tensor:
    cache = _encoded.setdefault(vae.first_stage_model, OrderedDict())
    if key not in cache:
        cache[key] = vae.encode(pixels()).cpu()
        while sum(latent.nbytes for latent in cache.values()) > CACHE_BYTES and len(cache) > 1:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]


def encode_keyframe(vae: VAE, keyframe: Keyframe, width: int, height: int) -> torch.Tensor:
    """Latent [1, 16, 1, height / 8, width / 8] of one keyframe, encoded alone as a one-frame video."""
    key = (keyframe.id, width, height)
    return _once(vae, key, lambda: fit(keyframe_image(keyframe), width, height, "lanczos"))


def encode_shot(vae: VAE, transition: Transition, width: int, height: int, length: int) -> torch.Tensor:
    """Latents [1, 16, T, height / 8, width / 8] of what is known of a shot: continued frames, else grey."""
    if transition.frames is None:
        return _once(vae, ("grey", width, height, length), lambda: shot_pixels(None, width, height, length))
    return vae.encode(shot_pixels(fit(transition.frames, width, height), width, height, length)).cpu()


def decode(vae: VAE, latent: dict) -> torch.Tensor:
    """IMAGE [N, H, W, 3] of a LATENT, by the host's own node."""
    return VAEDecode().decode(vae, latent)[0]
