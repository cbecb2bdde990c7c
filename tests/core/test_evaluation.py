"""The evaluation against literal loops, open_clip itself, and renderings of which the truth is known."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from evaluation import figure, tables, videos
from evaluation.__main__ import main
from evaluation.clip import AestheticHead, ClipText
from evaluation.consistency import cross_shot, direction, top_cross_shot, top_pairs, word_counts
from evaluation.joins import join_of
from evaluation.methods import METHODS, WRONG, keyframes, shuffled, uniform, wrong_story
from evaluation.quality import PALETTE, well_formed
from evaluation.report import contact_sheet, report
from evaluation.scores import Film, compare, distinctness, score, steadiness, true_looks
from evaluation.statistics import estimate
from evaluation.tale import Tale
from evaluation.world import true_shots
from storymem_core.bank import MemoryBank
from storymem_core.embedders import ColorLayout, OpenClip
from storymem_core.errors import InputError
from storymem_core.film import write_video
from storymem_core.keyframes import select_keyframes
from storymem_core.script import parse_story
from storymem_core.shot_files import save_shot
from tools.small_world.measure import Seen
from tools.small_world.render import render
from tools.small_world.world import BODY_COLOURS, Shot

SMALL = "ViT-S-32-alt"


def unit(seed: int, count: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 16))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def script(*prompts: str, name: str = "a story", overview: str = "") -> str:
    scene = {"scene_num": 1, "video_prompts": list(prompts), "cut": [True] * len(prompts)}
    return json.dumps({"story_name": name, "story_overview": overview, "scenes": [scene]})


# --- consistency of embeddings


def test_identical_shots_are_wholly_consistent():
    shots = np.repeat(unit(0, 1), 5, axis=0)
    assert cross_shot(shots) == pytest.approx(1)
    assert top_cross_shot(shots, unit(1, 5)) == pytest.approx(1)


def test_consistency_equals_a_literal_loop():
    shots, prompts = unit(2, 7), unit(3, 7)
    pairs = []
    for i in range(7):
        for j in range(7):
            if i < j:
                pairs.append((sum(prompts[i] * prompts[j]), sum(shots[i] * shots[j]), (i, j)))
    assert cross_shot(shots) == pytest.approx(sum(pair[1] for pair in pairs) / 21)
    best = []
    while len(best) < 10:
        best.append(max(pairs))
        pairs.remove(max(pairs))
    assert top_pairs(prompts) == [pair[2] for pair in best]
    assert top_cross_shot(shots, prompts) == pytest.approx(sum(pair[1] for pair in best) / 10)


def test_a_short_story_has_fewer_pairs():
    assert sorted(top_pairs(unit(4, 3))) == [(0, 1), (0, 2), (1, 2)]


def test_words_tell_prompts_apart():
    counts = word_counts(["The fox runs.", "the fox, runs", "A red house", "the fox sleeps"])
    similarity = counts @ counts.T
    assert similarity[0, 1] == pytest.approx(1)
    assert similarity[0, 2] == pytest.approx(0)
    assert similarity[0, 3] == pytest.approx(2 / 3)


# --- CLIP


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A small CLIP of seeded random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "small.safetensors"
    save_file(open_clip.create_model(SMALL, pretrained=None).state_dict(), path)
    return path


def test_texts_are_embedded_as_open_clip_does(checkpoint):
    texts = ["a red fox in the snow", "an old man; a boat", "word " * 100]
    model = open_clip.create_model(SMALL, pretrained=str(checkpoint)).eval()
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(SMALL)(texts), normalize=True).numpy()
    clip = ClipText(checkpoint, SMALL)
    np.testing.assert_allclose(clip(texts), expected, atol=1e-5)
    assert clip.too_long(texts) == 1


def test_scores_of_a_story_are_those_of_its_vectors(checkpoint):
    rng = np.random.default_rng(5)
    frames = [rng.integers(0, 256, (3, 32, 48, 3), np.uint8) for _ in range(4)]
    prompts = ["a fox", "a red fox", "a house", "the sea at night"]
    story = parse_story(script(*prompts, overview="a fox walks to the sea"))
    head = torch.linspace(-1, 1, 256)
    save_file({"weight": head[None], "bias": torch.tensor([0.5])}, checkpoint.with_name("head.safetensors"))
    embedder, text = OpenClip(checkpoint, SMALL), ClipText(checkpoint, SMALL)
    scores = videos.evaluate(story, frames, embedder, text, AestheticHead(checkpoint.with_name("head.safetensors")))
    shots, words = [], text(prompts)
    for pictures in frames:
        mean = embedder(pictures).sum(axis=0)
        shots.append(mean / np.sqrt(np.square(mean).sum()))
    assert scores.shots == pytest.approx(np.mean([shots[i] @ words[i] for i in range(4)]), abs=1e-6)
    whole = sum(shots) / np.linalg.norm(sum(shots))
    assert scores.story == pytest.approx(whole @ text([story.overview])[0], abs=1e-6)
    assert scores.overall == pytest.approx(np.mean([shots[i] @ shots[j] for i in range(4) for j in range(i)]), abs=1e-6)
    assert scores.pairs[0] == (1, 2)
    beauty = [float(embedding @ head.numpy() + 0.5) for pictures in frames for embedding in embedder(pictures)]
    assert scores.aesthetic == pytest.approx(np.mean(beauty), abs=1e-5)
    assert scores.embedder == scores.prompts_by == embedder.name
    without = videos.evaluate(parse_story(script(*prompts)), frames, embedder, text, None)
    assert without.story == "not defined: no overview"
    assert without.aesthetic.startswith("not measured")


def test_without_clip_what_needs_text_is_not_defined():
    frames = [np.full((2, 32, 48, 3), value, np.uint8) for value in (10, 200)]
    scores = videos.evaluate(parse_story(script("a", "b")), frames, ColorLayout(), None, None)
    assert scores.shots == scores.story == f"not defined: {ColorLayout.name} cannot read prompts"
    assert isinstance(scores.top, float)
    alone = videos.evaluate(parse_story(script("a")), frames[:1], ColorLayout(), None, None)
    assert alone.overall == alone.top == "not defined: the story has one shot"


def test_an_aesthetic_head_must_fit(tmp_path):
    save_file({"weight": torch.zeros(2, 8), "bias": torch.zeros(2)}, tmp_path / "wrong.safetensors")
    with pytest.raises(InputError, match=r"^aesthetic="):
        AestheticHead(tmp_path / "wrong.safetensors")
    save_file({"weight": torch.zeros(1, 8), "bias": torch.zeros(1)}, tmp_path / "right.safetensors")
    with pytest.raises(InputError, match="8 channels"):
        AestheticHead(tmp_path / "right.safetensors")(np.zeros((2, 9), np.float32))


# --- a folder of shots and the report


def write(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.full((5, 32, 48, 3), grey, np.uint8), 8)


def test_shots_are_found_in_both_kinds_of_folder(tmp_path):
    write(tmp_path / "film-1.mp4", 0)
    assert videos.find_shots(tmp_path) == [tmp_path / "film-1.mp4"]
    for number in (2, 10, 1):
        write(tmp_path / f"{number:03}-key" / "video.mp4", 0)
    write(tmp_path / ".abc.part" / "video.mp4", 0)
    names = [path.parent.name for path in videos.find_shots(tmp_path)]
    assert names == ["001-key", "002-key", "010-key"]
    write(tmp_path / "002-other" / "video.mp4", 0)
    with pytest.raises(InputError, match="002-key and 002-other"):
        videos.find_shots(tmp_path)
    with pytest.raises(InputError, match="has no shots"):
        videos.find_shots(tmp_path / "nowhere")


def test_frames_are_spread_over_the_video(tmp_path):
    greys = np.linspace(0, 240, 22).round().astype(np.uint8)
    write_video(tmp_path / "a.mp4", [np.full((32, 48, 3), grey, np.uint8) for grey in greys], 8)
    found = [round(float(frame.mean())) for frame in videos.sample_frames(tmp_path / "a.mp4")]
    assert found == pytest.approx([float(greys[3 * i]) for i in range(8)], abs=3)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"b\.mp4.*cannot be read"):
        videos.sample_frames(tmp_path / "b.mp4")


def test_the_command_writes_a_report(tmp_path, capsys):
    for number, grey in enumerate((10, 10, 240), 1):
        write(tmp_path / "shots" / f"{number}.mp4", grey)
    story = tmp_path / "story.json"
    story.write_text(script("the fox <img src=x>", "the | fox", "a *house*", name="<b>name</b>"))
    arguments = ["videos", str(tmp_path / "shots"), "--script", str(story)]
    assert main(arguments) == 0
    text = (tmp_path / "shots" / "evaluation" / "report.md").read_text()
    assert "the fox &lt;img src=x&gt;" in text and "the \\| fox" in text and "a \\*house\\*" in text
    assert "<b>" not in text
    assert f"not defined: {ColorLayout.name} cannot read prompts" in text
    assert "`color-layout-1`" in text and "![a row of frames for each shot](shots.jpg)" in text
    sheet = cv2.imread(str(tmp_path / "shots" / "evaluation" / "shots.jpg"))
    thirds = [part[:, 60:].mean() for part in np.array_split(sheet, 3)]
    assert thirds[0] == pytest.approx(thirds[1], abs=3) and thirds[2] > thirds[0] + 150
    write(tmp_path / "shots" / "4.mp4", 0)
    assert main(arguments) == 1
    assert "has 4 shots" in capsys.readouterr().err


def test_the_contact_sheet_has_a_row_per_shot():
    shots = [np.full((4, 32, 48, 3), value, np.uint8) for value in (50, 100, 150)]
    sheet = contact_sheet(shots)
    rows = [int(np.median(part[:, 60:])) for part in np.array_split(sheet, 3)]
    assert rows == [50, 100, 150]


def test_the_report_names_the_pairs_it_compares():
    story = parse_story(script("the fox", "a house", "the fox"))
    frames = [np.full((2, 32, 48, 3), value, np.uint8) for value in (10, 200, 30)]
    text = report(story, videos.evaluate(story, frames, ColorLayout(), None, None), "s.jpg")
    assert "most alike: 1 and 3, 1 and 2, 2 and 3." in text


# --- the small world


@pytest.fixture(scope="module")
def tale() -> Tale:
    tale = Tale.of_seed(50_002)
    assert not all(shot.cut for shot in tale.shots)
    return tale


@pytest.fixture(scope="module")
def truth(tale) -> Film:
    return Film.measured(tale, true_shots(tale))


def share(tally: dict, name: str) -> float:
    return tally[name][0] / tally[name][1]


def test_the_truth_is_right(tale, truth):
    tally = score(truth, truth.first_looks())
    for name in ("identity", "place", "kind", "action", "steady"):
        assert share(tally, name) > 0.97, name
    assert share(tally, "join") < 2
    assert share(tally, "quality") > 0.9


def test_the_twin_tells_the_same_with_other_looks(tale, truth):
    twin = tale.twin()
    assert [shot.caption for shot in twin.shots] == [shot.caption for shot in tale.shots]
    assert [shot.x for shot in twin.shots] == [shot.x for shot in tale.shots]
    assert set(twin.cast).isdisjoint(tale.cast) and set(twin.places).isdisjoint(tale.places)
    assert twin == tale.twin()
    right = score(truth, true_looks(tale, tale))
    wrong = score(truth, true_looks(tale, twin))
    assert share(right, "identity") > 0.9
    assert share(wrong, "identity") < 0.6 and share(wrong, "place") < 0.7
    assert wrong["action"] == right["action"]


def test_one_character_of_other_looks_costs_exactly_its_attributes(tale, truth):
    looks = truth.first_looks()
    hero = tale.shots[0].characters[0]
    repainted = replace(looks.cast[hero], body="other")
    tally = score(truth, replace(looks, cast={**looks.cast, hero: repainted}))
    again = sum(hero in shot.characters for shot in tale.shots[1:])
    assert again > 0
    right = score(truth, looks)
    assert right["body"][0] - tally["body"][0] == again
    assert right["identity"][0] - tally["identity"][0] == again
    assert tally["accessory"] == right["accessory"]


def test_distinct_are_characters_of_different_looks(tale):
    first, second = tale.cast
    for changes, expected in (({}, 0), ({"body": "other"}, 1), ({"accessory": "other", "pattern": "other"}, 2)):
        looks = {first: first, second: replace(first, kind=second.kind, **changes)}
        seen = [{who: Seen(looks[who], "stand", None) for who in shot.characters} for shot in tale.shots]
        film = Film(tale, [], seen, [None] * len(tale.shots))
        assert sorted(distinctness(film)) == [False] * (3 - expected) + [True] * expected


def test_steadiness_counts_what_changes_within_a_shot(tale):
    """Halfway, somebody of another body's colour and accessory takes over."""
    who = tale.cast[0]
    body = next(name for name in BODY_COLOURS if name not in (who.body, who.pattern_colour))
    other = replace(who, body=body, accessory="hat" if who.accessory != "hat" else "balloon")
    shot = Shot((who,), tale.places[0], "wave", "static", (40.0,), (1,))
    frames = render(shot).frames
    changed = np.concatenate([frames[:8], render(replace(shot, characters=(other,))).frames[8:]])
    assert all(steadiness(shot, frames))
    kept = [True] if who.pattern == "plain" else [True, True]
    assert sorted(steadiness(shot, changed)) == [False, False, *kept]


def test_who_is_not_there_is_wrong_in_everything(tale):
    empty = [np.full((17, 64, 96, 3), 128, np.uint8)] * len(tale.shots)
    film = Film.measured(tale, empty)
    for looks in (true_looks(tale, tale), film.first_looks()):
        tally = score(film, looks)
        assert tally["identity"][0] == tally["kind"][0] == tally["action"][0] == 0
        assert tally["identity"][1] >= 10


def test_the_colour_of_no_pattern_is_not_judged(tale):
    who = tale.cast[0]
    assert "pattern_colour" not in compare(replace(who, pattern="plain"), None)
    assert compare(replace(who, pattern="belt"), None)["pattern_colour"] is False


def test_another_motion_is_another_action(tale):
    walks = next(shot for seed in range(99) for shot in Tale.of_seed(seed).shots if shot.action.startswith("walk"))
    frames = render(walks).frames
    for order, right in ((frames, True), (frames[::-1], False), (frames[:1].repeat(17, 0), False)):
        film = Film.measured(replace(tale, shots=(walks,) * 6), [order] * 6)
        assert (share(score(film, film.first_looks()), "action") == 1) is right


def test_pictures_out_of_the_world_are_not_well_formed(tale):
    frames = tale.frames(1)
    noise = np.random.default_rng(0).integers(0, 256, frames.shape, np.uint8)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in frames])
    assert well_formed(frames) > 0.9
    assert well_formed(noise) < 0.15
    few = noise[0, :4, :4].reshape(-1, 3).astype(float)
    near = [min(np.sqrt(((pixel - colour) ** 2).sum()) for colour in PALETTE) < 24 for pixel in few]
    assert well_formed(noise[:1, :4, :4]) == np.mean(near)
    assert well_formed(blurred) < well_formed(frames) - 0.15


def test_a_smooth_join_is_an_ordinary_step():
    texture = np.random.default_rng(1).integers(0, 256, (16, 24, 3), np.uint8)
    texture = cv2.resize(texture, (240, 64), interpolation=cv2.INTER_CUBIC)
    moving = np.stack([texture[:, 2 * i : 2 * i + 96] for i in range(30)])
    smooth = join_of(moving[:10], moving[10:20])
    assert smooth.jump / smooth.ordinary == pytest.approx(1, abs=0.2)
    cut = join_of(moving[:10], moving[20:][::-1])
    assert cut.jump / cut.ordinary > 3
    assert cut.flow > 3 * smooth.flow
    by_hand = np.mean(np.abs(moving[9].astype(float) - moving[10].astype(float)))
    assert smooth.jump == pytest.approx(by_hand)


# --- memories


@pytest.fixture(scope="module")
def finished(tale, tmp_path_factory) -> list:
    """Four shots of the truth, as Save Shot leaves them."""
    root, shots, bank = tmp_path_factory.mktemp("shots"), [], MemoryBank()
    for number in range(1, 5):
        frames = tale.frames(number)
        bank = bank.add_shot(keyframes(frames, [0, 5], number))
        folder = root / f"{number:03}-key"
        shots.append(save_shot(folder, number, frames, frames, 8, bank, (), 0, shots[-1] if shots else None))
    return shots


def test_shuffled_memory_is_what_would_be_recalled_in_another_order(tale, finished):
    recalled = [keyframe.id for keyframe in finished[-1].bank().recall()]
    mixed = [keyframe.id for keyframe in shuffled(tale, finished).recall()]
    assert sorted(mixed) == sorted(recalled) and mixed != recalled


def test_uniform_memory_is_the_first_middle_and_last_frames(tale, finished):
    chosen = uniform(tale, finished).keyframes
    assert [(keyframe.shot, keyframe.frame) for keyframe in chosen] == [
        (shot, frame) for shot in (1, 2, 3, 4) for frame in (0, 8, 16)
    ]
    np.testing.assert_array_equal(chosen[5].image, tale.frames(2)[-1])


def test_wrong_memory_holds_the_twins_pictures_by_the_same_rules(tale, finished):
    chosen = wrong_story(tale, finished).keyframes
    for keyframe in chosen:
        np.testing.assert_array_equal(keyframe.image, tale.twin().frames(keyframe.shot)[keyframe.frame])
    first = select_keyframes(ColorLayout()(tale.twin().frames(1))).indices
    assert tuple(keyframe.frame for keyframe in chosen if keyframe.shot == 1) == first
    assert wrong_story(tale, ()).keyframes == ()


# --- statistics and the report


def test_an_interval_holds_the_resampled_means():
    values = np.random.default_rng(2).normal(5, 2, 40)
    found = estimate(values)
    assert found.mean == pytest.approx(values.mean())
    error = 1.96 * values.std() / np.sqrt(40)
    assert found.low == pytest.approx(values.mean() - error, abs=0.15)
    assert found.high == pytest.approx(values.mean() + error, abs=0.15)


def test_stories_weigh_by_their_cases():
    found = estimate([1, 9, 0], [1, 10, 0])
    assert found.mean == pytest.approx(10 / 11)
    assert estimate([0, 0], [0, 0]) is None


def scores_of(**rows: dict) -> dict:
    return {name: [{key: (value, 1.0) for key, value in tally.items()}] * 3 for name, tally in rows.items()}


def test_goals_are_met_or_not():
    base = {"identity": 0.4, "identity 6": 0.4, "action": 0.9, "join": 8.0}
    good = {"identity": 0.95, "identity 6": 0.91, "action": 0.89, "join": 8.0}
    smooth = {**good, "join": 3.9}
    rows = {
        "T2V": base,
        "M2V": good,
        "M2V+MI2V": smooth,
        WRONG.name: {"identity": 0.3},
        tables.JUDGED_BY_WRONG: {"identity": 0.9},
    }
    assert [met for _, _, met in tables.goals(scores_of(**rows))] == ["yes"] * 5
    rows["M2V"] = {"identity": 0.59, "identity 6": 0.89, "action": 0.87, "join": 7.0}
    rows[WRONG.name] = {"identity": 0.95}
    assert [met for _, _, met in tables.goals(scores_of(**rows))] == ["no"] * 5
    sixth = ("identity of M2V at least 90 % in the sixth shot", "91.0 % (91.0 to 91.0)", "yes")
    assert tables.goals(scores_of(M2V=good)) == [sixth]


def test_a_verdict_says_where_it_is_the_mean_alone():
    """A mean over or under the line says little where the stories differ by more; paired, a steady difference does."""
    values = np.random.default_rng(4).uniform(0.3, 0.9, 8)
    for gain, expected in ((0.31, "yes, by the mean"), (0.25, "no, by the mean")):
        ((_, measured, verdict),) = tables.goals({"M2V": [{"identity 6": (value + gain, 1.0)} for value in values]})
        found = estimate(values + gain)
        assert found.low < 0.9 < found.high and verdict == expected
        assert (found.mean > 0.9) == (gain == 0.31)
        assert measured == f"{100 * found.mean:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"

    actions = {
        name: [{"action": (value + gain, 1.0)} for value in values] for name, gain in (("M2V", 0.01), ("T2V", 0))
    }
    ((_, measured, verdict),) = tables.goals(actions)
    assert (measured, verdict) == ("1.0 points (1.0 to 1.0)", "yes")


def test_table_and_figure_show_what_there_is(tmp_path, truth):
    tally = score(truth, truth.first_looks())
    scores = {tables.TRUTH: [tally], **{method.name: [tally] for method in METHODS}}
    lines = tables.report(scores).splitlines()
    assert sum(line.startswith(f"| {tables.TRUTH} | 1 | 100 (100–100)") for line in lines) == 1
    figure.draw(scores, tmp_path / "figure.png")
    assert cv2.imread(str(tmp_path / "figure.png")).std() > 10


def test_directions_are_means_of_unit_length():
    vectors = unit(6, 5)
    assert np.linalg.norm(direction(vectors)) == pytest.approx(1)
    np.testing.assert_allclose(direction(vectors) * np.linalg.norm(vectors.mean(0)), vectors.mean(0))
