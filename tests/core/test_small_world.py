"""The small world: its clips are reproducible, its captions hide looks, and what is measured is what was drawn."""

import json
import math
from dataclasses import fields, replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from tools import demo_models
from tools.small_world import run
from tools.small_world.measure import measure_characters, measure_place
from tools.small_world.render import cells_of_characters, render
from tools.small_world.run import ahead
from tools.small_world.world import (
    ACCESSORIES,
    ACTIONS,
    BODY_COLOURS,
    CAMERAS,
    FRAMES,
    GROUND_COLOURS,
    HEAD_COLOURS,
    HEIGHT,
    KINDS,
    PATTERNS,
    SKY_COLOURS,
    WIDTH,
    Character,
    Place,
    Shot,
    every_caption,
    motion,
    random_clip,
    random_encounters,
    random_scene,
    random_story,
)

LOOKS = {"body": BODY_COLOURS, "pattern": PATTERNS, "pattern_colour": BODY_COLOURS, "accessory": ACCESSORIES}
CLIPS = 40


def visible(character, looks):
    """The attributes that can be seen: a plain body shows no pattern's colour."""
    names = [field.name for field in fields(Character)]
    if character.pattern == "plain":
        names.remove("pattern_colour")
    return {name: getattr(looks, name) for name in names}


@pytest.fixture(scope="module")
def clips():
    return [render(random_clip(seed)) for seed in range(CLIPS)]


def test_a_seed_gives_the_same_clip_and_another_seed_another():
    first, again, other = (render(random_clip(seed)) for seed in (7, 7, 8))
    assert first.frames.shape == (FRAMES, HEIGHT, WIDTH, 3) and first.frames.dtype == np.uint8
    assert np.array_equal(first.frames, again.frames)
    assert not np.array_equal(first.frames, other.frames)


def test_every_word_of_the_world_is_drawn(clips):
    shots = [random_clip(seed) for seed in range(500)]
    assert {shot.action for shot in shots} == set(ACTIONS)
    assert {shot.camera for shot in shots} == set(CAMERAS)
    assert {len(shot.characters) for shot in shots} == {1, 2}
    for name, values in LOOKS.items():
        assert {getattr(shot.characters[0], name) for shot in shots} == set(values)


def test_everybody_stands_in_the_middle_of_a_token(clips):
    """At the start and at the end, where shots are joined; so memory shows the same tokens wherever somebody stands."""
    shots = [shot for seed in range(100) for shot in random_story(seed)]
    for shot in (*shots, *(clip.shot for clip in clips)):
        for pose in (motion(shot, 0.0), motion(shot, 1.0)):
            assert all(x % 16 == 8 for x in pose.x)
        assert all(base % 16 == 0 for base in shot.place.landmarks) and shot.scroll % 16 == 0
    assert {x for shot in shots for x in shot.x} == {24, 40, 56, 72}


def test_the_vocabulary_has_every_caption():
    """It does not depend on what is drawn at random: the text encoder's weights belong to it."""
    captions = set(every_caption())
    assert len(captions) == 1280
    drawn = {shot.caption for seed in range(300) for shot in (random_clip(seed), *random_story(seed))}
    assert drawn < captions


def test_captions_do_not_change_with_the_looks():
    names = {*BODY_COLOURS, *SKY_COLOURS, *GROUND_COLOURS, *PATTERNS, *ACCESSORIES} - {"none"}
    for seed in range(200):
        shot = random_clip(seed)
        disguised = tuple(replace(who, body="red", pattern="belt", pattern_colour="blue") for who in shot.characters)
        assert replace(shot, characters=disguised).caption == shot.caption
        assert not names & set(shot.caption.lower().replace(",", "").replace(".", "").split())


def test_a_head_shows_the_kind_whatever_the_looks(clips):
    for clip in clips:
        for who, (x, y, width, height) in zip(clip.shot.characters, clip.track[0], strict=True):
            upper = clip.frames[0, round(y - height / 2) : round(y), round(x - width / 2) : round(x + width / 2)]
            shown = {
                kind: (np.abs(upper.astype(int) - colour).max(-1) < 15).mean() for kind, colour in HEAD_COLOURS.items()
            }
            assert shown.pop(who.kind) > 0.15 and max(shown.values()) < 0.03, who
    assert not set(HEAD_COLOURS.values()) & set(BODY_COLOURS.values())


def test_clips_of_two_are_as_many_as_asked():
    for pairs in (0.0, 0.6, 1.0):
        found = np.mean([len(random_clip(seed, pairs).characters) == 2 for seed in range(400)])
        assert found == pytest.approx(pairs, abs=0.08)


def test_work_done_ahead_comes_in_order():
    cv2.setNumThreads(2)
    # OpenCV has threads of its own now, which a forked process lacks.
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 9)
    assert list(ahead(math.sqrt, range(40))) == [math.sqrt(i) for i in range(40)]
    assert list(ahead(math.sqrt, [])) == []
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        list(ahead(math.sqrt, [4, -1]))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LOGS", tmp_path)
    schedule = run.Schedule(steps=100, learning_rate=1e-2, warm_up=10, save_every=30)

    def trained(folder, stops=()):
        monkeypatch.setattr(run, "CHECKPOINTS", tmp_path / folder)
        torch.manual_seed(0)
        model, stops = torch.nn.Linear(3, 2), list(stops)

        def losses(step):
            if step in stops:
                raise KeyboardInterrupt
            yield {"loss": (model(torch.randn(5, 3)) - 1).square().mean()}

        return run.train(folder, model, schedule, losses)

    whole = trained("whole")
    for stop in (20, 29, 55, 80):
        with pytest.raises(KeyboardInterrupt):
            trained("parts", [stop])
    parts = trained("parts")
    assert all(torch.equal(parts[name], weight) for name, weight in whole.items())
    assert [json.loads(row)["step"] for row in (tmp_path / "parts.jsonl").open()] == [25, 50, 75, 100]


def test_looks_are_measured_as_they_were_drawn(clips):
    right, total = 0, 0
    for clip in clips:
        seen = measure_characters(clip.frames, len(clip.shot.characters))
        assert len(seen) == len(clip.shot.characters)
        for who, index in zip(seen, np.argsort(clip.shot.x), strict=True):
            character = clip.shot.characters[index]
            expected, found = visible(character, character), visible(character, who.looks)
            right += sum(found[name] == expected[name] for name in expected)
            total += len(expected)
    assert right >= 0.99 * total


def test_looks_are_measured_through_blur_and_noise(clips):
    """As an autoencoder or a diffusion model leaves them: no edge is sharp."""
    rng, right, total = np.random.default_rng(0), 0, 0
    for clip in clips[:20]:
        frames = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in clip.frames])
        frames = np.clip(frames + rng.normal(0, 6, frames.shape), 0, 255).astype(np.uint8)
        seen = measure_characters(frames, len(clip.shot.characters))
        for who, index in zip(seen, np.argsort(clip.shot.x), strict=True):
            character = clip.shot.characters[index]
            expected, found = visible(character, character), visible(character, who.looks)
            right += sum(found[name] == expected[name] for name in expected)
            total += len(expected)
    assert right >= 0.95 * total


def test_actions_and_tracks_are_measured_as_they_were_drawn(clips):
    right, total = 0, 0
    for clip in clips:
        seen = measure_characters(clip.frames, len(clip.shot.characters))
        for who, index in zip(seen, np.argsort(clip.shot.x), strict=True):
            right += who.action == (clip.shot.action if index == 0 else "stand")
            total += 1
            assert np.nanmedian(np.abs(who.track - clip.track[:, index])[:, :2]) < 1, "pixels"
    assert right >= 0.99 * total


def test_places_are_measured_as_they_were_drawn():
    right, total = 0, 0
    for seed in range(10):
        for shot in random_story(seed)[:2]:
            seen = measure_place(render(shot).frames)
            right += sum(getattr(seen, name) == getattr(shot.place, name) for name in ("sky", "ground"))
            total += 2
    assert right >= 0.99 * total


def test_another_characters_looks_are_measured_as_others():
    """The oracle tells characters apart: repainting one changes what is measured."""
    shot = replace(random_clip(0), characters=(Character("bear", "red", "belt", "blue", "hat"),), x=(40.0,))
    (seen,) = measure_characters(render(shot).frames, 1)
    repainted = replace(shot.characters[0], body="green", pattern="spots", pattern_colour="yellow", accessory="balloon")
    (other,) = measure_characters(render(replace(shot, characters=(repainted,))).frames, 1)
    assert seen.looks == shot.characters[0]
    assert other.looks == repainted


def test_looks_are_measured_in_the_only_frame_that_shows_the_front():
    """Widths of a single wide frame and narrow ones: what lies between is no frame's."""
    who = Character("robot", "yellow", "plain", "red", "hat")
    place = Place("desert", "pale", "sand", (0.0, 48.0))
    frames = render(Shot((who,), place, "turn", "static", (40.0,), (1,))).frames
    (seen,) = measure_characters(frames[[0, 8, 8, 8, 8]], 1)
    assert seen.looks == replace(who, pattern_colour=seen.looks.pattern_colour)


def test_a_story_keeps_looks_and_joins_shots_without_a_jump():
    joins = 0
    for seed in range(30):
        story = random_story(seed)
        assert len(story) == 6 and story[0].cut
        looks = {character.kind: character for shot in story for character in shot.characters}
        assert all(looks[who.kind] == who for shot in story for who in shot.characters)
        assert len({shot.place for shot in story}) <= 2
        for before, shot in pairwise(story):
            if not shot.cut:
                joins += 1
                last, first = render(before).frames[-1].astype(int), render(shot).frames[0].astype(int)
                # Only the actor's eyes may turn to where it is about to walk.
                assert (np.abs(last - first).max(-1) > 0).mean() < 0.02
    assert joins > 10


def test_a_scene_keeps_everybody_and_the_place():
    scenes = [random_scene(seed) for seed in range(30)]
    for shots in scenes:
        assert len({(shot.characters, shot.place) for shot in shots}) == 1 and all(shot.cut for shot in shots)
    assert len({shots[0].characters for shots in scenes}) == 30
    assert {len(shots[0].characters) for shots in scenes} == {1, 2}


def test_nobody_is_seen_twice_in_encounters():
    """Memory of the other shots never shows who acts, and often, but not always, where."""
    known = 0
    for seed in range(30):
        shots = random_encounters(seed)
        actors = [shot.characters for shot in shots]
        assert sorted(who.kind for (who,) in actors) == sorted(KINDS)
        assert all(shot.cut for shot in shots)
        known += sum(shot.place in [other.place for other in shots if other is not shot] for shot in shots)
    assert 0.6 < known / (30 * len(KINDS)) < 1


def test_characters_are_in_the_cells_that_count_more(clips):
    covered = 0.0
    for clip in clips:
        cells = cells_of_characters(clip.shot)
        covered += cells.mean() / len(clips)
        spread = np.ptp(clip.frames[::4].astype(int), axis=-1)
        bright = spread > 110  # characters and balloons alone
        near = cells.repeat(8, 1).repeat(8, 2)
        assert (bright & near).sum() > 0.95 * bright.sum()
    assert covered < 0.6


def test_nobody_leaves_the_picture(clips):
    for clip in clips:
        assert clip.track[..., 0].min() > 8 and clip.track[..., 0].max() < WIDTH - 8
        assert (clip.track[..., 1] + clip.track[..., 3] / 2).max() < HEIGHT


def test_trained_models_are_linked_where_comfyui_looks(tmp_path, monkeypatch):
    weights, models = tmp_path / "weights", tmp_path / "models"
    weights.mkdir()
    (weights / "storymem_world_vae.safetensors").write_bytes(b"trained")
    (weights / "storymem_world_t2v.safetensors").write_bytes(b"trained")
    (models / "diffusion_models").mkdir(parents=True)
    own = models / "diffusion_models" / "storymem_world_t2v.safetensors"
    own.write_bytes(b"in training")
    monkeypatch.setattr(demo_models, "WEIGHTS", weights)
    for _ in range(2):
        assert demo_models.link_world_models(models) == [models / "vae" / "storymem_world_vae.safetensors"]
    assert (models / "vae" / "storymem_world_vae.safetensors").read_bytes() == b"trained"
    assert own.read_bytes() == b"in training"
    assert not (models / "loras").exists()
