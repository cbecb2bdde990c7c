"""Films that models made, as memory to learn from: what is remembered of them, and what is to be learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from storymem_core.embedders import ColorLayout
from storymem_core.keyframes import select_keyframes
from tools.demo_models import WEIGHTS
from tools.small_world import dataset, films, memories, probe
from tools.small_world.lora import MAX_MEMORY
from tools.small_world.render import render
from tools.small_world.sample import seeds_2
from tools.small_world.transformer import trained
from tools.small_world.world import Character, random_clip, random_story

LORA = WEIGHTS / "storymem_world_lora_first_frame.safetensors"


def repainted(shots):
    """The same story with other looks for everybody and every place, by the kind."""
    looks = {
        kind: Character(kind, body, pattern, "cyan", accessory)
        for kind, body, pattern, accessory in (
            ("robot", "red", "belt", "hat"),
            ("ghost", "blue", "spots", "none"),
            ("gnome", "green", "plain", "balloon"),
            ("bear", "yellow", "belt", "none"),
        )
    }
    places = {shot.place: replace(shot.place, sky="night", ground="snow", landmarks=(32.0, 80.0)) for shot in shots}
    return tuple(
        replace(shot, characters=tuple(looks[who.kind] for who in shot.characters), place=places[shot.place])
        for shot in shots
    )


@pytest.mark.parametrize("seed", range(4))
def test_what_is_to_be_learned_looks_as_the_film_first_showed_it(seed):
    """The film shows other looks than the story has: its next shots are to have these, but for whom it did not show."""
    story = random_story(seed)
    other, film = repainted(story), films.Film(story)
    for number, shot in enumerate(other, 1):
        film = film.with_shot(render(shot).frames)
        known = {who.kind for earlier in other[:number] for who in earlier.characters}
        for own, shown in zip(story[number:], other[number:], strict=True):
            wanted = film.as_seen(own, number)
            for who, before, after in zip(wanted.characters, own.characters, shown.characters, strict=True):
                expected = after if who.kind in known else before
                plain = expected.pattern == "plain"  # whose colour nobody sees
                assert replace(who, pattern_colour="") == replace(expected, pattern_colour="")
                assert plain or who.pattern_colour == expected.pattern_colour
            place = shown.place if shown.place in {earlier.place for earlier in other[:number]} else own.place
            assert replace(wanted.place, landmarks=place.landmarks) == place
    assert len(film.recalled) == len(story)


def test_landmarks_are_found_where_they_stand():
    """In clips that pan and come closer, too; but behind somebody nothing is to be seen."""
    shots = [random_clip(seed) for seed in range(60)]
    shots = [replace(shot, place=replace(shot.place, landmarks=(48.0, 96.0)), scroll=0.0) for shot in shots]
    found = [films.seen_place(shot, render(shot).frames) for shot in shots]
    assert np.mean([place == shot.place for place, shot in zip(found, shots, strict=True)]) > 0.85


def test_a_film_remembers_what_the_nodes_would_store():
    """Against the selection written out, of which only pictures of the same can be repeated, and none is of frames
    that are not sharp."""
    story = random_story(2)
    film, stored = films.Film(story), []
    for shot in story:
        frames = render(shot).frames.copy()
        frames[:3] = frames[:3].mean((1, 2), keepdims=True)  # begins with nothing to be seen
        film = film.with_shot(frames)
        names = [*(who.kind for who in shot.characters), shot.place.kind]
        known = [embedding for embedding, others in stored if all(name in others for name in names)]
        embeddings = ColorLayout()(frames)
        chosen = select_keyframes(embeddings[3:], known=np.stack(known) if known else None).indices
        stored += [(embeddings[3 + i], names) for i in chosen]
    assert [tuple(k.embedding) for k in film.bank.keyframes] == [tuple(embedding) for embedding, _ in stored]
    assert [len(memory) for memory in film.recalled][-1] == min(len(stored), MAX_MEMORY)


def test_who_is_not_to_be_seen_is_not_to_be_learned():
    story = random_story(3)
    hero, film = story[0].characters[0], films.Film(story)
    for number, shot in enumerate(story):
        film = film.with_shot(render(shot if number else replace(shot, characters=())).frames)
    assert film.looks[hero] is None and len(film.looks) == 2 and film.as_seen(story[0], 1) is None
    assert all(hero.kind not in shot.caption for shot, _ in films.to_learn(np.random.default_rng(0), film))


def test_more_shots_show_who_is_known_by_then():
    story = random_story(5)
    film = films.Film(story)
    for shot in story:
        film = film.with_shot(render(shot).frames)
    wanted = films.to_learn(np.random.default_rng(1), film)
    assert len(wanted) == len(story) - 1 + films.MORE
    for shot, after in wanted[len(story) - 1 :]:
        shown = story[: min(after)]
        assert {who.kind for who in shot.characters} <= {who.kind for each in shown for who in each.characters}
        assert shot.place.kind in {each.place.kind for each in shown}
        assert len(after) <= films.MEMORIES and max(after) <= len(story)


def test_the_sampler_draws_from_what_the_velocity_leads_to():
    """Data whose best velocity is known: numbers spread around a middle; and the noise levels, written out."""
    middle, spread, steps, visited = 3.0, 1.0, 15, []

    def velocity(x, sigma):
        visited.append(sigma.tolist())
        level = sigma[:, None]
        share = (1 - level) * spread**2 / ((1 - level) ** 2 * spread**2 + level**2)
        return (x - middle - share * (x - (1 - level) * middle)) / level

    torch.manual_seed(0)
    start = torch.randn(4, 20000)
    found = seeds_2(velocity, start, steps, shift=3.0)
    assert torch.corrcoef(torch.stack([start.flatten(), found.flatten()]))[0, 1] < 0.5, "no noise was added"
    assert found.mean().item() == pytest.approx(middle, abs=0.01)
    assert found.std().item() == pytest.approx(spread, rel=0.1)
    assert len(visited) == 2 * steps - 1 and all(len(set(levels)) == 1 for levels in visited)
    even = [1 - step / steps for step in range(steps)]
    expected = [3 * u / (1 + 2 * u) for u in even]
    assert [levels[0] for levels in visited[::2]] == pytest.approx(expected, abs=2e-3)


def test_a_shard_of_films_is_made_from_its_own_pictures(tmp_path, monkeypatch):
    """One story on the shipped models: what its samples remember, and that the next shots are made from memory."""
    monkeypatch.setattr(dataset, "shards_folder", lambda: tmp_path)
    monkeypatch.setattr(films, "GROUPS", ((random_story, 11, 1),))
    vae, text, grey = probe.load_models(WEIGHTS)
    t2v, wan = probe.new_transformer(16), probe.new_transformer(36)
    t2v.load_state_dict(trained(WEIGHTS, "t2v"))
    wan.load_state_dict(probe.with_lora(trained(WEIGHTS, "i2v"), LORA))
    studio = films.Studio(vae, text, grey[0], t2v.requires_grad_(False), wan.requires_grad_(False))
    asked = []
    sampled = films.Studio.sampled

    def watched(self, captions, pictures):
        asked.append((captions, pictures))
        return sampled(self, captions, pictures)

    monkeypatch.setattr(films.Studio, "sampled", watched)
    films.write_films(studio, 0)
    story = random_story(11)
    assert [captions for captions, _ in asked] == [[shot.caption] for shot in story]
    assert asked[0][1] is None and all(len(pictures) for _, pictures in asked[1:])
    content, captions = memories.read_shard(memories.shard_path(0, "films"))
    with torch.no_grad():
        shown = memories.encode_pictures(vae, asked[-1][1])
    assert any(torch.equal(shown[0], picture) for picture in content["pictures"])
    rows = content["sample_memory"]
    assert ((rows >= 0).sum(1) >= 1).all() and rows.max() < len(content["pictures"]) == len(content["shows"])
    assert content["shows"].any(1).all()
    assert len(captions) == len(content["clip"]) == len(content["cells"]) > content["sample_clip"].max()
    assert set(content["sample_clip"].tolist()) == set(range(len(captions)))
