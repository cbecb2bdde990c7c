"""The host's CLIP_VISION as an embedder of pictures."""

import hashlib

import numpy as np
import torch
from comfy.clip_vision import ClipVisionModel

from ...storymem_core.errors import InputError


class HostClipVision:
    """Unit-length image embeddings of a CLIP_VISION model.

    The name holds a hash of a weight, so that embeddings of different files are never compared.
    """

    def __init__(self, clip_vision: ClipVisionModel):
        self._model = clip_vision
        name, weight = next(iter(clip_vision.get_sd().items()))
        content = weight.detach().float().cpu().numpy().tobytes()
        digest = hashlib.sha256(name.encode() + content).hexdigest()[:8]
        self.name = f"clip_vision-{clip_vision.model_type}-{digest}"

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """float32 [N, D] of unit length, for uint8 [N, H, W, 3]."""
        images = torch.from_numpy(pictures).float() / 255
        embeds = self._model.encode_image(images)["image_embeds"].float()
        if embeds.ndim != 2:
            value, remedy = f"{self.name}, {list(embeds.shape)}", "Connect a CLIP vision model"
            raise InputError("clip_vision", value, "gives no single embedding per picture", remedy)
        return torch.nn.functional.normalize(embeds, dim=-1).cpu().numpy()
