"""What a picture is about, as a vector: similar pictures have a cosine similarity near 1."""

import hashlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Protocol

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .errors import InputError


class Embedder(Protocol):
    """images uint8 [N, H, W, 3] RGB -> float32 [N, D] of unit length. Only vectors of one name compare."""

    name: str

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


class ColorLayout:
    """Which colours lie where: 8x8 patches of 28 pixels, each the direction of its colour in the HSV cone.

    The picture is resized to 224x224 as a whole. A patch is (saturation * cos hue, saturation * sin hue,
    value - 1/2, BIAS), averaged over its pixels and brought to unit length; so the cosine similarity of two
    pictures is the mean agreement of their patches. Hue is an angle and counts by its saturation, as grey has
    none; BIAS makes near-grey patches agree rather than compare their noise.

    Neighbouring frames of real video reach 0.99, a figure that stands up against a still background 0.9,
    pictures of different places stay below 0.6. No weights, no download, deterministic.
    """

    name = "color-layout-1"
    PATCH = 28
    GRID = 8
    BIAS = 0.15

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """images: uint8 [N, H, W, 3] RGB -> float32 [N, 256] of unit length."""
        _require_pictures(images)
        embeddings = np.empty((len(images), self.GRID * self.GRID * 4), np.float32)
        for embedding, image in zip(embeddings, images, strict=True):
            embedding[:] = self._embed(image)
        return embeddings

    def _embed(self, image: np.ndarray) -> np.ndarray:
        side = self.GRID * self.PATCH
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        hue, saturation, value = cv2.split(cv2.cvtColor(np.float32(image) / 255, cv2.COLOR_RGB2HSV))
        x, y = cv2.polarToCart(saturation, hue, angleInDegrees=True)
        # Area interpolation by a whole factor is the mean over each patch.
        cone = cv2.resize(cv2.merge([x, y, value - 0.5]), (self.GRID, self.GRID), interpolation=cv2.INTER_AREA)
        patches = np.dstack([cone, np.full((self.GRID, self.GRID), self.BIAS, np.float32)])
        patches /= np.linalg.norm(patches, axis=2, keepdims=True)
        return patches.ravel() / self.GRID


class OpenClip:
    """Image tower of an open_clip model from a local checkpoint; StoryMem uses CLIP ViT-B/32.

    checkpoint: state dict of the whole model, .safetensors or a .pt that holds tensors only. Nothing is ever
    downloaded. architecture: open_clip's name for a plain CLIP. It is not stored in the checkpoint: OpenAI's
    own weights need "ViT-B-32-quickgelu", LAION's "ViT-B-32". Pictures are prepared by open_clip's own
    transform with the CLIP mean and deviation: shortest side 224, bicubic, centre crop.

    `name` holds the architecture and a hash of the file, so vectors of different weights never mix.

    Raises InputError for an unknown architecture and for a checkpoint that is missing, unreadable or not of
    that architecture.
    """

    BATCH = 32

    def __init__(self, checkpoint: Path, architecture: str = "ViT-B-32", device: torch.device | str = "cpu") -> None:
        # Imported here because it takes seconds, which only its users should pay.
        import open_clip

        model = load_clip(checkpoint, architecture)
        self.name = f"open-clip/{architecture}/{_content_hash(checkpoint)}"
        self._device = torch.device(device)
        self._tower = model.visual.to(self._device, torch.float32).eval()
        self._width = model.visual.output_dim
        self._prepare = open_clip.image_transform(model.visual.image_size, is_train=False)

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """images: uint8 [N, H, W, 3] RGB -> float32 [N, D] of unit length, D = 512 for ViT-B/32."""
        from PIL import Image

        _require_pictures(images)
        embeddings = np.empty((len(images), self._width), np.float32)
        for start in range(0, len(images), self.BATCH):
            batch = [self._prepare(Image.fromarray(image)) for image in images[start : start + self.BATCH]]
            features = self._tower(torch.stack(batch).to(self._device))
            embeddings[start : start + self.BATCH] = torch.nn.functional.normalize(features, dim=-1).cpu()
        return embeddings


def load_clip(checkpoint: Path, architecture: str) -> torch.nn.Module:
    """An open_clip model with the weights of a file; InputError as OpenClip's."""
    import open_clip

    config = _plain_clip_config(architecture)
    weights = load_weights(checkpoint)
    # On the meta device no time goes into random weights that are replaced at once.
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    try:
        model.load_state_dict(weights, assign=True)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            "clip_checkpoint",
            str(checkpoint),
            f"these are not the weights of a {architecture}",
            "Choose open_clip weights of that architecture, or the architecture of these weights.",
        ) from error
    return model


def _require_pictures(images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise InputError(
            "images", f"{images.dtype} {images.shape}", "not uint8 RGB [N, H, W, 3]", "Convert them first."
        )


def _plain_clip_config(architecture: str) -> dict:
    """open_clip's own description of a CLIP that is built from it alone: others fetch parts from a hub."""
    import open_clip

    config = open_clip.get_model_config(architecture) if architecture in open_clip.list_models() else {}
    plain = {"embed_dim", "vision_cfg", "text_cfg"}
    foreign = {"timm_model_name", "hf_model_name"}
    if not (
        plain <= set(config) <= plain | {"quick_gelu"}
        and foreign.isdisjoint(config["vision_cfg"])
        and foreign.isdisjoint(config["text_cfg"])
    ):
        raise InputError(
            "clip_architecture",
            architecture,
            "open_clip has no plain CLIP of this name",
            "Use ViT-B-32, or ViT-B-32-quickgelu for OpenAI's weights.",
        )
    return config


def load_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, .safetensors or a .pt of tensors only; InputError for any other."""
    try:
        if checkpoint.suffix == ".safetensors":
            return load_file(checkpoint)
        return torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise InputError(
            "clip_checkpoint",
            str(checkpoint),
            f"this file cannot be read as a state dict ({error})",
            "Choose a .safetensors of open_clip weights.",
        ) from error


def _content_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]
