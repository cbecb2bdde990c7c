"""The small world's Wan transformers: the host's class, trained on single clips by flow matching."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from .autoencoder import load_autoencoder
from .dataset import Clips, grey_latent
from .host import BFLOAT16, DEVICE, WanModel, attention, comfy
from .run import Schedule, load_finished, save_finished, train, trained
from .text import WIDTH as TEXT_WIDTH
from .text import TextEncoder

CONFIG = {"dim": 192, "ffn_dim": 576, "num_heads": 4, "num_layers": 6, "text_dim": TEXT_WIDTH}
LATENT_CHANNELS, MASK_CHANNELS = 16, 4
BATCH = 256
AT_ONCE = BATCH if DEVICE.type == "cuda" else 16  # as many as a CPU's caches hold
SHIFT = 3.0  # noise levels are drawn as a sampler with this shift visits them
NO_CAPTION = 0.1  # share of samples without a caption, for classifier-free guidance
CHARACTERS = 3.0  # weight of the characters in the loss
CUT, FIRST_FRAME = 0.35, 0.35  # shares of what an I2V sample knows; the rest knows five frames

TEXT = Schedule(steps=6000, learning_rate=1e-3, warm_up=200, average=0.998)
T2V = Schedule(steps=7240, learning_rate=1e-3, warm_up=100, average=0.998, save_every=1000)
I2V = Schedule(steps=7290, learning_rate=1e-3, warm_up=100, average=0.998, save_every=1000)


def new_transformer(channels: int) -> WanModel:
    """Random weights, drawn as Wan draws them; the head starts at 0."""
    wan = WanModel(in_dim=channels, **CONFIG, operations=comfy.ops.disable_weight_init)
    for name, weight in wan.named_parameters():
        if name.endswith("modulation"):
            torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            torch.nn.init.ones_(weight)
        elif name.endswith("bias") or name.startswith("head.head"):
            torch.nn.init.zeros_(weight)
        elif name.startswith("time_embedding"):
            torch.nn.init.normal_(weight, std=0.02)
        else:
            torch.nn.init.xavier_uniform_(weight.flatten(1))
    return wan


def noise_levels(count: int, shift: float = SHIFT) -> torch.Tensor:
    """sigma in 0..1 of each sample, 1 = noise alone; evenly spread over the batch."""
    even = (torch.arange(count) + torch.rand(count)) / count
    return shift * even / (1 + (shift - 1) * even)


def fast(wan: WanModel) -> Callable:
    """The same model for training, compiled."""
    compiled = torch.compile(wan, dynamic=False)

    def velocity(x: torch.Tensor, time: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=BFLOAT16):
            options = {} if DEVICE.type == "cuda" else {"optimized_attention_override": attention}
            return compiled(x, time, text, transformer_options=options).float()

    return velocity


def parts_of(batch: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """The batch, AT_ONCE samples at a time."""
    rows = (rows.split(AT_ONCE) for rows in batch.values())
    return (dict(zip(batch, part, strict=True)) for part in zip(*rows, strict=True))


def flow_loss(
    wan: Callable, clips: torch.Tensor, text: torch.Tensor, known: torch.Tensor | None, importance: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Mean squared error of the predicted velocity, noise - clip, weighted by importance [B, 1, 5, 8, 12] as "loss",
    and as it is. wan: of `fast`. `known` is what an I2V model sees besides."""
    sigma, noise = noise_levels(len(clips)), torch.randn_like(clips)
    level = sigma.view(-1, 1, 1, 1, 1)
    x = torch.lerp(clips, noise, level)
    velocity = wan(x if known is None else torch.cat([x, known], 1), 1000 * sigma, text)
    error = (velocity - (noise - clips)).square()
    return {"loss": (importance * error).mean() / importance.mean(), "error": error.detach().mean()}


def importance_of(cells: torch.Tensor) -> torch.Tensor:
    """Weights in the loss, [B, 1, 5, 8, 12]: where a character is counts more.

    It moves no optimum: the best prediction of an element is its mean, whatever its weight.
    """
    return 1 + (CHARACTERS - 1) * cells[:, None].float()


def words_of(text: TextEncoder, tokens: torch.Tensor) -> torch.Tensor:
    """The captions as the model sees them, some of them empty."""
    none = torch.rand(len(tokens), 1) < NO_CAPTION
    return text.encode(torch.where(none, text.tokens([""]), tokens))


def train_text(start: Path | None, steps: int | None) -> None:
    """The text encoder, and with it a text-to-video model for the others to begin with; from scratch or from the
    files in folder `start`."""
    torch.manual_seed(1)
    models = torch.nn.ModuleDict({"wan": new_transformer(LATENT_CHANNELS), "text": TextEncoder()})
    clips, wan = Clips(models["text"].tokens), fast(models["wan"])
    if start is not None:
        models["wan"].load_state_dict(trained(start, "t2v"))
        models["text"].t5.load_state_dict(trained(start, "umt5"))

    def losses(step: int) -> Iterator[dict[str, torch.Tensor]]:
        for drawn in parts_of(clips.batch(step, BATCH)):
            text = words_of(models["text"], drawn["tokens"])
            yield flow_loss(wan, drawn["clip"], text, None, importance_of(drawn["cells"]))

    weights = train("text", models, TEXT.shortened(steps), losses)
    save_finished("young_t2v", part(weights, "wan."))
    save_finished("umt5", part(weights, "text."))


def part(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): weight for key, weight in weights.items() if key.startswith(prefix)}


def widened(t2v: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """T2V weights for an I2V model: the channels of what is known start at 0."""
    weight = t2v["patch_embedding.weight"]
    added = weight.new_zeros(len(weight), MASK_CHANNELS + LATENT_CHANNELS, *weight.shape[2:])
    return t2v | {"patch_embedding.weight": torch.cat([weight, added], 1)}


def known_channels(clips: dict[str, torch.Tensor], grey: torch.Tensor) -> torch.Tensor:
    """What I2V samples know, [B, 4 + 16, 5, 8, 12]: nothing (a cut), the first frame, or the first five."""
    kind = torch.rand(len(clips["clip"]), 1, 1, 1, 1)
    cut, first_frame = kind < CUT, kind < CUT + FIRST_FRAME
    video = torch.where(cut, grey, torch.where(first_frame, clips["first_frame"], clips["motion_frames"]))
    frame = torch.arange(video.shape[2]).view(-1, 1, 1)
    mask = torch.where(cut, False, frame < torch.where(first_frame, 1, 2)).float()
    return torch.cat([mask.expand(-1, MASK_CHANNELS, -1, *video.shape[3:]), video], 1)


def train_t2v(start: Path | None, steps: int | None) -> None:
    """The text-to-video model; from the one of `train_text`, or from its own file in folder `start`.

    The text encoder stays as it is, here and in train_i2v.
    """
    torch.manual_seed(3)
    text, wan = load_text_encoder(), new_transformer(LATENT_CHANNELS)
    clips, model = Clips(text.tokens), fast(wan)
    wan.load_state_dict(load_finished("young_t2v") if start is None else trained(start, "t2v"))

    def losses(step: int) -> Iterator[dict[str, torch.Tensor]]:
        for drawn in parts_of(clips.batch(2_000_000 + step, BATCH)):
            words = words_of(text, drawn["tokens"])
            yield flow_loss(model, drawn["clip"], words, None, importance_of(drawn["cells"]))

    save_finished("t2v", train("t2v", wan, T2V.shortened(steps), losses))


def train_i2v(start: Path | None, steps: int | None) -> None:
    """The image-to-video model; from the text-to-video model, or from its own file in folder `start`."""
    torch.manual_seed(2)
    grey, text = grey_latent(load_autoencoder()), load_text_encoder()
    wan = new_transformer(2 * LATENT_CHANNELS + MASK_CHANNELS)
    clips, model = Clips(text.tokens), fast(wan)
    wan.load_state_dict(widened(load_finished("t2v")) if start is None else trained(start, "i2v"))

    def losses(step: int) -> Iterator[dict[str, torch.Tensor]]:
        for drawn in parts_of(clips.batch(1_000_000 + step, BATCH)):
            words, known = words_of(text, drawn["tokens"]), known_channels(drawn, grey)
            yield flow_loss(model, drawn["clip"], words, known, importance_of(drawn["cells"]))

    save_finished("i2v", train("i2v", wan, I2V.shortened(steps), losses))


def load_text_encoder() -> TextEncoder:
    """The trained text encoder, which stays as it is."""
    text = TextEncoder().requires_grad_(False)
    text.load_state_dict(load_finished("umt5"))
    return text
