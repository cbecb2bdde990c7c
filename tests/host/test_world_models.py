"""The trained models of the small world, through the nodes that a user wires: memory alone carries looks."""

import numpy as np
import pytest
from PIL import Image

from evaluation.produce import SAMPLING, SHIFT, SIZE, Models
from host_graph import Graph, memory_defaults
from storymem_core.bank import Keyframe, MemoryBank
from storymem_core.embedders import ColorLayout
from storymem_core.script import parse_story
from storymem_core.storage import save_bank
from tools.demo import STORY, WORKFLOW, count_frames
from tools.demo_models import WEIGHTS, WORLD_MODELS
from tools.small_world.measure import measure_characters, measure_place
from tools.small_world.render import render
from tools.small_world.world import FRAMES, GROUND_COLOURS, SKY_COLOURS, Character, Place, Shot, random_clip
from tools.story import StoryClient, make_job, read_workflow, run_story

MODELS = Models()
LIMIT = 16e6  # bytes of all files
HERO = Character("robot", "red", "plain", "blue", "none")
PLACES = [Place("desert", sky, ground, (16.0, 64.0)) for sky, ground in zip(SKY_COLOURS, GROUND_COLOURS, strict=True)]
CAPTION = "The robot jumps, desert, static."


def test_all_models_are_there_and_small():
    sizes = [(WEIGHTS / name.split("/")[1]).stat().st_size for name in WORLD_MODELS]
    assert sum(sizes) <= LIMIT


def memory_of(server, place: Place) -> str:
    """A bank file with three pictures of the hero in a place."""
    pictures = np.stack([render(Shot((HERO,), place, "wave", "static", (x,), (1,))).frames[0] for x in (24, 40, 56)])
    keyframes = [
        Keyframe(picture, 0, 0, embedding, ColorLayout.name, pinned=True)
        for picture, embedding in zip(pictures, ColorLayout()(pictures), strict=True)
    ]
    name = f"{place.sky}.safetensors"
    save_bank(MemoryBank().add_references(keyframes), server.base / "output" / name)
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


@pytest.mark.parametrize("left, right", [("robot", "ghost"), ("bear", "gnome"), ("ghost", "gnome")])
def test_the_caption_says_who_acts(server, left, right):
    """From one picture of two, the image-to-video model moves the one that is named first: it knows kinds by sight."""
    looks = {"pattern": "plain", "pattern_colour": "yellow", "accessory": "none"}
    cast = (Character(left, "red", **looks), Character(right, "green", **looks))
    shot = Shot(cast, PLACES[0], "wave", "static", (24.0, 72.0), (1, -1))
    picture = f"{left}-{right}.png"
    Image.fromarray(render(shot).frames[0]).save(server.base / "input" / picture)
    for actor, other in ((0, 1), (1, 0)):
        shot = Shot((cast[actor], cast[other]), PLACES[0], "jump", "static", (24.0, 72.0), (1, -1))
        graph = Graph(server.client)
        clip, vae = (
            graph.node("StoryMemDemoCLIPLoader", clip_name=MODELS.text),
            graph.node("VAELoader", vae_name=MODELS.vae),
        )
        words = [graph.node("CLIPTextEncode", clip=clip, text=text) for text in (shot.caption, "")]
        start = graph.node("LoadImage", image=picture)
        known = {"positive": words[0], "negative": words[1], "vae": vae, "start_image": start, "length": FRAMES}
        known = graph.node("WanImageToVideo", batch_size=1, **known, **SIZE)
        latent = graph.node(
            "KSampler",
            model=graph.node("ModelSamplingSD3", model=graph.model(MODELS.i2v), shift=SHIFT),
            positive=known,
            negative=[known[0], 1],
            latent_image=[known[0], 2],
            seed=1,
            denoise=1.0,
            **SAMPLING,
        )
        file = graph.write(graph.node("VAEDecode", samples=latent, vae=vae))
        graph.run()
        seen = measure_characters((graph.read(file).clamp(0, 1) * 255).round().byte().numpy(), 2)
        assert [who.looks.kind for who in seen] == [left, right]
        assert [who.action for who in seen] == (["jump", "stand"] if actor == 0 else ["stand", "jump"])


@pytest.mark.parametrize("lora", [MODELS.first_frame, MODELS.motion_frames])
def test_the_place_is_the_one_in_memory(server, lora):
    """The same words and the same noise: only memory differs, and it alone says what colours a desert has."""
    files = [memory_of(server, place) for place in PLACES]
    films = [sample(server, lora, file, 1.0) for file in files]
    seen = [measure_place(film) for film in films]
    right = [
        (found.sky == place.sky) + (found.ground == place.ground) for found, place in zip(seen, PLACES, strict=True)
    ]
    assert sum(right) >= 6, seen  # of 10; by chance 2

    without = [sample(server, lora, file, 0.0) for file in files[:2]]
    assert np.array_equal(*without)


def test_the_demo_runs(server, tmp_path):
    """In two steps a shot: its script, workflow and models fit together."""
    workflow = read_workflow(WORKFLOW)
    workflow["director"]["inputs"] |= {"steps": 2, "folder": tmp_path.name}
    job = make_job(STORY, workflow)
    run_story(StoryClient(server.client.url), job, tmp_path / "film.mp4", tmp_path / "film.png")
    assert {"cut", "first_frame", "motion_frames"} == set(job.kinds) and len(job.kinds) >= 5 and len(job.images) == 1
    assert count_frames(tmp_path / "film.mp4") == job.frames
    # The models know no other words than those of the world.
    script = parse_story(STORY.read_text())
    known = {word for seed in range(500) for word in random_clip(seed).caption.split()}
    assert all(set(shot.prompt.split()) <= known for shot in script.shots)
