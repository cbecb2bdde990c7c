"""Finished shots: written at once, found again, and joined to the film. Story Director builds with these."""

import json
import time
from pathlib import Path

import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import InputImpl, io, ui
from comfy_execution.graph import ExecutionBlocker
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..storymem_core.bank import read_labels
from ..storymem_core.contact_sheet import contact_sheet
from ..storymem_core.film import count_frames, join_videos, replace_file
from ..storymem_core.shot_files import ShotFiles, load_shot, save_shot
from ..storymem_core.storage import resolve_inside
from ..storymem_core.transitions import OVERLAP, join_shots
from .host.latents import decode
from .keyframes import BUILT_IN, choose_embedder, extract_keyframes, selection_inputs
from .pictures import to_pictures
from .types import Bank, Shot, Transition

LAST_FRAMES = max(OVERLAP.values())


def output_root() -> Path:
    return Path(folder_paths.get_output_directory())


def name_of(path: Path) -> str:
    """A path inside the output folder, as inputs of nodes give it."""
    return path.relative_to(output_root().resolve()).as_posix()


def saved_result(path: Path) -> ui.SavedResult:
    """How the host names a file of its output folder."""
    relative = path.relative_to(output_root().resolve())
    return ui.SavedResult(relative.name, relative.parent.as_posix(), io.FolderType.output)


def workflow_tags(hidden) -> dict[str, str]:
    """What the host writes into its own files, so that one dropped onto the canvas opens the workflow."""
    values = {} if args.disable_metadata else {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {name: json.dumps(value) for name, value in values.items() if value is not None}


def shot_outputs() -> list:
    return [
        Shot.Output(display_name="shot", tooltip="The finished shot, with all before it."),
        Bank.Output(display_name="bank", tooltip="The memory after this shot."),
    ]


def outputs_of(shot: ShotFiles, bank, reused: bool) -> io.NodeOutput:
    """The outputs of a finished shot. Its picture is shown on its node and on the storyboard.

    No video: on a node that showed one, the front end takes the live previews of the next shot for videos too.
    """
    thumbnail = saved_result(shot.thumbnail)
    shown = {"number": shot.number, "reused": reused, "thumbnail": thumbnail}
    return io.NodeOutput(shot, bank, ui={"images": [thumbnail], "storymem_shot": [shown]})


class StoryMemSaveShot(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemSaveShot",
            display_name="Save Shot",
            category="StoryMem/story",
            description="Decodes a shot, joins it to the one before, stores its keyframes and writes it all to disk at "
            "once: video, memory and a manifest. Frames do not stay in memory.",
            search_aliases=["storymem", "multi-shot"],
            inputs=[
                io.Latent.Input("latent", tooltip="The sampled shot, without memory frames."),
                io.Vae.Input("vae", tooltip="The Wan 2.1 VAE."),
                Bank.Input("bank", tooltip="The memory the shot was sampled with."),
                Transition.Input("transition", tooltip="The transition the shot was sampled with."),
                Shot.Input("previous", optional=True, tooltip="The shot before. Without it the film begins here."),
                io.String.Input("folder", tooltip="Folder of the finished shot in the output folder."),
                io.Int.Input("number", default=1, min=1, max=9999, tooltip="Number of the shot in the story."),
                io.Float.Input("fps", default=16.0, min=1.0, max=240.0, tooltip="Frames per second."),
                io.Int.Input(
                    "crossfade",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Frames to blend with the shot before; at a continuation at most the 1 or 5 it repeats.",
                ),
                io.Int.Input(
                    "keep_last",
                    default=LAST_FRAMES,
                    min=LAST_FRAMES,
                    max=4097,
                    tooltip="Last frames to keep without loss, for the next shot: 5 to continue, more to cross-fade.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "match_color",
                    default=False,
                    tooltip="Match brightness and colour of a continuation to the frames it repeats.",
                ),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="As for the Keyframe Extractor."),
                *selection_inputs(),
                io.String.Input(
                    "label",
                    default="",
                    tooltip="Who and what the shot shows, names with commas between: the label of its keyframes. "
                    "They repeat only pictures that show the same.",
                ),
            ],
            outputs=shot_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        # always new, as what was written may have been deleted since; NaN would make the saved workflow no JSON
        return time.time_ns()

    @classmethod
    def execute(
        cls,
        latent,
        vae,
        bank,
        transition,
        folder,
        number,
        fps,
        crossfade,
        keep_last,
        match_color,
        threshold,
        max_keyframes,
        quality,
        quality_threshold,
        label,
        previous=None,
        clip_vision=None,
    ) -> io.NodeOutput:
        path = resolve_inside(output_root(), folder, "folder")
        images = decode(vae, latent)
        first = 0  # frame of `images` with which the shot begins in the film
        if previous is None:
            crossfade = 0
        else:
            before = torch.from_numpy(previous.last_frames()).float() / 255
            images = join_shots(before, images, transition, crossfade, match_color)
            first = len(before) - crossfade
        images = to_pictures(images, "latent")
        pictures = images[first:]
        recalled = [keyframe.id for keyframe in bank.recall(labels=read_labels(label))]
        embedder = choose_embedder(clip_vision, BUILT_IN)
        settings = (threshold, max_keyframes, quality, quality_threshold, label)
        bank, _, _ = extract_keyframes(pictures, bank, embedder, *settings)
        # A continuation is one take with the shot before: what continues it may reach back into that one.
        last = (images if transition.overlap else pictures)[-keep_last:]
        shot = save_shot(path, number, pictures, last, fps, bank, recalled, crossfade, previous)
        return outputs_of(shot, bank, reused=False)


class StoryMemLoadShot(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemLoadShot",
            display_name="Load Shot",
            category="StoryMem/story",
            description="A shot that Save Shot has written, instead of sampling it again.",
            search_aliases=["storymem", "multi-shot"],
            inputs=[
                Shot.Input("previous", optional=True, tooltip="The shot before."),
                io.String.Input("folder", tooltip="Folder of the finished shot in the output folder."),
                io.Boolean.Input(
                    "continued",
                    default=True,
                    tooltip="Read its memory, for a shot that is sampled next. Else it stays on disk.",
                ),
            ],
            outputs=shot_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return time.time_ns()

    @classmethod
    def execute(cls, folder, continued, previous=None) -> io.NodeOutput:
        shot = load_shot(resolve_inside(output_root(), folder, "folder"), previous)
        return outputs_of(shot, shot.bank() if continued else ExecutionBlocker(None), reused=True)


class StoryMemFilm(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemFilm",
            display_name="Film of Shots",
            category="StoryMem/story",
            description="Joins the finished shots to one film, without decoding them, and draws the memory as a sheet.",
            search_aliases=["storymem", "multi-shot"],
            inputs=[
                Shot.Input("shot", tooltip="The last shot of the story."),
                io.String.Input("film", tooltip="Name of the film in the output folder, ending in .mp4."),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The film, for Save Video."),
                Bank.Output(display_name="bank", tooltip="The memory after the story."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return time.time_ns()

    @classmethod
    def execute(cls, shot, film) -> io.NodeOutput:
        tags = workflow_tags(cls.hidden)
        path = resolve_inside(output_root(), film, "film")
        shots = shot.story()
        replaced = [later.replaced for later in shots[1:]] + [0]
        parts = [(one.video, left_out) for one, left_out in zip(shots, replaced, strict=True)]
        replace_file(path, lambda part: join_videos(part, parts, tags))

        bank = shot.bank()
        before = bank.shots - shot.number  # shots the memory had absorbed before this story
        recalled_by: dict[str, list[int]] = {}
        for one in shots:
            for keyframe in one.recalled:
                recalled_by.setdefault(keyframe, []).append(before + one.number)
        sheet = contact_sheet(bank.keyframes, recalled_by)
        text = PngInfo()
        for name, value in tags.items():
            text.add_text(name, value)
        memory = path.with_suffix(".png")
        replace_file(memory, lambda part: Image.fromarray(sheet).save(part, "PNG", pnginfo=text))
        shown = {
            "images": [saved_result(path), saved_result(memory)],
            "storymem_shots": [
                {
                    "number": one.number,
                    "frames": one.frames - left_out,
                    "recalled": len(one.recalled),
                    "keyframes": sum(keyframe.shot == before + one.number for keyframe in bank.keyframes),
                }
                for one, left_out in zip(shots, replaced, strict=True)
            ],
            "storymem_frames": [count_frames(path)],
        }
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), bank, ui=shown)
