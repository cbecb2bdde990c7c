"""Tiny stand-ins for the models of a StoryMem story, in ComfyUI's own folders and file formats.

Structure, names and file formats are those of the real models. The sizes are tiny and the weights random
(fixed seeds), so the pictures are noise. `python -m tools.demo_models MODELS_DIR` writes all in a second.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from .files import ModelFile, is_current, write
from .peft import peft_adapter
from .umt5 import umt5_text_encoder
from .vae import wan_vae
from .wan import wan_transformer

DEMO_MODELS: dict[str, Callable[[], ModelFile]] = {
    "diffusion_models/storymem_demo_high_noise.safetensors": partial(wan_transformer, channels=36, seed=1),
    "diffusion_models/storymem_demo_low_noise.safetensors": partial(wan_transformer, channels=36, seed=2),
    "diffusion_models/storymem_demo_t2v.safetensors": partial(wan_transformer, channels=16, seed=3),
    "vae/storymem_demo_vae.safetensors": partial(wan_vae, seed=4),
    "text_encoders/storymem_demo_umt5.safetensors": partial(umt5_text_encoder, seed=5),
    "loras/storymem_demo_high_noise.safetensors": partial(peft_adapter, seed=6),
    "loras/storymem_demo_low_noise.safetensors": partial(peft_adapter, seed=7),
}


def build_demo_models(models_dir: Path) -> list[Path]:
    """Write the demo models that are missing, or that an older builder wrote, below a ComfyUI models folder.

    A file of the same name that this builder did not write (trained weights dropped in) stays as it is.

    Args:
        models_dir: the folder that holds `diffusion_models`, `vae`, `text_encoders` and `loras`.

    Returns:
        The files written now.
    """
    stale = {models_dir / name: build for name, build in DEMO_MODELS.items() if not is_current(models_dir / name)}
    for path, build in stale.items():
        write(path, build())
    return list(stale)
