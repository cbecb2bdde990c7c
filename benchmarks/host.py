"""ComfyUI and this pack in the benchmark's own process, as the server has them but without the server."""

import importlib.util
import sys

import torch

from tools.setup import REPO, Host

OPTIONS = ("--cpu", "--use-pytorch-cross-attention")
PACK = "storymem"


def load_host() -> Host:
    """Make ComfyUI's modules importable, and this pack as package `storymem`; computes on one thread.

    Other processes hardly disturb the CPU seconds of one thread (time.thread_time). Attention is torch's fused
    kernel, which our weighted attention is made of: on a CPU the host's default is another, slower one.
    """
    host = Host.load()
    torch.set_num_threads(1)
    # Before the repository, whose folder `nodes` would hide the host's module of that name.
    sys.path.insert(0, str(host.comfyui))
    sys.argv[1:] = [*OPTIONS, "--base-directory", str(host.base)]
    import comfy.options

    comfy.options.enable_args_parsing()
    spec = importlib.util.spec_from_file_location(PACK, REPO / "__init__.py")
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])
    return host
