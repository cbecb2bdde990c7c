"""Loads StoryMem LoRAs as they were published."""

import comfy.utils
import folder_paths
from comfy_api.latest import io

from .host.lora import add_lora


class StoryMemLoraLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemLoraLoader",
            display_name="StoryMem LoRA",
            category="StoryMem/loaders",
            description="Loads a StoryMem LoRA onto one expert. PEFT files (backbone_high_noise, "
            "backbone_low_noise) get their rank-stabilised scale alpha / sqrt(rank), which the plain LoRA "
            "loader does not apply; files that carry their own alpha load as they are.",
            search_aliases=["storymem", "lora", "peft", "memory"],
            inputs=[
                io.Model.Input("model", tooltip="The expert this LoRA was trained for: high or low noise."),
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list("loras"),
                    tooltip="File in models/loras (.safetensors, or .pth read without pickle).",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="1.0 = as trained; 0 leaves the model as it is.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the LoRA.")],
        )

    @classmethod
    def execute(cls, model, lora_name, strength) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("loras", lora_name)
        state_dict = comfy.utils.load_torch_file(path, safe_load=True)
        return io.NodeOutput(add_lora(model, state_dict, lora_name, strength))
