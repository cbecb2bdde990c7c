"""The trained models of the small world, through the nodes that a user wires: memory alone carries looks."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from evaluation.produce import SAMPLING, SHIFT, SIZE, Models
from host_graph import Graph, memory_defaults
from storymem_core.bank import Keyframe, MemoryBank
from storymem_core.embedders import ColorLayout
from storymem_core.storage import save_bank
from tools.demo_models import WEIGHTS, WORLD_MODELS
from tools.small_world.measure import measure_characters
from tools.small_world.render import render
from tools.small_world.world import BODY_COLOURS, FRAMES, Character, Place, Shot

MODELS = Models()
LIMIT = 16e6  # bytes of all files
HERO = Character("robot", "red", "plain", "blue", "none")
PLACE = Place("desert", "pale", "grass", "moss", (10.0, 60.0))
CAPTION = "The robot jumps, desert, static."


def test_all_models_are_there_and_small():
    sizes = [(WEIGHTS / name.split("/")[1]).stat().st_size for name in WORLD_MODELS]
    assert sum(sizes) <= LIMIT


def memory_of(server, colour: str, name: str) -> str:
    """A bank file with one picture of the hero in another colour."""
    shot = Shot((replace(HERO, body=colour),), PLACE, "wave", "static", (48.0,), (1,))
    pictures = render(shot).frames[:1]
    (embedding,) = ColorLayout()(pictures)
    bank = MemoryBank().add_references([Keyframe(pictures[0], 0, 0, embedding, ColorLayout.name, pinned=True)])
    save_bank(bank, server.base / "output" / name)
    return name


def sample(server, lora: str, bank_file: str, strength: float) -> np.ndarray:
    """A shot of CAPTION with a memory, uint8 [17, 64, 96, 3]."""
    graph = Graph(server.client)
    clip = graph.node("StoryMemDemoCLIPLoader", clip_name=MODELS.text)
    vae = graph.node("VAELoader", vae_name=MODELS.vae)
    latent = graph.node(
        "StoryMemSampler",
        model=graph.node("StoryMemLoraLoader", model=graph.model(MODELS.i2v), lora_name=lora, strength=1.0),
        vae=vae,
        positive=graph.node("CLIPTextEncode", clip=clip, text=CAPTION),
        negative=graph.node("CLIPTextEncode", clip=clip, text=""),
        bank=graph.node("StoryMemLoadBank", bank_file=bank_file),
        transition=graph.transition("cut"),
        length=FRAMES,
        seed=1,
        shift=SHIFT,
        boundary=0.0,
        **memory_defaults(memory_strength=strength),
        **SIZE,
        **SAMPLING,
    )
    file = graph.write(graph.node("VAEDecode", samples=latent, vae=vae))
    graph.run()
    return (graph.read(file).clamp(0, 1) * 255).round().byte().numpy()


@pytest.mark.parametrize("lora", [MODELS.first_frame, MODELS.motion_frames])
def test_the_hero_has_the_colour_it_has_in_memory(server, lora):
    """The same words, the same noise: only memory differs."""
    seen, films = {}, {}
    for colour in BODY_COLOURS:
        films[colour] = sample(server, lora, memory_of(server, colour, f"{colour}.safetensors"), 1.0)
        found = measure_characters(films[colour], 1)
        seen[colour] = found[0].looks.body if found else None
    assert sum(colour == body for colour, body in seen.items()) >= 5, seen

    without = [sample(server, lora, f"{colour}.safetensors", 0.0) for colour in list(BODY_COLOURS)[:2]]
    assert np.array_equal(*without)
    assert all(np.abs(a.astype(int) - b).mean() > 1 for a, b in pairwise(films.values()))
