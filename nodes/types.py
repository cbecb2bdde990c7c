"""The pack's own socket types."""

from comfy_api.latest import io

Bank = io.Custom("STORYMEM_BANK")
Transition = io.Custom("STORYMEM_TRANSITION")
Shot = io.Custom("STORYMEM_SHOT")
Story = io.Custom("STORYMEM_STORY")
Plan = io.Custom("STORYMEM_PLAN")
