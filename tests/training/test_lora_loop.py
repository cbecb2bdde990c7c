"""Memory LoRAs outside the host's trainer: what their samples remember, and what is learned."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tools.demo_models import WEIGHTS
from tools.small_world import dataset, lora_loop, memories, probe
from tools.small_world.lora import MAX_MEMORY, TRAINED
from tools.small_world.mean import mean
from tools.small_world.memories import KEYFRAMES, PER_CLIP, SAMPLE_KINDS, random_ensemble
from tools.small_world.render import draw, render
from tools.small_world.run import Schedule
from tools.small_world.transformer import trained
from tools.small_world.world import motion, random_encounters, random_story

LORA = WEIGHTS / "storymem_world_lora_first_frame.safetensors"


@pytest.fixture
def drawn(monkeypatch):
    """A shard of two stories and the encounters of two casts, with samples of every kind and length."""
    monkeypatch.setattr(memories, "SAMPLES_PER_CLIP", 200)
    monkeypatch.setattr(memories, "GROUPS", ((random_story, 7, 2), (random_encounters, 9, 2)))
    return memories.draw_shard(0)


def clips_of_shard() -> list:
    """(group, shot) of each clip, listed anew."""
    groups = [random_story(7), random_story(8), random_encounters(9), random_encounters(10)]
    return [(number, shot) for number, group in enumerate(groups) for shot in group]


def test_few_shots_of_an_ensemble_show_whom_another_one_shows():
    """So a memory of it has one keyframe or two of somebody among those of others."""
    shares = []
    for seed in range(30):
        shots = random_ensemble(seed)
        cast = [who for shot in shots[: len(shots) // 2] for who in shot.characters]
        assert len(cast) == len(shots) // 2 == len({who.kind for who in cast}) > 2, "everybody once alone"
        assert {who for shot in shots for who in shot.characters} == set(cast), "then the same people"
        shares += [
            sum(who in other.characters for other in shots if other is not shot) / (len(shots) - 1)
            for shot in shots[len(cast) :]
            for who in shot.characters
        ]
    assert min(shares) > 0 and 0.25 < np.mean(shares) < 0.45
    assert len({len(random_ensemble(seed)) for seed in range(30)}) == 2, "of three and of four"


def test_samples_remember_their_group_and_never_drift_before_the_truth(drawn):
    clips = clips_of_shard()
    assert drawn.captions == [shot.caption for _, shot in clips]
    drifted_samples = 0
    for kind, clip, row in zip(drawn.kind, drawn.clip, drawn.memory, strict=True):
        assert SAMPLE_KINDS[kind] in ("m2v", "mi2v", "mm2v")
        row = row[row >= 0]
        assert 1 <= len(row) <= MAX_MEMORY and len(set(row % PER_CLIP % 5 + 10 * (row // PER_CLIP))) == len(row)
        group, target = clips[clip]
        seen = set()
        for keyframe in row.tolist():
            other_group, shot = clips[keyframe // PER_CLIP]
            assert other_group == group and keyframe // PER_CLIP != clip
            shown = {who.kind for who in shot.characters} & {who.kind for who in target.characters}
            if keyframe % PER_CLIP >= len(KEYFRAMES):
                drifted_samples += 1
                assert shown and shown <= seen
            seen |= shown
    assert drifted_samples > 20


def test_a_drifted_clip_shows_the_same_people_with_other_looks(drawn):
    rng = np.random.default_rng(3)
    for (_, shot), frames, other_frames in zip(clips_of_shard(), drawn.frames, drawn.drifted, strict=True):
        assert np.array_equal(frames, render(shot).frames)
        assert not any(np.array_equal(frames[i], other) for i, other in zip(KEYFRAMES, other_frames, strict=True))
        other = memories.drift(rng, shot, shot.characters)
        assert other.caption == shot.caption
        for before, after in zip(shot.characters, other.characters, strict=True):
            assert before != after and after.body != after.pattern_colour


@torch.no_grad()
def test_most_clips_are_remembered_as_films_show_them(drawn):
    """As the host's own autoencoder, frame after frame, gives them back; the others as they were drawn."""
    vae, _, _ = probe.load_models(WEIGHTS)
    pictures = memories.pictures_of(vae, drawn, 3).reshape(len(drawn.frames), PER_CLIP, *drawn.frames.shape[2:])
    as_drawn = np.concatenate([drawn.frames[:, list(KEYFRAMES)], drawn.drifted], 1)
    kept = (pictures == as_drawn).all((1, 2, 3, 4))
    assert 0.5 < 1 - kept.mean() < 0.9

    def host(clip: np.ndarray) -> np.ndarray:
        video = torch.from_numpy(clip)[None].movedim(-1, 1).float() / 127.5 - 1
        return ((vae.decode(vae.encode(video)).clamp(-1, 1)[0].movedim(0, -1) + 1) * 127.5).numpy()

    for clip in np.flatnonzero(~kept)[:3]:
        expected = [*host(drawn.frames[clip])[list(KEYFRAMES)], *(host(one[None])[0] for one in drawn.drifted[clip])]
        assert np.abs(pictures[clip] - np.stack(expected)).max() < 1
        assert np.abs(np.stack(expected) - as_drawn[clip]).max() > 20


def test_weight_is_where_hats_and_balloons_are(drawn):
    """What a hat or balloon changes in a frame lies in cells of accessories."""
    checked = 0
    for (_, shot), cells in zip(clips_of_shard(), drawn.cells, strict=True):
        bare = memories.replace(
            shot, characters=tuple(memories.replace(who, accessory="none") for who in shot.characters)
        )
        for frame in range(5):
            pose = motion(shot, frame / 4)
            changed = (draw(shot, pose) != draw(bare, pose)).any(-1)
            inside = np.kron(cells[frame] == 2, np.ones((8, 8), bool))
            checked += changed.sum()
            assert changed[inside].sum() >= 0.95 * changed.sum()
    assert checked > 1000


FILMED = 600.0  # mark of a picture that a film has


def marked_shard(path, drawn, mark: float = 0.0) -> dict[str, torch.Tensor]:
    """A shard whose latents say where they come from: kind of latent, clip and keyframe."""
    count = len(drawn.frames)

    def marked(value: float, *shape: int) -> torch.Tensor:
        clips = torch.arange(count).view(-1, *(1 for _ in shape))
        return (value + clips.expand(-1, *shape)).half().contiguous()

    keyframes = marked(mark, PER_CLIP, 16, 8, 12) + 0.5 * (torch.arange(PER_CLIP) >= 5).half().view(-1, 1, 1, 1)
    content = {
        "clip": marked(0, 16, 5, 8, 12),
        "first_frame": marked(200, 16, 5, 8, 12),
        "motion_frames": marked(400, 16, 5, 8, 12),
        "pictures": keyframes.flatten(0, 1).contiguous(),
        "captions": torch.from_numpy(np.frombuffer("\n".join(drawn.captions).encode(), np.uint8).copy()),
    }
    columns = memories.columns_of(drawn)
    content |= {name: torch.from_numpy(columns[name]) for name in columns if name != "captions"}
    path.parent.mkdir(exist_ok=True)
    save_file(content, path)
    return content


def test_a_batch_is_what_its_samples_say(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "shards_folder", lambda: tmp_path)
    _, text, _ = probe.load_models(WEIGHTS)
    grey = torch.full((16, 5, 8, 12), -1.0)
    store = lora_loop.Memories(text.tokens, grey)
    with pytest.raises(FileNotFoundError, match="run python -m"):
        store.load_new()
    for shard in range(2):  # the second one's clips follow those of the first
        marked_shard(memories.shard_path(shard), drawn)
    store.load_new()
    marked_shard(memories.shard_path(5, "films"), drawn, FILMED)
    store.load_new()
    store.load_new()
    count = len(drawn.frames)
    assert store.clips == 3 * count and store.pictures == 3 * count * PER_CLIP
    allowed = {}
    for clip, row in zip(drawn.clip, drawn.memory, strict=True):
        row = row[row >= 0]
        marks = tuple(float(i // PER_CLIP + 0.5 * (i % PER_CLIP >= 5)) for i in row)
        allowed.setdefault(int(clip), set()).add(marks)
    torch.manual_seed(0)
    filmed, pairs, knows, total, drawn_first, drawn_second = 0, 0, 0, 0, 0, 0
    who = [{character.kind for character in shot.characters} for _, shot in clips_of_shard()]
    for kind in ("first_frame", "motion_frames"):
        batch = store.batch(lora_loop.SHARES[kind], 3, 64)
        assert batch["memory"].shape == (64, 16, 3, 8, 12)
        for i in range(64):
            clip = int(batch["clip"][i, 0, 0, 0, 0])
            memory = batch["memory"][i, 0, :, 0, 0]
            assert bool((memory >= FILMED).all()) == bool((memory >= FILMED).any()), "of one film"
            filmed += bool((memory >= FILMED).all())
            plain = tuple((memory % FILMED).tolist())
            assert plain in allowed[clip]
            video, known = batch["video"][i, 0, 0, 0, 0], batch["mask"][i, 0, :, 0, 0].tolist()
            frames = {-1.0: 0, 200.0 + clip: 1, 400.0 + clip: 2}[float(video)]
            assert known == [1.0] * frames + [0.0] * (5 - frames)
            assert torch.equal(batch["tokens"][i], text.tokens([drawn.captions[clip]])[0])
            assert np.array_equal(batch["cells"][i].numpy(), drawn.cells[clip])
            pairs += " beside " in drawn.captions[clip]
            remembered = set().union(*(who[int(mark)] for mark in plain))
            assert bool(batch["knows"][i]) == (who[clip] <= remembered)
            shows = {kind: [kind in who[int(mark)] for mark in plain] for kind in who[clip]}
            assert batch["shows"][i].tolist() in shows.values()
            for kind in who[clip] if len(who[clip]) > 1 and len(set(map(tuple, shows.values()))) > 1 else ():
                drawn_first += batch["shows"][i].tolist() == shows[kind] and kind == min(who[clip])
                drawn_second += batch["shows"][i].tolist() == shows[kind] and kind == max(who[clip])
            knows += int(batch["knows"][i])
            total += 1
    assert 0 < knows < total
    assert drawn_first > 5 and drawn_second > 5, "now one of a pair, now the other"
    assert pairs / total == pytest.approx(lora_loop.PAIRS, abs=0.12)
    assert filmed / total == pytest.approx(lora_loop.SOURCES["films"], abs=0.12)


def test_the_lora_is_added_and_written_as_the_host_does(monkeypatch):
    """Velocity with layers that hold a LoRA, against weights that it was merged into; and a round trip of its file."""
    base, file = trained(WEIGHTS, "i2v"), load_file(LORA)
    merged, wan = (probe.new_transformer(36) for _ in range(2))
    merged.load_state_dict(probe.with_lora(base, LORA))
    wan.load_state_dict(base)
    layers = lora_loop.add_lora(wan, file)
    written = lora_loop.file_of(layers)
    assert written.keys() == {key for key in file if TRAINED.fullmatch(key)}
    assert all(torch.equal(written[key], file[key]) for key in written)

    _, text, grey = probe.load_models(WEIGHTS)
    torch.manual_seed(4)
    noise, keyframes = torch.randn(2, 16, 5, 8, 12), torch.randn(2, 16, 3, 8, 12)
    captions = text(["The robot jumps, town, static.", "The bear waves, forest, pan."])
    batch = {"memory": keyframes, "mask": torch.zeros(2, 4, 5, 8, 12), "video": grey.expand(2, -1, -1, -1, -1)}
    past = torch.randn_like(keyframes)
    given = iter([past, *(past[i : i + 1, :, j : j + 1] for i in range(2) for j in range(3))])
    monkeypatch.setattr(torch, "randn_like", lambda _: next(given))
    with torch.no_grad():
        velocity = lora_loop.predicted(wan, batch, noise, torch.ones(2), captions)
        one_by_one = [
            probe.predict(merged, noise[i : i + 1], keyframes[i : i + 1].split(1, 2), grey, captions[i : i + 1])
            for i in range(2)
        ]
    torch.testing.assert_close(velocity, torch.cat(one_by_one), atol=0.1, rtol=0)  # products in bfloat16
    assert velocity.std() > 0.5


def test_a_wider_lora_does_the_same():
    narrow = load_file(LORA)
    name = next(key for key in narrow if key.endswith("lora_down.weight")).removesuffix(".lora_down.weight")
    rank = len(narrow[f"{name}.lora_down.weight"]) + 5
    wide = lora_loop.of_rank(narrow, rank)
    up, down, alpha = (f"{name}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha"))
    products = [lora[alpha] / len(lora[down]) * lora[up].float() @ lora[down].float() for lora in (narrow, wide)]
    torch.testing.assert_close(*products, atol=1e-5, rtol=1e-3)
    assert wide[down].shape[0] == wide[up].shape[1] == rank
    assert wide[down][-5:].abs().min(1).values.max() > 0, "what is added can learn"


def test_a_narrower_lora_is_the_nearest():
    """What is lost of a product are its smallest singular values, found anew by numpy."""
    wide = load_file(LORA)
    name = next(key for key in wide if key.endswith("lora_down.weight")).removesuffix(".lora_down.weight")
    up, down, alpha = (f"{name}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha"))
    rank = len(wide[down])
    narrow = lora_loop.of_rank({key: weight.float() for key, weight in wide.items()}, 5)
    assert narrow[down].shape[0] == narrow[up].shape[1] == 5
    before, after = (
        (float(lora[alpha]) / len(lora[down]) * lora[up].float() @ lora[down].float()).numpy()
        for lora in (wide, narrow)
    )
    rest = np.linalg.svd(before, compute_uv=False)[5:rank]
    assert np.linalg.norm(before - after) == pytest.approx(np.linalg.norm(rest), rel=1e-3)


def test_the_mean_of_loras():
    """Of the same one three times, and of one and its opposite; products, not factors, are what is added up."""
    lora = {key: weight.float() for key, weight in load_file(LORA).items()}
    swapped = {key: -weight if "lora_" in key else weight for key, weight in lora.items()}  # the same products
    opposite = {key: -weight if key.endswith("lora_up.weight") else weight for key, weight in lora.items()}
    name = next(key for key in lora if key.endswith("lora_down.weight")).removesuffix("lora_down.weight")

    def product(content):
        up, down, alpha = (content[name + part] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
        return float(alpha) / len(down) * up @ down

    for others, share in (((swapped, lora), 1.0), ((opposite,), 0.0), ((opposite, lora, lora), 0.5)):
        found = mean([lora, *others])
        torch.testing.assert_close(product(found), share * product(lora), atol=1e-4, rtol=1e-3)
        assert found[f"{name}lora_down.weight"].shape == lora[f"{name}lora_down.weight"].shape


def test_what_is_learned_is_guided_where_memory_shows_who_acts(monkeypatch):
    """Against the sum written out: a step beyond what somebody's keyframes change, in the samples that know.
    Characters, and what they wear, have more weight."""
    shape = (4, 16, 5, 8, 12)
    torch.manual_seed(2)
    with_memory, of_others, of_none = torch.randn(shape), torch.randn(shape), torch.randn(shape)
    cells = torch.randint(3, (4, 5, 8, 12))
    batch = {"clip": torch.randn(shape), "cells": cells, "mask": torch.zeros(4, 4, 5, 8, 12)}
    batch |= {"memory": torch.randn(4, 16, 3, 8, 12), "video": torch.arange(4.0).view(-1, 1, 1, 1, 1).expand(shape)}
    batch["shows"] = torch.tensor([[False, True, False], [True, True, True], [True, False, True], [False] * 3])
    batch["knows"] = torch.tensor([True, True, True, False])
    remembered = []

    def predicted(wan, part, x, sigma, text):
        if wan == "wan":
            assert part is batch
            return with_memory
        samples = part["video"][:, 0, 0, 0, 0].long()
        assert torch.equal(x, noised[samples]) and text == samples.tolist()
        for sample, memory in zip(samples.tolist(), part["memory"], strict=True):
            remembered.append((sample, memory))
        return (of_others if part["memory"].shape[2] else of_none)[samples]

    class Text(list):
        def __getitem__(self, rows):
            return rows.tolist()

    monkeypatch.setattr(lora_loop, "predicted", predicted)
    torch.manual_seed(7)
    sigma = lora_loop.noise_levels(4, lora_loop.SHIFT)[torch.randperm(4)].view(-1, 1, 1, 1, 1)
    noise = torch.randn(shape)
    noised, truth = torch.lerp(batch["clip"], noise, sigma), noise - batch["clip"]
    torch.manual_seed(7)
    loss = lora_loop.loss_of("wan", batch, Text(), "first")
    own = batch["memory"]
    # Others' keyframes, oldest first, the first of them again where there is room; nothing of who is not known.
    expected = {0: own[0][:, [0, 0, 2]], 1: own[1][:, :0], 2: own[2][:, [1, 1, 1]]}
    assert sorted(sample for sample, _ in remembered) == [0, 1, 2]
    assert all(torch.equal(memory, expected[sample]) for sample, memory in remembered)
    without = torch.stack([of_others[0], of_none[1], of_others[2], with_memory[3]])
    error, weights = 0.0, 0.0
    for i in range(4):
        target = truth[i] + (with_memory[i] - without[i]) * 2 / 3
        wrong = (sigma[i] * (with_memory[i] - target)) ** 2
        weight = torch.where(cells[i] == 2, 5.0, torch.where(cells[i] == 1, 3.0, 1.0))
        error, weights = error + (weight * wrong.mean(0)).sum(), weights + weight.sum()
    torch.testing.assert_close(loss, error / weights)
    # What is looked for is a velocity with guidance 3: v = u + (v - w) * 2 / 3, so v = 3 u - 2 w.
    with_memory = torch.stack([*(3 * truth[:3] - 2 * without[:3]), truth[3]])
    torch.manual_seed(7)
    assert lora_loop.loss_of("wan", batch, Text(), "first") < 1e-9


def test_training_changes_the_lora_alone(drawn, tmp_path, monkeypatch):
    """Six steps from nothing on one shard: a LoRA of the same layers, and a smaller loss on its samples."""
    monkeypatch.setattr(dataset, "shards_folder", lambda: tmp_path)
    monkeypatch.setattr(lora_loop, "CHECKPOINTS", tmp_path)
    monkeypatch.setattr(lora_loop, "LOGS", tmp_path)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    vae, text, grey = probe.load_models(WEIGHTS)
    monkeypatch.setattr(lora_loop, "load_text_encoder", lambda: text)
    monkeypatch.setattr(lora_loop, "load_autoencoder", lambda: vae)
    monkeypatch.setattr(lora_loop, "load_finished", lambda name: trained(WEIGHTS, name))
    path = memories.shard_path(0)
    monkeypatch.setattr(memories, "GIVEN_BACK", 0.0)
    memories.write_shard(vae, path, drawn.frames, memories.pictures_of(vae, drawn, 0), memories.columns_of(drawn))
    content = load_file(path)
    first = content["clip"][:, :, 0].float()
    keyframes = content["pictures"].float().unflatten(0, (-1, PER_CLIP))
    torch.testing.assert_close(keyframes[:, 0], first, atol=0.02, rtol=0.01)  # alone, as at the beginning of its clip
    assert ((keyframes[:, :5] - keyframes[:, 5:]).abs().amax((2, 3, 4)) > 0.1).all()
    monkeypatch.setattr(lora_loop, "SHARES", {"first_frame": {"m2v": 1.0}})
    start = tmp_path / "start.safetensors"
    blank = {key: weight.clone() for key, weight in load_file(LORA).items()}
    save_file({key: w * 0 if key.endswith("lora_up.weight") else w for key, w in blank.items()}, start)
    finished = lora_loop.train_loop("first_frame", start, Schedule(6, 4e-3, warm_up=1), 16)
    after = load_file(finished)
    assert after.keys() == {key for key in blank if TRAINED.fullmatch(key)}
    assert all(after[key].abs().max() > 0 for key in after)
    losses = re.findall(r'"loss": ([\d.]+)', (tmp_path / "loop_first_frame.jsonl").read_text())
    assert len(losses) == 1

    def error(lora) -> float:
        wan = probe.new_transformer(36)
        wan.load_state_dict(probe.with_lora(trained(WEIGHTS, "i2v"), lora))
        store = lora_loop.Memories(text.tokens, grey[0])
        store.load_new()
        torch.manual_seed(1)
        batch = store.batch({"m2v": 1.0}, 3, 32)
        with torch.no_grad():
            return float(lora_loop.loss_of(wan, batch, text.encode(batch["tokens"])))

    assert error(finished) < error(start)
