"""The small world's Wan 2.1 autoencoder: the host's class at width 12, trained to reconstruct clips.

The host encodes in chunks with a cache. Training does the same sums at once, whole clips in parallel: layers
before the first temporal stride (encoder) and after the last one (decoder) see each frame alone, so their two
past taps stay zero and the host's own one-frame path computes them.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import max_pool3d

from .host import BFLOAT16, DEVICE, Resample, RMS_norm, Wan21, WanVAE
from .render import random_frames
from .run import Schedule, ahead, load_finished, save_finished, train, trained
from .world import FRAMES

WIDTH = 12
LATENT_CHANNELS = 16
LATENT_NOISE = 0.05  # against unit variance: the decoder forgives what a diffusion model gets slightly wrong
CHARACTERS = 3.0  # extra weight of the characters in the loss
LATENT_PENALTY = 2e-4  # keeps the latents from growing out of that noise

BATCH = 16
SCHEDULE = Schedule(steps=2500, learning_rate=1e-3, warm_up=50, average=0.99)
DECODER = Schedule(steps=400, learning_rate=1e-3, warm_up=20, average=0.98, save_every=50)


def new_autoencoder() -> WanVAE:
    """Random weights; every layer looks at the present only, and frames are repeated in time."""
    vae = WanVAE(
        dim=WIDTH,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        attn_scales=[],
        temperal_downsample=[False, True, True],
    )
    with torch.no_grad():
        for name, module in vae.named_modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
                module.bias.zero_()
                weight = module.weight.zero_()
                present = weight[:, :, -1] if weight.ndim == 5 else weight
                torch.nn.init.kaiming_normal_(present)
                if name.endswith("time_conv"):
                    identity = torch.eye(weight.shape[1]).repeat(weight.shape[0] // weight.shape[1], 1)
                    present.copy_(identity[:, :, None, None])
                elif name.endswith(("residual.6", "proj")):
                    present *= 0.3
            # The layout that is fastest on a CPU.
            if isinstance(module, torch.nn.Conv3d) and DEVICE.type == "cpu":
                module.weight.data = module.weight.contiguous(memory_format=torch.channels_last_3d)
            elif isinstance(module, torch.nn.Conv2d) and DEVICE.type == "cpu":
                module.weight.data = module.weight.contiguous(memory_format=torch.channels_last)
            elif isinstance(module, RMS_norm):
                module.forward = lambda x, norm=module: _Normalised.apply(x, norm.gamma)
    return vae


class _Normalised(torch.autograd.Function):
    """The host's RMS norm over channels with its gradient written out: half of the memory traffic."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        scale = x.square().mean(1, keepdim=True).clamp_min_(1e-20).rsqrt_()
        ctx.save_for_backward(x, gamma, scale)
        return (x * scale).mul_(gamma)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, gamma, scale = ctx.saved_tensors
        unit = x * scale
        along = gradient * unit
        of_gamma = along.sum([dim for dim in range(x.ndim) if dim != 1]).view_as(gamma)
        share = along.mul_(gamma).mean(1, keepdim=True)
        return (gradient * gamma).addcmul_(unit, share, value=-1).mul_(scale), of_gamma


def _fold(x: torch.Tensor) -> torch.Tensor:
    """[B, C, T, H, W] -> one-frame videos [B * T, C, 1, H, W]."""
    return x.transpose(1, 2).flatten(0, 1).unsqueeze(2)


def _unfold(x: torch.Tensor, batch: int) -> torch.Tensor:
    return x.squeeze(2).unflatten(0, (batch, -1)).transpose(1, 2)


def frame_features(vae: WanVAE, video: torch.Tensor) -> torch.Tensor:
    """The part of the encoder that sees each frame alone: [B, 3, T, H, W] -> [B, 2 * WIDTH, T, H / 4, W / 4]."""
    encoder = vae.encoder
    layout = torch.channels_last_3d if DEVICE.type == "cpu" else torch.contiguous_format
    x = encoder.conv1(_fold(video).contiguous(memory_format=layout))
    for layer in encoder.downsamples:
        mode = getattr(layer, "mode", None)
        x = layer.resample(x.squeeze(2)).unsqueeze(2) if mode else layer(x)
        if mode == "downsample3d":
            return _unfold(x, len(video))
    raise AssertionError("a Wan encoder has a temporal stride")


def encode_mixed(vae: WanVAE, features: torch.Tensor) -> torch.Tensor:
    """The rest of the encoder: frame features [B, C, 1 + 4n, H / 4, W / 4] -> latents [B, 16, 1 + n, H / 8, W / 8]."""
    encoder, batch = vae.encoder, len(features)
    modes = [getattr(layer, "mode", None) for layer in encoder.downsamples]
    first = modes.index("downsample3d")
    x = _every_second(encoder.downsamples[first], features)
    for layer in encoder.downsamples[first + 1 :]:
        if isinstance(layer, Resample):
            x = _every_second(layer, _unfold(layer.resample(_fold(x).squeeze(2)).unsqueeze(2), batch))
        else:
            x = layer(x)
    for layer in (*encoder.middle, *encoder.head):
        x = layer(x)
    return vae.conv1(x).chunk(2, dim=1)[0]


def _every_second(layer: Resample, x: torch.Tensor) -> torch.Tensor:
    """The first frame as it is, then one frame of every two."""
    return torch.cat([x[:, :, :1], layer.time_conv(x)], 2) if x.shape[2] > 1 else x


def encode(vae: WanVAE, video: torch.Tensor) -> torch.Tensor:
    """Latents [B, 16, 1 + n, H / 8, W / 8] of clips [B, 3, 1 + 4n, H, W] in [-1, 1]."""
    return encode_mixed(vae, frame_features(vae, video))


def decode(vae: WanVAE, latents: torch.Tensor) -> torch.Tensor:
    """Clips [B, 3, 1 + 4n, H, W] of latents."""
    batch, decoder = len(latents), vae.decoder
    x = decoder.conv1(vae.conv2(latents))
    for layer in decoder.middle:
        x = layer(x)
    strides = sum(getattr(layer, "mode", None) == "upsample3d" for layer in decoder.upsamples)
    for layer in decoder.upsamples:
        mode = getattr(layer, "mode", None)
        if mode is None:
            x = layer(x)
            continue
        if mode == "upsample3d":
            if x.shape[2] > 1:
                pair = layer.time_conv(x[:, :, 1:]).unflatten(1, (2, -1))
                later = torch.stack([pair[:, 0], pair[:, 1]], 3).flatten(2, 3)
                x = torch.cat([x[:, :, :1], later], 2)
            strides -= 1
            x = layer.resample(_fold(x).squeeze(2)).unsqueeze(2)
            x = _unfold(x, batch) if strides else x
        else:
            x = layer.resample(x.squeeze(2)).unsqueeze(2)
    for layer in decoder.head:
        x = layer(x)
    return _unfold(x, batch)


def to_video(frames: np.ndarray) -> torch.Tensor:
    """uint8 [B, T, H, W, 3] -> float [B, 3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(frames).to(DEVICE).movedim(-1, 1).float() / 127.5 - 1


def losses(vae: WanVAE, video: torch.Tensor, fast: Callable | None = None) -> dict[str, torch.Tensor]:
    """fast: `decode` of this autoencoder, compiled."""
    latents = encode(vae, video)
    noisy = latents + LATENT_NOISE * torch.randn_like(latents)
    if fast is None:
        picture = decode(vae, noisy)
    else:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=BFLOAT16):
            picture = fast(noisy).float()
    difference = picture - video
    size = latents.square().mean()
    loss = (importance(video) * (difference.abs() + difference.square())).mean() + LATENT_PENALTY * size
    psnr = 10 * torch.log10(4 / difference.detach().square().mean())
    return {"loss": loss, "psnr": psnr, "latent_size": size.detach()}


def importance(video: torch.Tensor) -> torch.Tensor:
    """Weight of each pixel in the loss, 1 on average: bright colours and what is next to them count most.

    That is the characters: a tenth of the picture, and all that has detail.
    """
    bright = (video.amax(1, keepdim=True) - video.amin(1, keepdim=True) > 0.9).float()
    near = max_pool3d(bright, (1, 7, 7), stride=1, padding=(0, 3, 3))
    weight = 1 + CHARACTERS * near
    return weight / weight.mean()


def train_autoencoder(start: Path | None) -> None:
    """From scratch, or from the trained file in folder `start`."""
    torch.manual_seed(0)
    vae = new_autoencoder()
    if start is not None:
        wan = Wan21()
        gain, offset = 1 / wan.latents_std.flatten(), -wan.latents_mean.flatten() / wan.latents_std.flatten()
        vae.load_state_dict(with_latents_scaled(trained(start, "vae"), gain, offset))
    batches: Iterator[np.ndarray] | None = None

    def losses_of_step(step: int) -> Iterator[dict[str, torch.Tensor]]:
        nonlocal batches
        batches = batches or ahead(batch, range(step, SCHEDULE.steps))
        yield losses(vae, to_video(next(batches)))

    save_finished("vae", with_unit_latents(vae, train("vae", vae, SCHEDULE, losses_of_step)))


def train_decoder(start: Path | None, steps: int | None) -> None:
    """The decoder alone, of the trained autoencoder or of the exported one in folder `start`.

    Latents stay what they are, so whatever was trained on them goes on as it is.
    """
    torch.manual_seed(4)
    vae, schedule = new_autoencoder(), DECODER.shortened(steps)
    vae.load_state_dict(load_finished("vae") if start is None else trained(start, "vae"))
    for encoder in (vae.encoder, vae.conv1):
        encoder.requires_grad_(False)
    torch._dynamo.config.recompile_limit = 64  # a compiled layer for each size of its input
    fast = torch.compile(partial(decode, vae), dynamic=False)
    batches: Iterator[np.ndarray] | None = None

    def losses_of_step(step: int) -> Iterator[dict[str, torch.Tensor]]:
        nonlocal batches
        batches = batches or ahead(clips_batch, range(step, schedule.steps))
        yield losses(vae, to_video(next(batches)), fast)

    save_finished("vae", train("decoder", vae, schedule, losses_of_step))


def clips_batch(step: int) -> np.ndarray:
    """Short clips, whole in turn with squares around a character."""
    seed = 300_000 + step
    return random_frames(seed, 3 * BATCH, 9, crop=48) if step % 2 else random_frames(seed, 20, 9)


def batch(step: int) -> np.ndarray:
    """Single frames, many different characters for the price of one clip, in turn with clips.

    A clip has nine frames: in them every layer meets its whole past.
    """
    seed = 100_000 + step
    if step % 2:
        return random_frames(seed, 4 * BATCH, 9, crop=48)
    return random_frames(seed, 10 * BATCH, 1) if step % 4 == 0 else random_frames(seed, 24 * BATCH, 1, crop=48)


def load_autoencoder() -> WanVAE:
    """The trained autoencoder."""
    vae = new_autoencoder()
    vae.load_state_dict(load_finished("vae"))
    return vae


@torch.no_grad()
def with_unit_latents(vae: WanVAE, weights: dict[str, torch.Tensor], clips: int = 60) -> dict[str, torch.Tensor]:
    """The same autoencoder whose latents, as the host normalises them, have mean 0 and deviation 1 per channel."""
    vae.load_state_dict(weights)
    latents = torch.cat([encode(vae, to_video(random_frames(200_000 + index, 1, FRAMES))) for index in range(clips)])
    channels = latents.transpose(0, 1).flatten(1)
    mean, std = channels.mean(1), channels.std(1)
    gain = Wan21().latents_std.flatten() / std
    return with_latents_scaled(weights, gain, Wan21().latents_mean.flatten() - mean * gain)


def with_latents_scaled(
    weights: dict[str, torch.Tensor], gain: torch.Tensor, offset: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The same autoencoder with latents gain * z + offset, per channel: the two 1x1 convolutions take it up."""
    weight, bias = weights["conv1.weight"].clone(), weights["conv1.bias"].clone()
    weight[:LATENT_CHANNELS] *= gain[:, None, None, None, None]
    bias[:LATENT_CHANNELS] = bias[:LATENT_CHANNELS] * gain + offset
    back = weights["conv2.weight"] / gain[None, :, None, None, None]
    return weights | {
        "conv1.weight": weight,
        "conv1.bias": bias,
        "conv2.weight": back,
        "conv2.bias": weights["conv2.bias"] - back.flatten(1) @ offset,
    }
