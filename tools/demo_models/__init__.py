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


WEIGHTS = Path(__file__).parent / "weights"
# Where ComfyUI looks for each of the trained models of the small world, `tools.small_world`.
WORLD_MODELS = {
    "vae/storymem_world_vae.safetensors",
    "text_encoders/storymem_world_umt5.safetensors",
    "diffusion_models/storymem_world_t2v.safetensors",
    "diffusion_models/storymem_world_i2v.safetensors",
    "loras/storymem_world_lora_first_frame.safetensors",
    "loras/storymem_world_lora_motion_frames.safetensors",
}


def link_world_models(models_dir: Path) -> list[Path]:
    """Link the trained models below a ComfyUI models folder; those that are not trained yet are left out.

    A file of the same name that is no link (weights in training, dropped in) stays as it is.

    Returns:
        The links that are there now.
    """
    links = []
    for name in sorted(WORLD_MODELS):
        link, weights = models_dir / name, WEIGHTS / Path(name).name
        if not weights.exists() or (link.exists() and not link.is_symlink()):
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(weights)
        links.append(link)
    return links


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
