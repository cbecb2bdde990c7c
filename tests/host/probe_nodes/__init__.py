"""Nodes only the tests use: they look into the host, or behave as other packs' nodes do."""

import copy
import json
from pathlib import Path

import comfy.model_management
import folder_paths
import node_helpers
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.ldm.modules.attention import get_attention_function
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import save_file


def output_file(name: str) -> Path:
    return Path(folder_paths.get_output_directory()) / name


def node(node_id: str, inputs: list, outputs: list, output_node: bool = False) -> io.Schema:
    return io.Schema(node_id=node_id, category="probe", inputs=inputs, outputs=outputs, is_output_node=output_node)


class ProbeConditioning(io.ComfyNode):
    """Writes what a CONDITIONING tells the model."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Conditioning.Input("conditioning"), io.String.Input("name")]
        return node("ProbeConditioning", inputs, [], output_node=True)

    @classmethod
    def execute(cls, conditioning, name):
        cross_attn, values = conditioning[0]
        tensors = {"cross_attn": cross_attn}
        tensors |= {key: value for key, value in values.items() if key.startswith("concat_")}
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, output_file(name))
        return io.NodeOutput()


class ProbeTensor(io.ComfyNode):
    """Writes an IMAGE or LATENT exactly."""

    @classmethod
    def define_schema(cls):
        inputs = [
            io.MultiType.Input("value", [io.Image, io.Latent]),
            io.String.Input("name"),
        ]
        return node("ProbeTensor", inputs, [], output_node=True)

    @classmethod
    def execute(cls, value, name):
        tensor = value["samples"] if isinstance(value, dict) else value
        save_file({"value": tensor.contiguous()}, output_file(name))
        return io.NodeOutput()


class ProbeVAE(io.ComfyNode):
    """The same VAE; the shape of every encode is appended to a JSON file."""

    @classmethod
    def define_schema(cls):
        return node("ProbeVAE", [io.Vae.Input("vae"), io.String.Input("name")], [io.Vae.Output()])

    @classmethod
    def execute(cls, vae, name):
        counted, path, calls = copy.copy(vae), output_file(name), []

        def encode(pixels, *args, **kwargs):
            calls.append(list(pixels.shape))
            path.write_text(json.dumps(calls))
            return vae.encode(pixels, *args, **kwargs)

        counted.encode = encode
        path.write_text("[]")
        return io.NodeOutput(counted)


class ProbeModelCalls(io.ComfyNode):
    """A wrapper as other packs add: writes the frames the model gets in each call, and scales its output."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.String.Input("name"), io.Float.Input("scale", default=1.0)]
        return node("ProbeModelCalls", inputs, [io.Model.Output()])

    @classmethod
    def execute(cls, model, name, scale):
        path, calls = output_file(name), []
        path.write_text("[]")

        def wrapper(executor, x, *args, **kwargs):
            calls.append(list(x.shape))
            path.write_text(json.dumps(calls))
            return executor(x, *args, **kwargs) * scale

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "probe", wrapper)
        return io.NodeOutput(model)


class ProbeAttention(io.ComfyNode):
    """An attention override as SageAttention nodes set it: replaces what was set before, honours masks.

    Writes for each call the numbers of queries and keys, and whether it got a mask.
    """

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.String.Input("kernel"), io.Float.Input("scale", default=1.0)]
        return node("ProbeAttention", [*inputs, io.String.Input("name")], [io.Model.Output()])

    @classmethod
    def execute(cls, model, kernel, scale, name):
        attention, path, calls = get_attention_function(kernel), output_file(name), []

        def override(func, q, k, v, heads, mask=None, **kwargs):
            calls.append([q.shape[1], k.shape[1], mask is not None])
            path.write_text(json.dumps(calls))
            return attention(q, k, v, heads, mask=mask, **kwargs) * scale

        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = override
        return io.NodeOutput(model)


class ProbeAgain(io.ComfyNode):
    """The same MODEL, but never from the host's cache: what follows runs anew."""

    @classmethod
    def define_schema(cls):
        return node("ProbeAgain", [io.Model.Input("model")], [io.Model.Output()])

    @classmethod
    def fingerprint_inputs(cls, **_):
        return float("nan")

    @classmethod
    def execute(cls, model):
        return io.NodeOutput(model)


class ProbeAfter(io.ComfyNode):
    """The same MODEL object, but not before a LoRA was trained."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.Custom("LORA_MODEL").Input("after")]
        return node("ProbeAfter", inputs, [io.Model.Output()])

    @classmethod
    def execute(cls, model, after):
        return io.NodeOutput(model)


class ProbeWeights(io.ComfyNode):
    """Writes a model's weights with all its patches applied."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.String.Input("name")]
        return node("ProbeWeights", inputs, [], output_node=True)

    @classmethod
    def execute(cls, model, name):
        comfy.model_management.load_models_gpu([model], force_patch_weights=True)
        prefix = "diffusion_model."
        weights = {
            key.removeprefix(prefix): value.detach().float().contiguous().clone()
            for key, value in model.model.state_dict().items()
            if key.startswith(prefix)
        }
        save_file(weights, output_file(name))
        return io.NodeOutput()


class ProbeRope(io.ComfyNode):
    """Writes the rotations a model applies to latent frames, with or without memory in this call."""

    @classmethod
    def define_schema(cls):
        inputs = [
            io.Model.Input("model"),
            io.Int.Input("frames"),
            io.Int.Input("height"),
            io.Int.Input("width"),
            io.Int.Input("memory"),
            io.Int.Input("spacing"),
            io.String.Input("name"),
        ]
        return node("ProbeRope", inputs, [], output_node=True)

    @classmethod
    def execute(cls, model, frames, height, width, memory, spacing, name):
        from types import SimpleNamespace

        options = {"storymem": SimpleNamespace(frames=memory, spacing=spacing)} if memory else {}
        rope_encode = model.get_model_object("diffusion_model.rope_encode")
        rotations = rope_encode(frames, height, width, dtype=torch.float32, transformer_options=options)
        save_file({"value": rotations.contiguous()}, output_file(name))
        return io.NodeOutput()


class ProbeImages(io.ComfyNode):
    """Seeded pictures: smooth coloured noise, or broken by NaN."""

    @classmethod
    def define_schema(cls):
        inputs = [
            io.Int.Input("seed"),
            io.Int.Input("count"),
            io.Int.Input("height"),
            io.Int.Input("width"),
            io.Boolean.Input("nan", default=False),
        ]
        return node("ProbeImages", inputs, [io.Image.Output()])

    @classmethod
    def execute(cls, seed, count, height, width, nan):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(count, 3, height // 8, width // 8, generator=generator)
        images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").movedim(1, -1)
        images = (images * 255).round() / 255
        if nan:
            images[count // 2, 0, 0, 0] = float("nan")
        return io.NodeOutput(images)


class ProbeGrey(io.ComfyNode):
    """Grey concat_latent_image and nothing known, made by the host's own functions."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Conditioning.Input("positive"), io.Conditioning.Input("negative"), io.Vae.Input("vae")]
        inputs += [io.Int.Input(name) for name in ("width", "height", "length")]
        outputs = [io.Conditioning.Output(), io.Conditioning.Output(), io.Latent.Output()]
        return node("ProbeGrey", inputs, outputs)

    @classmethod
    def execute(cls, positive, negative, vae, width, height, length):
        known = vae.encode(torch.full((length, height, width, 3), 0.5))
        values = {"concat_latent_image": known, "concat_mask": torch.ones_like(known[:, :1])}
        positive, negative = (node_helpers.conditioning_set_values(c, values) for c in (positive, negative))
        return io.NodeOutput(positive, negative, {"samples": torch.zeros_like(known)})


class ProbeNoise(io.ComfyNode):
    """The noise a NOISE draws for a latent, as a latent."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Noise.Input("noise"), io.Latent.Input("latent")]
        return node("ProbeNoise", inputs, [io.Latent.Output()])

    @classmethod
    def execute(cls, noise, latent):
        return io.NodeOutput({"samples": noise.generate_noise(latent)})


class ProbeClipVision(io.ComfyNode):
    """A tiny CLIP_VISION of seeded random weights; every embedding it makes is appended to a JSON file."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Int.Input("seed"), io.String.Input("name")]
        return node("ProbeClipVision", inputs, [io.ClipVision.Output()])

    @classmethod
    def execute(cls, seed, name):
        config = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "num_channels": 3}
        config |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "projection_dim": 16}
        config |= {"num_attention_heads": 4, "hidden_act": "quick_gelu"}
        clip_vision, path, made = ClipVisionModel(config), output_file(name), []
        generator = torch.Generator().manual_seed(seed)
        shapes = {key: weight.shape for key, weight in clip_vision.get_sd().items()}
        clip_vision.load_sd({key: torch.randn(shape, generator=generator) for key, shape in shapes.items()})
        encode = clip_vision.encode_image

        def encode_image(images, *args, **kwargs):
            output = encode(images, *args, **kwargs)
            made.extend(output["image_embeds"].tolist())
            path.write_text(json.dumps(made))
            return output

        clip_vision.encode_image = encode_image
        return io.NodeOutput(clip_vision)


class ProbeNotWan(io.ComfyNode):
    """A MODEL whose network is not a Wan."""

    @classmethod
    def define_schema(cls):
        return node("ProbeNotWan", [io.Model.Input("model")], [io.Model.Output()])

    @classmethod
    def execute(cls, model):
        model = model.clone()
        model.add_object_patch("diffusion_model", torch.nn.Identity())
        return io.NodeOutput(model)


class ProbeTrainingSet(io.ComfyNode):
    """Writes every sample of a training set: its latent and what its conditioning tells the model."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Latent.Input("latents"), io.Conditioning.Input("positive"), io.String.Input("name")]
        return io.Schema("ProbeTrainingSet", category="probe", inputs=inputs, is_input_list=True, is_output_node=True)

    @classmethod
    def execute(cls, latents, positive, name):
        tensors = {}
        for i, (latent, ((cross_attn, values),)) in enumerate(zip(latents, positive, strict=True)):
            tensors |= {f"{i}.latent": latent["samples"], f"{i}.cross_attn": cross_attn}
            tensors |= {f"{i}.{key}": value for key, value in values.items() if key.startswith("concat_")}
        save_file(
            {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()},
            output_file(name[0]),
        )
        return io.NodeOutput()


class ProbeTrainer(io.ComfyNode):
    """Writes the shape and device of every sample's conditioning as the trainer holds it, and how much noise."""

    @classmethod
    def define_schema(cls):
        return node("ProbeTrainer", [io.Model.Input("model"), io.String.Input("name")], [io.Model.Output()])

    @classmethod
    def execute(cls, model, name):
        def wrapper(executor, guider, sigmas, extra_args, callback, noise, *args):
            held = [c["model_conds"]["c_concat"].cond for c in guider.conds["positive"]]
            seen = {"conds": [[list(t.shape), t.device.type] for t in held], "noise": list(noise.shape)}
            output_file(name).write_text(json.dumps(seen))
            return executor(guider, sigmas, extra_args, callback, noise, *args)

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "probe_trainer", wrapper)
        return io.NodeOutput(model)


class ProbeLoss(io.ComfyNode):
    """Writes the losses of a training run, step by step, as JSON."""

    @classmethod
    def define_schema(cls):
        return node("ProbeLoss", [io.Custom("LOSS_MAP").Input("loss"), io.String.Input("name")], [], output_node=True)

    @classmethod
    def execute(cls, loss, name):
        output_file(name).write_text(json.dumps(loss["loss"]))
        return io.NodeOutput()


class ProbeModelInput(io.ComfyNode):
    """Writes what the network itself gets in its last call: input, time step, text, and the rotations it makes."""

    @classmethod
    def define_schema(cls):
        return node("ProbeModelInput", [io.Model.Input("model"), io.String.Input("name")], [io.Model.Output()])

    @classmethod
    def execute(cls, model, name):
        path = output_file(name)

        def wrapper(executor, x, timestep, context, *args, **kwargs):
            seen, wan = {}, executor.class_obj
            rope_encode = wan.rope_encode

            def seen_rope(*args, **kwargs):
                seen["rotations"] = rope_encode(*args, **kwargs)
                return seen["rotations"]

            wan.rope_encode = seen_rope
            try:
                return executor(x, timestep, context, *args, **kwargs)
            finally:
                wan.rope_encode = rope_encode
                seen |= {"x": x, "timestep": timestep, "context": context}
                save_file({key: tensor.detach().float().contiguous() for key, tensor in seen.items()}, path)

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "probe_input", wrapper)
        return io.NodeOutput(model)


class Probes(ComfyExtension):
    async def get_node_list(self):
        return [
            ProbeConditioning,
            ProbeTensor,
            ProbeVAE,
            ProbeModelCalls,
            ProbeAttention,
            ProbeAgain,
            ProbeAfter,
            ProbeWeights,
            ProbeRope,
            ProbeImages,
            ProbeGrey,
            ProbeNoise,
            ProbeClipVision,
            ProbeNotWan,
            ProbeTrainingSet,
            ProbeTrainer,
            ProbeLoss,
            ProbeModelInput,
        ]


async def comfy_entrypoint():
    # The host looks for most kinds of models in the output folder too: tests write theirs there.
    folder_paths.add_model_folder_path("clip_vision", str(output_file("clip_vision")))
    return Probes()
