"""ComfyUI nodes for the small world's models: their text encoder, and quick training; not part of the node pack."""

import json

import comfy.patcher_extension
import comfy.sd
import comfy.supported_models_base
import comfy.text_encoders.wan
import comfy.utils
import folder_paths
from comfy_api.latest import ComfyExtension, io

from .attention import attention


class StoryMemDemoCLIPLoader(io.ComfyNode):
    """Loads the tiny UMT5 of the demo: the host's CLIPLoader knows UMT5 in its full size only."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryMemDemoCLIPLoader",
            display_name="Demo Text Encoder",
            category="StoryMem/demo",
            description="Loads the tiny UMT5 of the StoryMem demo. Use Load CLIP for the real one.",
            inputs=[
                io.Combo.Input(
                    "clip_name",
                    options=folder_paths.get_filename_list("text_encoders"),
                    tooltip="The demo's text encoder, whose size is in the file's own metadata.",
                )
            ],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("text_encoders", clip_name)
        weights, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
        config = json.loads((metadata or {}).get("config", "{}"))
        size = config.get("text_encoder")
        if size is None:
            raise ValueError(f"clip_name={clip_name!r}: not a demo text encoder. Use Load CLIP.")
        tokenizer = {"spiece_model": weights.pop("spiece_model")}
        if "tokens" in config:
            # A model trained on short captions: it is not to be lost among the 512 tokens of a real prompt.
            tokenizer["umt5xxl_min_length"] = config["tokens"]
        wan = comfy.text_encoders.wan
        clip = comfy.sd.CLIP(
            comfy.supported_models_base.ClipTarget(wan.WanT5Tokenizer, wan.te()),
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            tokenizer_data=tokenizer,
            parameters=comfy.utils.calculate_parameters(weights),
            state_dict=[weights],
            model_options={"umt5xxl_model_config": size},
        )
        return io.NodeOutput(clip)


class StoryMemDemoQuickTraining(io.ComfyNode):
    """Has Train LoRA run a tiny Wan compiled, with attention as plain matrix products: most of a CPU's time goes into
    what is between the products, and into the backward pass of attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryMemDemoQuickTraining",
            display_name="Demo Quick Training",
            category="StoryMem/demo",
            description="Trains the small world's models quicker on a CPU. Not for models of a real size.",
            inputs=[io.Model.Input("model", tooltip="A model of the small world, to be trained.")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        quick = model.clone()
        quick.model_options["transformer_options"]["optimized_attention_override"] = attention
        outer_sample = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
        quick.add_wrapper_with_key(outer_sample, "storymem_demo", compile_blocks)
        return io.NodeOutput(quick)


def compile_blocks(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper: the trainer's own copy of the model is there now. Lengths differ from sample to sample."""
    for block in executor.class_obj.model_patcher.model.diffusion_model.blocks:
        block.compile(dynamic=True)
    return executor(*args, **kwargs)


class DemoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [StoryMemDemoCLIPLoader, StoryMemDemoQuickTraining]


async def comfy_entrypoint() -> DemoExtension:
    return DemoExtension()
