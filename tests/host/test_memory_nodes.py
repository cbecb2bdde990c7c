"""The nodes around the sampler: what the bank remembers and shows, how shots begin and are joined."""

import hashlib
import io
import itertools

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from host_graph import EXTRACTOR, HEIGHT, LENGTH, UNI_PC, WIDTH, Graph, sampler_defaults
from literal_keyframes import cosine, literal_keyframes
from storymem_core.embedders import ColorLayout, OpenClip
from storymem_core.quality import sharpness
from storymem_core.storage import load_bank, save_bank

OVERLAP = {"cut": 0, "first_frame": 1, "motion_frames": 5}
THUMBNAIL_HEIGHT = 192
DESCRIPTION = ("id", "shot", "frame", "quality", "label", "pinned", "excluded")


def memory_bank(graph, bank=None, capacity=10, sink=3, **references):
    linked = {} if bank is None else {"bank": bank}
    settings = {"capacity": capacity, "sink": sink, "policy": "sliding_window"}
    return graph.node("StoryMemMemoryBank", **linked, **references, **settings)


def output(link, slot):
    return [link[0], slot]


def as_uint8(images):
    return (images * 255).round().to(torch.uint8).numpy()


def shown_pictures(client, shown):
    """The thumbnails of keyframes, as the browser loads them: uint8 [H, W, 3] each."""
    files = [keyframe["image"] for keyframe in shown]
    assert all(file["type"] == "temp" for file in files)
    return [np.array(Image.open(io.BytesIO(client.view(**file)))) for file in files]


def assert_alike(thumbnails, pictures):
    """Thumbnails show these pictures, in this order; a JPEG is near its picture, another picture is not."""
    assert len(thumbnails) == len(pictures)
    for thumbnail, picture in zip(thumbnails, pictures, strict=True):
        height, width = picture.shape[:2]
        scale = min(1, THUMBNAIL_HEIGHT / height)
        size = round(width * scale), round(height * scale)
        expected = np.array(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
        assert np.abs(thumbnail.astype(int) - expected).mean() < 8


def described(shown):
    """What keyframes are, without what this node says of them: mark and thumbnail."""
    return [{name: keyframe[name] for name in DESCRIPTION} for keyframe in shown]


def picture_id(picture):
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()[:16]


def read_safetensors(path):
    with safe_open(path, framework="numpy") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def literal_recall(stored, capacity, sink):
    """Section 1: references, the first `sink` ever stored, then the most recent, while there is room."""
    recalled = [keyframe for keyframe in stored if keyframe["pinned"]]
    for keyframe in [*stored[:sink], *reversed(stored)]:
        if keyframe not in recalled and len(recalled) < capacity:
            recalled.append(keyframe)
    return sorted(recalled, key=stored.index)


def test_a_bank_recalls_references_the_sink_and_the_most_recent(client):
    """Two references, two shots, a late reference, a shot: recalled, shown and described by the rule."""
    graph = Graph(client)
    batches = {seed: graph.images(seed, count) for seed, count in ((1, 2), (2, 2), (3, 3), (4, 1), (5, 3))}
    bank = memory_bank(graph, reference_images=batches[1], reference_labels="Ada\nthe bridge\n")
    bank = graph.extractor(batches[2], bank, label=" dawn ")
    bank = graph.extractor(batches[3], bank)
    bank = memory_bank(graph, bank, reference_images=batches[4])
    bank = graph.extractor(batches[5], bank)
    settings = [(10, 3), (10, 0), (11, 11), (7, 3), (6, 4), (4, 3), (3, 0), (3, 3), (256, 256)]
    nodes = [memory_bank(graph, bank, *numbers) for numbers in settings]
    files = [graph.write(output(node, 1)) for node in nodes]
    pictures = {seed: graph.write(batch) for seed, batch in batches.items()}
    history = graph.run()

    stored = []
    for seed, shot, labels in ((1, 0, ["Ada", "the bridge"]), (2, 1, ["dawn"] * 2), (3, 2, [""] * 3)):
        stored += [(seed, shot, frame, label) for frame, label in enumerate(labels)]
    stored += [(4, 0, 0, ""), *((5, 3, frame, "") for frame in range(3))]
    pictures = {seed: as_uint8(graph.read(file)) for seed, file in pictures.items()}
    images = {picture_id(pictures[seed][frame]): pictures[seed][frame] for seed, _, frame, _ in stored}
    stored = [
        dict(zip(DESCRIPTION, (id, shot, frame, None, label, shot == 0, False), strict=True))
        for id, (_, shot, frame, label) in zip(images, stored, strict=True)
    ]
    for numbers, node, file in zip(settings, nodes, files, strict=True):
        expected = literal_recall(stored, *numbers)
        assert len(expected) == min(len(stored), numbers[0])
        shown = history["outputs"][node[0]]["storymem_keyframes"]
        assert described(shown) == stored
        assert [keyframe["recalled"] for keyframe in shown] == [keyframe in expected for keyframe in stored], numbers
        assert [keyframe["sink"] for keyframe in shown] == [place < numbers[1] for place in range(len(stored))]
        expected = np.stack([images[keyframe["id"]] for keyframe in expected])
        assert np.array_equal(as_uint8(graph.read(file)), expected)
        assert_alike(shown_pictures(client, shown), list(images.values()))


def test_an_empty_bank_shows_nothing(client):
    graph = Graph(client)
    node = memory_bank(graph)
    file = graph.write(output(node, 1))
    shown = graph.run()["outputs"][node[0]]
    assert shown == {"storymem_keyframes": [], "storymem_stored": [0], "storymem_edits": [""]}
    assert graph.read(file).shape[0] == 0


def test_a_reference_given_again_is_stored_once(client):
    graph = Graph(client)
    references = graph.images(1, 2)
    first = memory_bank(graph, reference_images=references, reference_labels="Ada\nBo")
    node = memory_bank(graph, first, reference_images=references)
    graph.write(output(node, 1))
    shown = graph.run()["outputs"][node[0]]["storymem_keyframes"]
    assert [keyframe["label"] for keyframe in shown] == ["Ada", "Bo"]


def test_pictures_of_several_sizes_come_out_at_the_size_of_the_last(client):
    """Their thumbnails keep their shape, and those of small pictures their size."""
    graph = Graph(client)
    tall = graph.images(1, 2, height=384, width=32)
    first = memory_bank(graph, reference_images=tall)
    last = graph.images(2, 1)
    node = memory_bank(graph, first, reference_images=last)
    file, last, tall = graph.write(output(node, 1)), graph.write(last), graph.write(tall)
    shown = graph.run()["outputs"][node[0]]["storymem_keyframes"]
    images = graph.read(file)
    assert images.shape == (3, HEIGHT, WIDTH, 3)
    assert torch.equal(images[2], graph.read(last)[0])
    thumbnails = shown_pictures(client, shown)
    assert [thumbnail.shape[:2] for thumbnail in thumbnails] == [(192, 16), (192, 16), (HEIGHT, WIDTH)]
    assert_alike(thumbnails, [*as_uint8(graph.read(tall)), *as_uint8(graph.read(last))])


def read_report(text):
    """Header lines, and for each frame its similarity to the last keyframe, quality and verdict."""
    lines = text.splitlines()
    titles = [line.split() for line in lines].index(["frame", "similarity", "quality", "verdict"])
    frames = [line.split(maxsplit=3) for line in lines[titles + 1 :]]
    assert [int(frame[0]) for frame in frames] == list(range(len(frames)))
    return lines[:titles], [frame[1:] for frame in frames]


def check_against_literal(embeddings, frames, known, report, shown, scores=None, **settings):
    """Report and interface name the keyframes of the literal procedure; returns them."""
    settings = {**EXTRACTOR, **settings}
    least = settings["quality_threshold"]
    expected, lowered = literal_keyframes(
        frames,
        embeddings.__getitem__,
        lambda i: scores is None or scores[i] >= least,
        settings["threshold"],
        settings["max_keyframes"],
        known,
    )
    header, lines = read_report(report)
    assert [keyframe["frame"] for keyframe in shown] == expected
    assert [i for i, (_, _, verdict) in enumerate(lines) if verdict == "kept"] == expected
    assert f": {len(expected)} of {len(frames)} frames kept, threshold {lowered:.2f}" in header[0]
    last = None
    for i, (similarity, quality, verdict) in enumerate(lines):
        if last is not None:
            assert float(similarity) == pytest.approx(cosine(embeddings[frames[i]], embeddings[last]), abs=6e-5)
        if quality != "-":
            assert float(quality) == pytest.approx(scores[i], rel=1e-3)
        if verdict == "kept" or verdict.startswith("in the bank already"):
            last = frames[i]
    return expected


def test_keyframes_of_a_real_clip_are_those_of_the_literal_procedure(client):
    """Two overlapping shots of the clip; the second finds the first one's keyframes in the bank."""
    graph = Graph(client)
    clip = graph.footage(100)
    shots = [graph.frames(clip, first, 60) for first in (0, 40)]
    settings = [
        {},
        {"threshold": 0.98},
        {"threshold": 0.99, "max_keyframes": 6, "quality": "sharpness", "quality_threshold": 1080.0},
        {"threshold": 0.95, "max_keyframes": 1, "quality": "sharpness", "quality_threshold": 1.0},
    ]
    chains = []
    for changes in settings:
        first = graph.extractor(shots[0], **changes)
        second = graph.extractor(shots[1], first, label="Bunny", **changes)
        chains.append([(node, graph.text(output(node, 2))) for node in (first, second)])
    files = [graph.write(shot) for shot in shots]
    kept = [graph.write(output(node, 1)) for node, _ in chains[1]]
    outputs = graph.run()["outputs"]

    pictures = np.concatenate([as_uint8(graph.read(file)) for file in files])
    embeddings, scores = ColorLayout()(pictures), [sharpness(picture) for picture in pictures]
    assert 0.1 < np.mean(np.array(scores) < 1080) < 0.9, "this threshold separates frames"
    found, lowered = [], set()
    for changes, chain in zip(settings, chains, strict=True):
        known = []
        for shot, (node, text) in enumerate(chain):
            report, shown = outputs[text]["text"][0], outputs[node[0]]
            frames = list(range(60 * shot, 60 * shot + 60))
            indices = check_against_literal(
                embeddings,
                frames,
                known,
                report,
                shown["storymem_keyframes"],
                scores[60 * shot :] if "quality" in changes else None,
                **changes,
            )
            assert report.startswith(f"shot {shot + 1}: ") and "built-in colour-layout descriptor" in report
            lowered.add(report.splitlines()[0].split()[-1] != f"{changes.get('threshold', 0.9):.2f}")
            assert_alike(shown_pictures(client, shown["storymem_keyframes"]), pictures[frames][indices])
            assert shown["storymem_stored"] == [len(known) + len(indices)]
            for keyframe in shown["storymem_keyframes"]:
                assert keyframe["shot"] == shot + 1 and keyframe["label"] == ("Bunny" if shot else "")
                quality = scores[frames[keyframe["frame"]]] if "quality" in changes else None
                assert keyframe["quality"] == quality
            known += [frames[i] for i in indices]
            found.append(indices)
    assert lowered == {False, True}, "the threshold was lowered in some of these and not in others"
    assert found[0] != found[4] and "in the bank already (shot 1, frame" in outputs[chains[0][1][1]]["text"][0]
    for file, indices, base in zip(kept, found[2:4], (0, 60), strict=True):
        assert np.array_equal(as_uint8(graph.read(file)), pictures[base : base + 60][indices])


def test_a_clip_vision_embeds_every_picture_once_and_the_stored_ones_again(client, server):
    graph = Graph(client)
    clip = graph.footage(100)
    shots = [graph.frames(clip, first, 33) for first in (0, 33, 66)]
    clip_vision = graph.node("ProbeClipVision", seed=1, name="clip_vision.json")
    by_clip = {"threshold": 0.999, "max_keyframes": 30}
    built_in = graph.extractor(shots[0], memory_bank(graph, reference_images=graph.images(1, 1)), threshold=0.98)
    second = graph.extractor(shots[1], built_in, clip_vision=clip_vision, **by_clip)
    third = graph.extractor(shots[2], second, clip_vision=clip_vision, **by_clip)
    texts = [graph.text(output(node, 2)) for node in (built_in, second, third)]
    graph.node("StoryMemSaveBank", bank=third, filename_prefix="clip_vision/bank")
    outputs = graph.run()["outputs"]
    reports = [outputs[text]["text"][0] for text in texts]
    shown = [outputs[node[0]]["storymem_keyframes"] for node in (built_in, second, third)]

    made = np.array(graph.read_json("clip_vision.json"), np.float32)
    stored = 1 + len(shown[0])
    assert len(made) == stored + 33 + 33, "each frame once, each keyframe of the other embedder once"
    assert "built-in colour-layout descriptor" in reports[0] and "embedded again" not in reports[0]
    assert f"{stored} stored keyframes were embedded again" in reports[1]
    assert "embedded again" not in reports[2]
    assert all(shown) and "in the bank already" in reports[2]
    assert all("compared with clip_vision-" in text and "built-in" not in text for text in reports[1:])
    again, frames = range(stored), range(stored, stored + 33)
    indices = check_against_literal(made, frames, again, reports[1], shown[1], **by_clip)
    known = [*again, *(frames[i] for i in indices)]
    frames = range(stored + 33, stored + 66)
    indices = check_against_literal(made, frames, known, reports[2], shown[2], **by_clip)

    bank = load_bank(server.base / "output" / "clip_vision" / "bank_00001.safetensors")
    used = made[[*known, *(frames[i] for i in indices)]]
    used /= np.linalg.norm(used, axis=1, keepdims=True)
    assert len({keyframe.embedder for keyframe in bank.keyframes}) == 1
    assert np.allclose([keyframe.embedding for keyframe in bank.keyframes], used, atol=1e-6)
    assert bank.shots == 3 and bank.keyframes[0].pinned


def test_another_clip_vision_of_the_same_kind_is_another_embedder(client):
    graph = Graph(client)
    bank = None
    for seed in (1, 2):
        clip_vision = graph.node("ProbeClipVision", seed=seed, name=f"clip_vision_{seed}.json")
        bank = graph.extractor(graph.images(seed, 2), bank, clip_vision=clip_vision, threshold=1.0)
    text = graph.text(output(bank, 2))
    assert "2 stored keyframes were embedded again" in graph.run()["outputs"][text]["text"][0]


@pytest.fixture
def clip_checkpoint(server):
    """A file with the shape of OpenAI's ViT-B/32: random weights in the image tower, zeros elsewhere."""
    with torch.device("meta"):
        shapes = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32")).state_dict()
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.zeros(like.shape, dtype=torch.float16) for name, like in shapes.items()}
    for name in weights:
        if name.startswith("visual."):
            weights[name].normal_(0, 0.05, generator=generator)
    path = server.base / "output" / "clip_vision" / "random_quickgelu.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(weights, path)
    yield path
    path.unlink()


def test_keyframes_by_a_clip_checkpoint(client, clip_checkpoint):
    graph = Graph(client)
    shot = graph.images(31, 5)
    bank = memory_bank(graph, reference_images=graph.frames(shot, 3, 1))
    alike = {"threshold": 0.9993}  # random weights find all pictures alike
    node = graph.extractor(shot, bank, clip_checkpoint=clip_checkpoint.name, **alike)
    text, file = graph.text(output(node, 2)), graph.write(shot)
    outputs = graph.run()["outputs"]
    report, shown = outputs[text]["text"][0], outputs[node[0]]["storymem_keyframes"]
    embedder = OpenClip(clip_checkpoint, "ViT-B-32-quickgelu")
    embeddings = embedder(as_uint8(graph.read(file)))
    assert 0 in check_against_literal(embeddings, range(5), [3], report, shown, **alike)
    assert "in the bank already (reference 1, similarity 1.000)" in report
    assert f"compared with {embedder.name};" in report and "1 stored keyframes were embedded again" in report


def test_a_bank_comes_back_from_its_file_as_it_was(client, server):
    graph = Graph(client)
    references = graph.images(1, 2, height=64, width=32)
    bank = memory_bank(graph, reference_images=references, reference_labels="Ädä\nthe bridge", capacity=6, sink=1)
    bank = graph.extractor(graph.images(2, 3), bank, quality="sharpness", quality_threshold=0.0, label="dawn")
    before = memory_bank(graph, bank, capacity=4, sink=2)
    saved = graph.node("StoryMemSaveBank", bank=before, filename_prefix="round/trip/bank")
    loaded = graph.node("StoryMemLoadBank", bank_file=output(saved, 1))
    graph.node("StoryMemSaveBank", bank=loaded, filename_prefix="round/trip/again")
    files = [graph.write(output(node, 1)) for node in (before, loaded)]
    outputs = graph.run()["outputs"]
    assert outputs[saved[0]]["text"] == ["round/trip/bank_00001.safetensors"]
    assert torch.equal(*(graph.read(file) for file in files))
    shown = outputs[before[0]]["storymem_keyframes"]
    assert sum(keyframe["recalled"] for keyframe in shown) == 4
    for keyframe in shown:
        del keyframe["unedited"]
    assert outputs[loaded[0]]["storymem_keyframes"] == shown
    folder = server.base / "output" / "round" / "trip"
    contents = [read_safetensors(folder / f"{name}_00001.safetensors") for name in ("bank", "again")]
    assert contents[0] == contents[1]
    assert len(load_bank(folder / "bank_00001.safetensors").keyframes) == 5, "more than one shot recalls"


def test_saving_never_overwrites(client, server):
    folder = server.base / "output" / "numbers"
    folder.mkdir()
    (folder / "bank_00002.safetensors").write_bytes(b"somebody's")
    names = []
    for count in (1, 2, 3):
        graph = Graph(client)
        bank = memory_bank(graph, reference_images=graph.images(1, count))
        saved = graph.node("StoryMemSaveBank", bank=bank, filename_prefix="numbers/bank")
        names += graph.run()["outputs"][saved[0]]["text"]
    assert names == [f"numbers/bank_0000{number}.safetensors" for number in (1, 3, 4)]
    assert (folder / "bank_00002.safetensors").read_bytes() == b"somebody's"
    banks = [load_bank(server.base / "output" / name) for name in names]
    assert [len(bank.keyframes) for bank in banks] == [1, 2, 3]
    assert len(list(folder.iterdir())) == 4, "no unfinished files are left"


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(client, server):
    path = server.base / "output" / "changing.safetensors"
    graph = Graph(client)
    for count in (1, 2):
        bank = memory_bank(graph, reference_images=graph.images(1, count))
        graph.node("StoryMemSaveBank", bank=bank, filename_prefix=f"changing/{count}")
    graph.run()
    counts, cached = [], []
    for count in (1, 2, None):
        if count:
            save_bank(load_bank(path.parent / "changing" / f"{count}_00001.safetensors"), path)
        graph = Graph(client)
        loaded = graph.node("StoryMemLoadBank", bank_file=path.name)
        file = graph.write(output(loaded, 1))
        events = dict(graph.run()["status"]["messages"])
        counts.append(len(graph.read(file)))
        cached.append(loaded[0] in events["execution_cached"]["nodes"])
    assert counts == [1, 2, 2]
    assert cached == [False, False, True]


def film_and_shot(graph, kind, drift=0.0, frames=14, previous=9):
    """One film of `frames`, cut in two: its first 9 frames, and a shot that repeats 0, 1 or 5 of them."""
    film = graph.images(21, frames)
    start = previous - OVERLAP[kind]
    before = graph.frames(film, 0, previous)
    shot = graph.frames(film, start, frames - start)
    if drift:
        grey = graph.node("EmptyImage", width=WIDTH, height=HEIGHT, batch_size=frames - start, color=0x404040)
        shot = graph.node("ImageBlend", image1=shot, image2=grey, blend_factor=drift, blend_mode="normal")
    transition = {} if kind == "cut" else {"previous_images": before}
    transition = graph.node("StoryMemShotTransition", kind=kind, **transition)
    return film, {"previous_images": before, "images": shot, "transition": transition}


def join(graph, shots, crossfade=0, match_color=False):
    return graph.write(graph.node("StoryMemJoinShots", **shots, crossfade=crossfade, match_color=match_color))


@pytest.mark.parametrize("kind", OVERLAP)
def test_joining_drops_exactly_the_repeated_frames(client, kind):
    """Shots of one film, joined, are that film; another picture in place of each repeated frame is not seen."""
    graph = Graph(client)
    film, shots = film_and_shot(graph, kind)
    joined, film = join(graph, shots), graph.write(film)
    other = graph.images(22, 7)
    replaced = join(graph, {**shots, "images": other})
    other = graph.write(other)
    graph.run()
    film = graph.read(film)
    assert torch.equal(graph.read(joined), film)
    assert torch.equal(graph.read(replaced), torch.cat([film[:9], graph.read(other)[OVERLAP[kind] :]]))


@pytest.mark.parametrize("kind, crossfade", [("cut", 3), ("first_frame", 1), ("motion_frames", 5)])
def test_a_crossfade_blends_both_shots(client, kind, crossfade):
    graph = Graph(client)
    film, shots = film_and_shot(graph, kind)
    shots["images"] = graph.images(22, 7)
    files = join(graph, shots, crossfade), graph.write(film), graph.write(shots["images"])
    graph.run()
    joined, film, other = (graph.read(file) for file in files)
    expected = list(film[: 9 - crossfade])
    for i in range(crossfade):
        weight = (i + 1) / (crossfade + 1)
        expected.append((1 - weight) * film[9 - crossfade + i] + weight * other[i])
    expected += list(other[crossfade:])
    assert torch.allclose(joined, torch.stack(expected), atol=1e-6)


@pytest.mark.parametrize("kind", OVERLAP)
def test_matching_colours_undoes_a_drift_of_a_continued_shot(client, kind):
    """The shot has lost 30 % of its contrast towards a dark grey; after a cut it must stay so."""
    graph = Graph(client)
    film, shots = film_and_shot(graph, kind, drift=0.3)
    files = join(graph, shots), join(graph, shots, match_color=True), graph.write(film)
    graph.run()
    drifted, matched, film = (graph.read(file) for file in files)
    assert (drifted - film).abs().max() > 0.1
    if kind == "cut":
        assert torch.equal(matched, drifted)
    else:
        assert torch.allclose(matched, film, atol=1e-4)


def story(graph, **memory):
    """Two shots, the second continuing five frames of the first; `bank` False forgets in between."""
    remember = memory.pop("bank", True)
    shot = {"model": graph.model(), "vae": graph.vae(), **graph.prompts()}
    settings = sampler_defaults(**{**UNI_PC, "steps": 2, "sampler_name": "euler"}, **memory)
    cut = graph.node("StoryMemShotTransition", kind="cut")
    first_latent = graph.node("StoryMemSampler", **shot, transition=cut, bank=memory_bank(graph), **settings)
    first = graph.node("VAEDecode", samples=first_latent, vae=shot["vae"])
    bank = graph.extractor(first, threshold=1.0)
    continued = graph.node("StoryMemShotTransition", kind="motion_frames", previous_images=first)
    remembered = {"bank": bank} if remember else {}
    latent = graph.node("StoryMemSampler", **shot, transition=continued, **remembered, **settings)
    second = graph.node("VAEDecode", samples=latent, vae=shot["vae"])
    film = graph.node(
        "StoryMemJoinShots",
        previous_images=first,
        images=second,
        transition=continued,
        crossfade=0,
        match_color=False,
    )
    return first_latent, first, bank, latent, second, film


def test_a_small_story(client):
    """A cut and a continuation: nothing of the memory is in the film, and the film has every frame once."""
    graph = Graph(client)
    first_latent, first, bank, latent, second, film = story(graph)
    after = graph.extractor(second, bank, threshold=1.0)
    recalled = memory_bank(graph, after)
    files = [graph.write(images) for images in (first, second, film, output(recalled, 1))]
    outputs = graph.run()["outputs"]
    first, second, film, keyframes = (graph.read(file) for file in files)
    assert len(first) == len(second) == LENGTH and len(film) == 2 * LENGTH - 5
    assert torch.equal(film, torch.cat([first, second[5:]]))
    assert outputs[first_latent[0]]["storymem_recalled"] == []
    stored = outputs[bank[0]]["storymem_keyframes"]
    assert 1 <= len(stored) <= 3 and outputs[latent[0]]["storymem_recalled"] == described(stored)
    stored = stored + outputs[after[0]]["storymem_keyframes"]
    assert {keyframe["shot"] for keyframe in stored} == {1, 2}
    shown = outputs[recalled[0]]["storymem_keyframes"]
    assert described(shown) == described(stored) and all(keyframe["recalled"] for keyframe in shown)
    shots = {1: as_uint8(first.clamp(0, 1)), 2: as_uint8(second.clamp(0, 1))}
    expected = np.stack([shots[keyframe["shot"]][keyframe["frame"]] for keyframe in stored])
    assert np.array_equal(as_uint8(keyframes), expected)


def test_memory_changes_a_story_only_through_attention(client):
    """At strength 0 the decoded shot is that of no memory at all: no frame of it is a memory frame."""
    graph = Graph(client)
    stories = [{"bank": False}, {"memory_strength": 0.0}, {}]
    files = [graph.write(story(graph, **changes)[4]) for changes in stories]
    graph.run()
    without, unused, used = (graph.read(file) for file in files)
    assert torch.allclose(without, unused, atol=1e-3)
    assert (used - without).abs().max() > 1e-2
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(used, 2))
