"""Finished shots: written at once, found again, and joined to the film. Story Director builds with these."""

from pathlib import Path

import cv2
import folder_paths
import torch
from comfy_api.latest import InputImpl, io, ui
from comfy_execution.graph import ExecutionBlocker

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


def saved_result(path: Path) -> ui.SavedResult:
    """How the host names a file of its output folder."""
    relative = path.relative_to(output_root().resolve())
    return ui.SavedResult(relative.name, relative.parent.as_posix(), io.FolderType.output)


def shot_outputs() -> list:
    return [
        Shot.Output(display_name="shot", tooltip="The finished shot, with all before it."),
        Bank.Output(display_name="bank", tooltip="The memory after this shot."),
        io.Image.Output(display_name="last_frames", tooltip="What the next shot may continue."),
    ]


def outputs_of(shot: ShotFiles, bank) -> io.NodeOutput:
    last = torch.from_numpy(shot.last_frames()).float() / 255
    return io.NodeOutput(shot, bank, last, ui=preview_of(shot))


def preview_of(shot: ShotFiles) -> ui.PreviewVideo:
    return ui.PreviewVideo([saved_result(shot.video)])


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
                ),
                io.Boolean.Input(
                    "match_color",
                    default=False,
                    tooltip="Match brightness and colour of a continuation to the frames it repeats.",
                ),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="As for the Keyframe Extractor."),
                *selection_inputs(),
                io.String.Input("label", default="", tooltip="A name for the shot's keyframes."),
            ],
            outputs=shot_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> float:
        return float("nan")  # what was written may have been deleted since

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
        recalled = [keyframe.id for keyframe in bank.recall()]
        embedder = choose_embedder(clip_vision, BUILT_IN)
        settings = (threshold, max_keyframes, quality, quality_threshold, label)
        bank, _, _ = extract_keyframes(pictures, bank, embedder, *settings)
        # A continuation is one take with the shot before: what continues it may reach back into that one.
        last = (images if transition.overlap else pictures)[-keep_last:]
        shot = save_shot(path, number, pictures, last, fps, bank, recalled, crossfade, previous)
        return outputs_of(shot, bank)


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
                    tooltip="Read its memory and last frames, for a shot that is sampled next. Else they stay on disk.",
                ),
            ],
            outputs=shot_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> float:
        return float("nan")

    @classmethod
    def execute(cls, folder, continued, previous=None) -> io.NodeOutput:
        shot = load_shot(resolve_inside(output_root(), folder, "folder"), previous)
        if continued:
            return outputs_of(shot, shot.bank())
        return io.NodeOutput(shot, ExecutionBlocker(None), ExecutionBlocker(None), ui=preview_of(shot))


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
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> float:
        return float("nan")

    @classmethod
    def execute(cls, shot, film) -> io.NodeOutput:
        path = resolve_inside(output_root(), film, "film")
        shots = shot.story()
        replaced = [later.replaced for later in shots[1:]] + [0]
        parts = [(one.video, left_out) for one, left_out in zip(shots, replaced, strict=True)]
        replace_file(path, lambda part: join_videos(part, parts))

        bank = shot.bank()
        before = bank.shots - shot.number  # shots the memory had absorbed before this story
        recalled_by: dict[str, list[int]] = {}
        for one in shots:
            for keyframe in one.recalled:
                recalled_by.setdefault(keyframe, []).append(before + one.number)
        sheet = cv2.cvtColor(contact_sheet(bank.keyframes, recalled_by), cv2.COLOR_RGB2BGR)
        memory = path.with_suffix(".png")
        replace_file(memory, lambda part: part.write_bytes(cv2.imencode(".png", sheet)[1]))
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
