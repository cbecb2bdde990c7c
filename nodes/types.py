"""The pack's own socket types."""

from comfy_api.latest import io

Bank = io.Custom("STORYMEM_BANK")
Transition = io.Custom("STORYMEM_TRANSITION")
