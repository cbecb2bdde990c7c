"""ComfyUI-StoryMem: memory-conditioned multi-shot video for native Wan 2.x models."""

from comfy_api.latest import ComfyExtension

from .nodes import NODES

WEB_DIRECTORY = "./js"


class StoryMem(ComfyExtension):
    async def get_node_list(self):
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    return StoryMem()
