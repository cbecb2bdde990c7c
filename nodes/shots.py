"""How a shot begins, and how it is joined to the one before."""

import torch
from comfy_api.latest import io

from ..storymem_core.errors import InputError
from ..storymem_core.transitions import OVERLAP, Transition, join_shots
from .types import Shot
from .types import Transition as TransitionType


class StoryMemShotTransition(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemShotTransition",
            display_name="Shot Transition",
            category="StoryMem/shots",
            description="How the next shot begins: with a cut, or by continuing the previous shot's last frames.",
            search_aliases=["storymem", "multi-shot", "continue", "cut"],
            inputs=[
                io.Combo.Input(
                    "kind",
                    options=list(OVERLAP),
                    default="cut",
                    tooltip="cut: a new picture, only memory is carried over (M2V). first_frame: goes on from the "
                    "last frame (MI2V). motion_frames: goes on from the last 5 frames and their motion (MM2V). "
                    "The StoryMem LoRA must be the one trained for it.",
                ),
                io.Image.Input(
                    "previous_images",
                    optional=True,
                    tooltip="Frames of the previous shot; its last 1 or 5 are used. Not needed for a cut.",
                ),
                Shot.Input(
                    "previous_shot",
                    optional=True,
                    tooltip="Instead of previous_images: the previous shot from Save Shot. Its last frames are read "
                    "from its files only when they are needed.",
                ),
            ],
            outputs=[
                TransitionType.Output(
                    display_name="transition", tooltip="For the sampler or Apply Memory, and Join Shots."
                )
            ],
        )

    @classmethod
    def execute(cls, kind, previous_images=None, previous_shot=None) -> io.NodeOutput:
        if previous_shot is not None:
            if previous_images is not None:
                raise InputError(
                    "previous_shot", f"shot {previous_shot.number}", "previous_images is connected too", "Connect one"
                )
            if OVERLAP[kind]:
                previous_images = torch.from_numpy(previous_shot.last_frames()).float() / 255
        return io.NodeOutput(Transition.after(kind, previous_images))


class StoryMemJoinShots(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemJoinShots",
            display_name="Join Shots",
            category="StoryMem/shots",
            description="Appends a shot to the film so far. Frames that a continued shot repeats are dropped.",
            search_aliases=["storymem", "multi-shot", "concatenate", "crossfade"],
            inputs=[
                io.Image.Input("previous_images", tooltip="The film so far, or the previous shot."),
                io.Image.Input("images", tooltip="The new shot, as decoded."),
                TransitionType.Input("transition", tooltip="The transition the new shot was sampled with."),
                io.Int.Input(
                    "crossfade",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Frames to blend. At a cut the film gets that much shorter; in a continued shot the "
                    "repeated frames (1 or 5) are blended and no frame is lost.",
                ),
                io.Boolean.Input(
                    "match_color",
                    default=False,
                    tooltip="Match brightness and colour of a continued shot to the frames it repeats. "
                    "Does nothing at a cut.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The film with the new shot.")],
        )

    @classmethod
    def execute(cls, previous_images, images, transition, crossfade, match_color) -> io.NodeOutput:
        return io.NodeOutput(join_shots(previous_images, images, transition, crossfade, match_color))
