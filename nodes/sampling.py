"""Sampling a shot with memory: in one node, or in parts around the host's own samplers."""

import comfy.samplers
from comfy_api.latest import io
from comfy_execution.graph import ExecutionBlocker

from ..storymem_core.bank import MemoryBank, read_labels
from ..storymem_core.conditioning import latent_frames
from ..storymem_core.transitions import Transition
from .host.memory import Memory, with_memory
from .host.sampling import condition_shot, memory_noise, sample_shot, shift_sigmas, trim_memory
from .pictures import describe
from .types import Bank
from .types import Transition as TransitionType

MAX_SIZE = 16384
OPTIONAL = {"bank": None, "transition": None, "labels": "", "memory_guidance": 1.0}


def model_inputs() -> list:
    """The two experts."""
    return [
        io.Model.Input("model", tooltip="Wan 2.2 I2V high-noise expert with the StoryMem LoRA."),
        io.Model.Input(
            "model_low_noise",
            optional=True,
            tooltip="Wan 2.2 I2V low-noise expert with its StoryMem LoRA. Without it, `model` does all steps.",
        ),
    ]


def shot_inputs() -> list:
    """Inputs that say what the shot shows and remembers; both sampling nodes begin with them."""
    return [
        *model_inputs(),
        io.Conditioning.Input("positive", tooltip="What the shot shows."),
        io.Conditioning.Input("negative", tooltip="What it must not show. Not used at cfg 1."),
        io.Vae.Input("vae", tooltip="The Wan 2.1 VAE."),
        Bank.Input("bank", optional=True, tooltip="Memory of the earlier shots. Without it: no memory."),
        TransitionType.Input(
            "transition", optional=True, tooltip="From Shot Transition. Without it: a cut to a new picture."
        ),
        *size_inputs(),
    ]


def size_inputs() -> list:
    """Size of a shot in pixels and frames."""
    return [
        io.Int.Input("width", default=832, min=16, max=MAX_SIZE, step=16, tooltip="Pixels, a multiple of 16."),
        io.Int.Input("height", default=480, min=16, max=MAX_SIZE, step=16, tooltip="Pixels, a multiple of 16."),
        io.Int.Input(
            "length",
            default=81,
            min=1,
            max=MAX_SIZE,
            step=4,
            tooltip="Frames, 4n+1: 81 is 5 seconds at 16 fps.",
        ),
    ]


def sampling_inputs() -> list:
    """Seed, steps and schedule, and where the second expert takes over."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Noise of the shot. The same seed gives the same noise whatever is remembered.",
        ),
        io.Int.Input(
            "steps",
            default=40,
            min=1,
            max=10000,
            tooltip="Sampling steps over both experts together.",
        ),
        io.Float.Input(
            "cfg",
            default=3.5,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="How strictly to follow the prompt. 1 skips the negative pass: half the time.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=comfy.samplers.KSampler.SAMPLERS,
            default="uni_pc",
            tooltip="The released weights expect uni_pc.",
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default="simple",
            tooltip="How noise levels are spread over the steps.",
        ),
        io.Float.Input(
            "shift",
            default=4.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="Shift of the noise schedule, set on both experts. The released weights expect 4.",
            advanced=True,
        ),
        io.Float.Input(
            "boundary",
            default=0.9,
            min=0.0,
            max=1.0,
            step=0.005,
            tooltip="Noise level (sigma) below which the low-noise expert takes over.",
            advanced=True,
        ),
    ]


def memory_inputs() -> list:
    """Inputs that say how strongly, when and from where memory acts."""
    return [
        io.Int.Input(
            "memory_spacing",
            default=1,
            min=1,
            max=64,
            tooltip="Distance of memory positions in time, in latent frames. 1 is what the released weights were "
            "trained with; larger moves memory further into the past.",
            advanced=True,
        ),
        io.Float.Input(
            "memory_strength",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.05,
            tooltip="Weight of memory in the model's attention: 1 = as trained, 2 = twice, 0 = none.",
            advanced=True,
        ),
        io.Float.Input(
            "memory_start",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Fraction of the sampling at which memory begins to act.",
            advanced=True,
        ),
        io.Float.Input(
            "memory_end",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Fraction of the sampling at which memory stops acting. Steps without memory cost less.",
            advanced=True,
        ),
    ]


def guidance_input() -> io.Float.Input:
    return io.Float.Input(
        "memory_guidance",
        optional=True,
        default=1.0,
        min=0.0,
        max=100.0,
        step=0.1,
        tooltip="How far to follow what memory changes: 1 = as the model predicts, 2 = twice as far, for looks "
        "closer to memory. Other values than 1 take a second pass, without memory.",
        advanced=True,
    )


def labels_input() -> io.String.Input:
    return io.String.Input(
        "labels",
        optional=True,
        default="",
        tooltip="Who and what the shot shows, names with commas between: recalled are keyframes with these labels, "
        "where the Memory Bank's policy is same_labels.",
    )


def prepare(
    model,
    model_low_noise,
    positive,
    negative,
    vae,
    bank,
    transition,
    width,
    height,
    length,
    memory_spacing,
    memory_strength,
    memory_start,
    memory_end,
    labels,
    memory_guidance,
) -> tuple:
    """Both experts with memory, the shot's conditioning and latent, and the keyframes recalled for it."""
    recalled = (bank or MemoryBank()).recall(labels=read_labels(labels))
    transition = transition or Transition.after("cut", None)
    frames = len(recalled), latent_frames(length)
    memory = Memory(*frames, memory_spacing, memory_strength, memory_start, memory_end, memory_guidance)
    high = with_memory(model, memory, "model")
    low = model_low_noise and with_memory(model_low_noise, memory, "model_low_noise")
    shot = condition_shot(positive, negative, vae, recalled, transition, width, height, length)
    return high, low, *shot, recalled


class StoryMemSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemSampler",
            display_name="Memory-Conditioned Sampler",
            category="StoryMem/sampling",
            description="Samples one shot that remembers the earlier ones. Recalled keyframes stand in the "
            "video's past; the latent that comes out has the shot's own frames only.",
            search_aliases=["storymem", "memory", "consistency", "multi-shot", "ksampler"],
            inputs=[
                *shot_inputs(),
                *sampling_inputs(),
                *memory_inputs(),
                labels_input(),
                guidance_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The shot's own frames, without memory. Decode with the VAE.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, model, seed, steps, cfg, sampler_name, scheduler, shift, boundary, model_low_noise=None, **shot
    ) -> io.NodeOutput:
        model = shift_sigmas(model, shift)
        model_low_noise = model_low_noise and shift_sigmas(model_low_noise, shift)
        shot = {**OPTIONAL, **shot}
        high, low, positive, negative, latent, recalled = prepare(model, model_low_noise, **shot)
        latent = sample_shot(high, low, positive, negative, latent, seed, steps, cfg, sampler_name, scheduler, boundary)
        ui = {"storymem_recalled": [describe(keyframe) for keyframe in recalled]}
        return io.NodeOutput(trim_memory(latent), ui=ui)


class StoryMemApplyMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemApplyMemory",
            display_name="Apply Memory",
            category="StoryMem/sampling",
            description="Prepares model, conditioning and latent for any sampler of ComfyUI. Follow the sampler "
            "with Trim Memory. Set the schedule's shift (ModelSamplingSD3, 4.0) yourself.",
            search_aliases=["storymem", "memory", "consistency", "multi-shot"],
            inputs=[*shot_inputs(), *memory_inputs(), labels_input(), guidance_input()],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with memory."),
                io.Conditioning.Output(display_name="positive", tooltip="With keyframes and known frames."),
                io.Conditioning.Output(display_name="negative", tooltip="With keyframes and known frames."),
                io.Latent.Output(display_name="latent", tooltip="Empty latent: memory frames first, then the shot's."),
                io.Model.Output(
                    display_name="model_low_noise",
                    tooltip="The low-noise expert with memory, when one is connected.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, model_low_noise=None, **shot) -> io.NodeOutput:
        shot = {**OPTIONAL, **shot}
        high, low, positive, negative, latent, recalled = prepare(model, model_low_noise, **shot)
        missing = ExecutionBlocker("model_low_noise: connect a low-noise expert to Apply Memory to use it")
        ui = {"storymem_recalled": [describe(keyframe) for keyframe in recalled]}
        return io.NodeOutput(high, positive, negative, latent, low or missing, ui=ui)


class StoryMemTrimMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemTrimMemory",
            display_name="Trim Memory",
            category="StoryMem/sampling",
            description="Drops the memory frames of a sampled latent. Put it between the sampler and VAE Decode.",
            search_aliases=["storymem", "memory"],
            inputs=[
                io.Latent.Input("latent", tooltip="From a sampler that got the latent of Apply Memory."),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The shot's own frames.")],
        )

    @classmethod
    def execute(cls, latent) -> io.NodeOutput:
        return io.NodeOutput(trim_memory(latent))


class SeededMemoryNoise:
    """NOISE as the host's SamplerCustomAdvanced wants it."""

    def __init__(self, seed: int):
        self.seed = seed

    def generate_noise(self, input_latent: dict):
        return memory_noise(input_latent, self.seed)


class StoryMemNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemNoise",
            display_name="Memory Noise",
            category="StoryMem/sampling",
            description="Noise for SamplerCustomAdvanced after Apply Memory: the shot's frames get exactly the "
            "noise they would get without memory, memory frames get their own.",
            search_aliases=["storymem", "memory", "random noise"],
            inputs=[
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Noise of the shot, the same whatever is remembered.",
                ),
            ],
            outputs=[io.Noise.Output(display_name="noise", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, seed) -> io.NodeOutput:
        return io.NodeOutput(SeededMemoryNoise(seed))
