"""How a shot begins, and how it is joined to the one before (StoryMem, arXiv 2512.19539: M2V, MI2V, MM2V)."""

from dataclasses import dataclass

import torch

from .errors import InputError

# kind -> pixel frames at the start of a shot that repeat the end of the shot before
OVERLAP = {"cut": 0, "first_frame": 1, "motion_frames": 5}


@dataclass(frozen=True, eq=False)
class Transition:
    """How a shot begins: a key of OVERLAP, and the frames it begins with.

    frames: float [overlap, H, W, 3] in 0..1, None for a cut.
    """

    kind: str
    frames: torch.Tensor | None = None

    @property
    def overlap(self) -> int:
        """Pixel frames shared with the shot before: 0, 1 or 5."""
        return OVERLAP[self.kind]

    @classmethod
    def after(cls, kind: str, previous_images: torch.Tensor | None) -> "Transition":
        """The transition of this kind out of a shot, float [N, H, W, 3] in 0..1; a cut takes nothing from it.

        Raises InputError on an unknown kind, and on a shot that is missing, too short or not finite.
        """
        if kind not in OVERLAP:
            raise InputError("kind", kind, "unknown transition", f"Choose one of {', '.join(OVERLAP)}")
        overlap = OVERLAP[kind]
        if overlap == 0:
            return cls(kind)
        if previous_images is None:
            problem = f"{kind} continues the previous shot"
            raise InputError("previous_images", None, problem, "Connect its images, or choose cut")
        if len(previous_images) < overlap:
            problem = f"{kind} needs its last {overlap}"
            remedy = "Connect the whole previous shot, or choose another kind"
            raise InputError("previous_images", f"{len(previous_images)} frames", problem, remedy)
        # a copy, so that the transition does not keep the whole shot in memory
        frames = previous_images[-overlap:].clone()
        _check_images("previous_images", frames)
        return cls(kind, frames)


def join_shots(
    previous: torch.Tensor,
    images: torch.Tensor,
    transition: Transition,
    crossfade: int = 0,
    match_color: bool = False,
) -> torch.Tensor:
    """Append a shot to the frames before it, without the frames that it repeats.

    previous [P, H, W, 3] and images [N, H, W, 3]: float in 0..1 -> [P + N - overlap, H, W, 3].
    crossfade: frames to blend, the new shot's weight rising as 1/(n+1) .. n/(n+1). After a cut these are the
    last n frames of `previous` with the first n of `images`, and the result is n frames shorter; in a
    continuation the last n of the frames that both shots show, at most `overlap`.
    match_color: undo a drift of brightness, contrast or colour over a continuation. Per channel, the gain and
    offset that give the repeated frames the mean and deviation of the originals are applied to the whole new
    shot; where the gain would be 2 or more, or half or less, only the offset. A cut is never matched.
    Raises InputError on other shapes, sizes that differ, values not finite, and too few frames.
    """
    _check_images("previous_images", previous)
    _check_images("images", images)
    overlap = transition.overlap
    if previous.shape[1:] != images.shape[1:]:
        (h, w), (before_h, before_w) = images.shape[1:3], previous.shape[1:3]
        raise InputError(
            "images", f"{w}x{h}", f"the previous shot is {before_w}x{before_h}", "Use one size for all shots"
        )
    if len(images) <= overlap:
        problem = f"all of them repeat the previous shot ({transition.kind})"
        remedy = "Connect the whole decoded shot"
        raise InputError("images", f"{len(images)} frames", problem, remedy)
    if len(previous) < overlap:
        problem = f"{transition.kind} continues its last {overlap}"
        raise InputError("previous_images", f"{len(previous)} frames", problem, "Connect the whole shot")
    longest = overlap or min(len(previous), len(images)) - 1
    if not 0 <= crossfade <= longest:
        continued = f"a continuation blends the repeated frames only: {overlap} here"
        problem = continued if overlap else f"the shots have {len(previous)} and {len(images)} frames"
        raise InputError("crossfade", crossfade, problem, f"Set 0..{longest}")

    if match_color and overlap:
        images = _match_color(images, images[:overlap], previous[-overlap:])
    if crossfade == 0:
        return torch.cat([previous, images[overlap:]])
    end = overlap or crossfade
    weight = torch.arange(1, crossfade + 1, dtype=images.dtype, device=images.device) / (crossfade + 1)
    blend = torch.lerp(previous[-crossfade:], images[end - crossfade : end], weight.view(-1, 1, 1, 1))
    return torch.cat([previous[:-crossfade], blend, images[end:]])


def _match_color(images: torch.Tensor, drifted: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Apply the affine map per channel that takes mean and deviation of `drifted` to those of `original`.

    Equal moments need no pixel correspondence: noise or motion between the two versions would bias a
    least-squares gain towards 0, i.e. grey.
    """
    mean, target_mean = (frames.double().mean((0, 1, 2)) for frames in (drifted, original))
    deviation, target_deviation = (frames.double().std((0, 1, 2)) for frames in (drifted, original))
    gain = target_deviation / deviation
    # further from 1 it is no drift but another picture; a constant channel gives infinity or NaN
    gain[~((gain > 0.5) & (gain < 2))] = 1
    offset = target_mean - gain * mean
    return (images * gain.to(images)).add_(offset.to(images)).clamp_(0, 1)


def _check_images(name: str, images: torch.Tensor) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or images.numel() == 0 or not images.is_floating_point():
        value = f"{images.dtype} {list(images.shape)}"
        raise InputError(name, value, "not RGB images", "Give float images [N, H, W, 3]")
    # extremes carry NaN and infinity along: one pass, no mask as large as the video
    if not torch.stack(torch.aminmax(images)).isfinite().all():
        raise InputError(name, f"{len(images)} frames", "NaN or infinite values", "Decode the shot again")
