"""ComfyUI's own model classes for training, on the CPU unless there is a GPU."""

# ruff: noqa: E402 - ComfyUI reads its arguments when it is imported
import os
import sys

import torch

from tools.setup import Host

sys.path.insert(0, str(Host.load().comfyui))

from comfy.cli_args import args

args.cpu = not torch.cuda.is_available()

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.model_sampling
import comfy.ops
import comfy.samplers
from comfy.latent_formats import Wan21
from comfy.ldm.wan.model import WanModel
from comfy.ldm.wan.vae import Resample, RMS_norm, WanVAE
from comfy.quant_ops import TensorWiseINT8Layout
from comfy.text_encoders.t5 import T5

from tools.demo_nodes.attention import attention

__all__ = [
    "BFLOAT16",
    "DEVICE",
    "T5",
    "RMS_norm",
    "Resample",
    "TensorWiseINT8Layout",
    "Wan21",
    "WanModel",
    "WanVAE",
    "attention",
    "comfy",
]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Matrix products in bfloat16 take a quarter of the time where a CPU has them.
BFLOAT16 = DEVICE.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
if DEVICE.type != "cpu":
    torch.set_default_device(DEVICE)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
# The models are small: more threads only wait for each other.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
# The host's fused kernels have no gradient.
comfy.model_management.in_training = True
