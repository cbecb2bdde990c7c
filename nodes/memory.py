"""The memory bank: recall settings and references, saving and loading."""

import time
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..storymem_core.bank import POLICIES, Keyframe, MemoryBank
from ..storymem_core.edits import read_edits
from ..storymem_core.embedders import ColorLayout
from ..storymem_core.errors import InputError
from ..storymem_core.storage import load_bank, resolve_inside, save_bank
from .pictures import flags, strip, to_images, to_pictures
from .types import Bank

SUFFIX = ".safetensors"


def references(images, labels: str) -> list[Keyframe]:
    """Pinned keyframes of an IMAGE batch; `labels` has one line per image, or nothing."""
    pictures = to_pictures(images, "reference_images")
    names = [line.strip() for line in labels.strip().splitlines()] or [""] * len(pictures)
    if len(names) != len(pictures):
        raise InputError(
            "reference_labels",
            labels,
            f"has {len(names)} lines for {len(pictures)} reference images",
            "Write one line per image, or none",
        )
    embedder = ColorLayout()
    embeddings = embedder(pictures)
    return [
        Keyframe(picture, 0, i, embedding, embedder.name, label=name, pinned=True)
        for i, (picture, embedding, name) in enumerate(zip(pictures, embeddings, names, strict=True))
    ]


class StoryMemMemoryBank(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemMemoryBank",
            display_name="Memory Bank",
            category="StoryMem/memory",
            description="The story's memory: how many keyframes a shot recalls, and reference images of people "
            "and places. Shows its keyframes, to pin, exclude, label and reorder. Recalling forgets nothing.",
            search_aliases=["storymem", "memory", "consistency", "multi-shot", "reference images"],
            inputs=[
                Bank.Input("bank", optional=True, tooltip="Memory so far. Without it a new story begins."),
                io.Image.Input(
                    "reference_images",
                    optional=True,
                    tooltip="Pictures of people and places to recall in every shot (MR2V).",
                ),
                io.String.Input(
                    "reference_labels",
                    optional=True,
                    multiline=True,
                    default="",
                    tooltip="Names of the reference images, one per line.",
                ),
                io.Int.Input(
                    "capacity",
                    default=10,
                    min=1,
                    max=256,
                    tooltip="Most keyframes one shot recalls. The released weights know up to 10.",
                ),
                io.Int.Input(
                    "sink",
                    default=3,
                    min=0,
                    max=256,
                    tooltip="How many of the first keyframes ever stored are always recalled.",
                ),
                io.Combo.Input(
                    "policy",
                    options=list(POLICIES),
                    default="sliding_window",
                    tooltip="sliding_window: references and the sink, then the most recent keyframes. same_labels: "
                    "the same, of those alone that show who and what the shot shows, by their labels.",
                ),
                io.String.Input(
                    "edits",
                    optional=True,
                    default="",
                    socketless=True,
                    extra_dict={"hidden": True},
                    tooltip="What was pinned, excluded, labelled and reordered by hand on this node, as JSON.",
                ),
            ],
            outputs=[
                Bank.Output(display_name="bank", tooltip="For the sampler and the Keyframe Extractor."),
                io.Image.Output(display_name="keyframes", tooltip="What the next shot would recall."),
            ],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls, capacity, sink, policy, bank=None, reference_images=None, reference_labels="", edits=""
    ) -> io.NodeOutput:
        bank = (bank or MemoryBank()).with_settings(capacity, sink, policy)
        if reference_images is not None:
            stored = {keyframe.id for keyframe in bank.keyframes}
            new = references(reference_images, reference_labels)
            bank = bank.add_references([keyframe for keyframe in new if keyframe.id not in stored])
        elif reference_labels.strip():
            raise InputError(
                "reference_labels", reference_labels, "names no image", "Connect reference_images or clear it"
            )
        by_hand = read_edits(edits)
        edited = by_hand.apply(bank)
        shown = strip(edited, edited.keyframes)
        for keyframe, place in zip(shown["storymem_keyframes"], by_hand.places(bank.keyframes), strict=True):
            keyframe["unedited"] = {"place": place, **flags(bank.keyframes[place])}
        return io.NodeOutput(edited, to_images(edited.preview()), ui={**shown, "storymem_edits": [edits]})


class StoryMemSaveBank(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemSaveBank",
            display_name="Save Memory Bank",
            category="StoryMem/memory",
            description="Writes the memory to one .safetensors file in ComfyUI's output folder.",
            search_aliases=["storymem", "memory"],
            inputs=[
                Bank.Input("bank", tooltip="The memory to keep."),
                io.String.Input(
                    "filename_prefix",
                    default="storymem/bank",
                    tooltip="Name in the output folder; a number is added so that no file is overwritten.",
                ),
            ],
            outputs=[
                Bank.Output(display_name="bank", tooltip="The same memory."),
                io.String.Output(
                    display_name="bank_file",
                    tooltip="The file's name in the output folder, for Load Memory Bank.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, bank, filename_prefix) -> io.NodeOutput:
        root = Path(folder_paths.get_output_directory())
        prefix = resolve_inside(root, filename_prefix, "filename_prefix")
        prefix.parent.mkdir(parents=True, exist_ok=True)
        taken = {path.name for path in prefix.parent.iterdir()}
        number = next(n for n in range(1, len(taken) + 2) if f"{prefix.name}_{n:05}{SUFFIX}" not in taken)
        path = prefix.with_name(f"{prefix.name}_{number:05}{SUFFIX}")
        save_bank(bank, path)
        name = path.relative_to(root.resolve()).as_posix()
        return io.NodeOutput(bank, name, ui={"text": [name]})


class StoryMemLoadBank(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StoryMemLoadBank",
            display_name="Load Memory Bank",
            category="StoryMem/memory",
            description="Reads a memory that Save Memory Bank wrote, from ComfyUI's output folder.",
            search_aliases=["storymem", "memory"],
            inputs=[
                io.String.Input(
                    "bank_file",
                    default="storymem/bank_00001.safetensors",
                    tooltip="File in the output folder, as Save Memory Bank names it.",
                ),
            ],
            outputs=[
                Bank.Output(display_name="bank", tooltip="The memory."),
                io.Image.Output(display_name="keyframes", tooltip="What the next shot would recall."),
            ],
            has_intermediate_output=True,
        )

    @classmethod
    def fingerprint_inputs(cls, bank_file) -> int:
        if bank_file is None:  # comes through a link: unknown until the node runs
            return time.time_ns()
        path = resolve_inside(Path(folder_paths.get_output_directory()), bank_file)
        return path.stat().st_mtime_ns if path.exists() else 0

    @classmethod
    def execute(cls, bank_file) -> io.NodeOutput:
        bank = load_bank(resolve_inside(Path(folder_paths.get_output_directory()), bank_file))
        return io.NodeOutput(bank, to_images(bank.preview()), ui=strip(bank, bank.keyframes))
