"""The evaluation's films, made with the demo models: the same as Story Director's, made once, each with its memory."""

from dataclasses import replace

import av
import cv2
import numpy as np
import pytest

from evaluation.frames import frames_of
from evaluation.methods import CHAIN, M2V, MI2V, MR2V, T2V, VAE, WRONG
from evaluation.produce import LENGTH, SAMPLING, SELECTION, SHIFT, SIZE, Models, Studio
from evaluation.tables import JUDGED_BY_WRONG
from evaluation.tale import Tale
from evaluation.world import score_method
from host_graph import HIGH, Graph
from tools.setup import BASE

DEMO = Models(
    vae="storymem_demo_vae.safetensors",
    text="storymem_demo_umt5.safetensors",
    t2v="storymem_demo_t2v.safetensors",
    i2v=HIGH,
    first_frame=HIGH,
    motion_frames=HIGH,
)


@pytest.fixture
def studio(server) -> Studio:
    return Studio(server.client, server.base / "output", DEMO, DEMO.contents(BASE / "models"))


def tale_of(*cuts: bool) -> Tale:
    """The first story that begins with these cuts, without the shots behind them."""
    tales = (Tale.of_seed(seed) for seed in range(1000))
    tale = next(tale for tale in tales if tuple(shot.cut for shot in tale.shots[: len(cuts)]) == cuts)
    return replace(tale, shots=tale.shots[: len(cuts)])


def read_video(path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_film_is_the_directors(server, studio):
    tale = tale_of(True, False, True)
    graph = Graph(server.client)
    model = graph.node("StoryMemLoraLoader", model=graph.model(), lora_name=HIGH, strength=1.0)
    script = {
        "story_name": "as the director makes it",
        "scenes": [
            {
                "scene_num": 1,
                "video_prompts": [shot.caption for shot in tale.shots],
                "cut": [shot.cut for shot in tale.shots],
            }
        ],
    }
    settings = {**SAMPLING, **SELECTION, **SIZE, "length": LENGTH, "shift": SHIFT, "fps": 8.0, "negative_prompt": ""}
    graph.director(script, model=model, model_t2v=graph.model(DEMO.t2v), seed=100 * tale.seed, **settings)
    graph.run()
    folder = server.base / "output" / "stories" / "as_the_director_makes_it"
    expected = [read_video(video) for video in sorted(folder.glob("*/video.mp4"))]
    made = studio.make(tale, MI2V)
    assert [len(frames_of(shot)) for shot in made] == [LENGTH, LENGTH - 1, LENGTH]
    for ours, directors in zip(made, expected, strict=True):
        np.testing.assert_array_equal(read_video(ours.video), directors)


def test_finished_shots_are_taken_from_disk_and_shared(studio):
    tale = tale_of(True, True)
    first = studio.make(tale, M2V)
    nobody = replace(studio, client=None)  # would fail if it were asked for a shot
    assert nobody.make(tale, M2V) == first
    assert nobody.make(tale, replace(M2V, name="same by another name")) == first
    retrained = replace(nobody, contents={**studio.contents, HIGH: "other"})
    with pytest.raises(AttributeError):
        retrained.make(tale, M2V)
    (first[1].folder / "video.mp4").write_bytes(b"damaged")
    with pytest.raises(AttributeError):
        nobody.make(tale, M2V)
    assert studio.make(tale, M2V) == first


def test_a_shot_depends_on_the_models_that_make_it_alone(studio):
    tale = tale_of(True, True)
    made = studio.make(tale, T2V)
    nobody = replace(studio, client=None)
    assert replace(nobody, contents=studio.contents | {HIGH: "another"}).make(tale, T2V) == made
    for name in (DEMO.t2v, DEMO.vae, DEMO.text):
        with pytest.raises(AttributeError):
            replace(nobody, contents=studio.contents | {name: "another"}).make(tale, T2V)


def test_the_truth_goes_through_the_vae_alone(server, studio):
    """As the host's own nodes encode and decode it."""
    tale = tale_of(True)
    graph = Graph(server.client)
    names = []
    for number, frame in enumerate(tale.frames(1)):
        names.append(f"truth_{number}.png")
        cv2.imwrite(str(server.base / "input" / names[-1]), frame[..., ::-1])
    video = graph.node("LoadImage", image=names[0])
    for name in names[1:]:
        video = graph.node("ImageBatch", image1=video, image2=graph.node("LoadImage", image=name))
    vae = graph.vae()
    decoded = graph.node("VAEDecode", samples=graph.node("VAEEncode", pixels=video, vae=vae), vae=vae)
    written = graph.write(decoded)
    graph.run()
    expected = graph.read(written).numpy()
    (shot,) = studio.make(tale, VAE)
    np.testing.assert_allclose(frames_of(shot), 255 * expected, atol=1)


def test_every_method_has_its_own_memory_and_model(studio):
    tale = tale_of(True, True)
    films = {method.name: studio.make(tale, method) for method in (T2V, CHAIN, M2V, MR2V, WRONG)}
    seconds = {name: frames_of(film[1]) for name, film in films.items()}
    names = list(seconds)
    assert len(seconds[CHAIN.name]) == LENGTH - 1
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not np.array_equal(seconds[one], seconds[other]), (one, other)
    begun_by_text = {name: film[0] for name, film in films.items() if name != MR2V.name}
    assert len(set(begun_by_text.values())) == 1
    rows = [name for method in (T2V, MR2V, WRONG) for name in score_method(studio, tale, method)]
    assert rows == [T2V.name, MR2V.name, WRONG.name, JUDGED_BY_WRONG]
    portraits = [keyframe for keyframe in films[MR2V.name][1].bank().keyframes if keyframe.pinned]
    np.testing.assert_array_equal([keyframe.image for keyframe in portraits], tale.portraits())
