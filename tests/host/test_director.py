"""The Story Director through the real server: films frame for frame, and nothing sampled twice."""

import json
import os
import re
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from host_graph import HEIGHT, LENGTH, LOW, SIZE, T2V, WIDTH, Graph, memory_defaults
from storymem_core.bank import Keyframe, MemoryBank
from storymem_core.film import write_video
from storymem_core.storage import load_bank
from tools.client import Client, NodeError
from tools.server import Server
from tools.setup import BASE, FOOTAGE_NAME, make_base

SEED, STEPS = 3, 2


def shot(prompt: str, kind: str = "cut", **fields) -> dict:
    return {"video_prompts": prompt, "cut": kind == "cut", "transition": kind, **fields}


def story(*scenes: list[dict], name: str | None = None, references: dict | None = None) -> dict:
    """A script of shots; fields that a shot does not give are null. Without a name: one never used before."""
    fields = ("video_prompts", "cut", "transition", "length", "seed", "characters")
    return {
        "story_name": name or f"story {uuid.uuid4().hex}",
        "scenes": [
            {"scene_num": number, **{field: [one.get(field) for one in shots] for field in fields}}
            for number, shots in enumerate(scenes, 1)
        ],
        "references": references or {},
    }


@dataclass(frozen=True)
class Film:
    """What a run of the Director made. sampled: numbers of the shots of which steps were sampled."""

    file: Path
    saved: Path
    folders: list[Path]
    sampled: list[int]
    log: str

    def pictures(self) -> np.ndarray:
        return pictures_of(self.file)

    def bank(self, number: int) -> MemoryBank:
        """The memory after a shot."""
        return load_bank(self.folders[number - 1] / "bank.safetensors")

    def manifest(self, number: int) -> dict:
        return json.loads((self.folders[number - 1] / "manifest.json").read_text())

    def last_frames(self, number: int) -> np.ndarray:
        return load_file(self.folders[number - 1] / "last_frames.safetensors")["frames"]

    def made(self) -> list[tuple]:
        """Changes for a shot that was written anew."""
        return [(folder.stat().st_ino, folder.stat().st_mtime_ns) for folder in self.folders]


def pictures_of(video: Path) -> np.ndarray:
    """uint8 [N, H, W, 3]"""
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def produce(server: Server, script: dict, graph: Graph | None = None, **settings) -> Film:
    graph, steps = graph or Graph(server.client), []
    graph.director(script, **settings)
    written = server.log.stat().st_size

    def on_event(event, data):
        if event == "progress" and (found := re.search(r"shot(\d+)_sampler", data["node"])):
            steps.append(int(found[1]))

    entry = graph.run(on_event=on_event)
    with server.log.open(errors="replace") as log:
        log.seek(written)
        return film_of(server, entry, sorted(set(steps)), log.read())


def film_of(server: Server, entry: dict, sampled: list[int], log: str = "") -> Film:
    """The film in the history entry of a prompt."""
    files, folders = {}, {}
    for node, output in entry["outputs"].items():
        if images := output.get("images"):
            path = server.base / "output" / images[0]["subfolder"] / images[0]["filename"]
            name = node.split(".")[-1]
            files[name] = path
            if found := re.fullmatch(r"shot(\d+)_files", name):
                folders[int(found[1])] = path.parent
    (saved,) = (path for name, path in files.items() if name.isdigit() and path.suffix == ".mp4")
    return Film(files["film"], saved, [folders[number] for number in sorted(folders)], sampled, log)


def write_picture(server: Server, name: str, picture: np.ndarray) -> str:
    cv2.imwrite(str(server.base / "input" / name), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return name


def seeded_picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def by_hand(server: Server, shots: list[dict], crossfade: int = 0, blend_overlap=False, match_color=False, **memory):
    """The same film from the ordinary nodes, shot after shot: its frames before encoding, of each shot those
    that are its own, and the memory after it."""
    client, film, parts, banks, bank_file = server.client, np.zeros((0, HEIGHT, WIDTH, 3), np.uint8), [], [], None
    for number, one in enumerate(shots, 1):
        graph, kind = Graph(client), one["transition"]
        overlap = {"cut": 0, "first_frame": 1, "motion_frames": 5}[kind]
        blended = 0 if number == 1 else (overlap * blend_overlap if overlap else crossfade)
        tail = film[-max(5, crossfade + 1) :]
        bank, vae, clip = graph.bank(0), graph.vae(), graph.clip()
        if bank_file:
            bank = graph.node("StoryMemLoadBank", bank_file=bank_file)
        if len(tail):
            names = [write_picture(server, f"by_hand_{i}.png", picture) for i, picture in enumerate(tail)]
            images = [graph.node("LoadImage", image=name) for name in names]
            before = images[0]
            for image in images[1:]:
                before = graph.node("ImageBatch", image1=before, image2=image)
        last = {"previous_images": before} if overlap else {}
        transition = graph.node("StoryMemShotTransition", kind=kind, **last)
        latent = graph.node(
            "StoryMemSampler",
            model=graph.model(),
            vae=vae,
            positive=graph.node("CLIPTextEncode", clip=clip, text=one["video_prompts"]),
            negative=graph.node("CLIPTextEncode", clip=clip, text="blurry"),
            bank=bank,
            transition=transition,
            **{**SIZE, "length": one.get("length") or LENGTH},
            seed=one.get("seed", SEED + number),
            steps=STEPS,
            cfg=3.5,
            sampler_name="euler",
            scheduler="simple",
            shift=4.0,
            boundary=0.9,
            **memory_defaults(**memory),
        )
        images = graph.node("VAEDecode", samples=latent, vae=vae)
        if len(tail):
            settings = {"crossfade": blended, "match_color": match_color}
            images = graph.node(
                "StoryMemJoinShots", previous_images=before, images=images, transition=transition, **settings
            )
            count = (one.get("length") or LENGTH) - overlap + (blended if overlap else 0)
            images = graph.frames(images, len(tail) - blended, count)
        bank = graph.extractor(images, bank, label=", ".join(one.get("characters", [])))
        saved = graph.node("StoryMemSaveBank", bank=bank, filename_prefix=f"by_hand/{uuid.uuid4().hex}")
        file = graph.write(images)
        (bank_file,) = graph.run()["outputs"][saved[0]]["text"]
        part = (graph.read(file).clamp(0, 1) * 255).round().byte().numpy()
        film = np.concatenate([film[: len(film) - blended], part])
        parts.append(part)
        banks.append(load_bank(server.base / "output" / bank_file))
    return film, parts, banks


def same_pictures(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether uint8 pictures agree to a level: shots are sampled twice, and floats may differ in their last bits."""
    return ours.shape == theirs.shape and np.abs(ours.astype(int) - theirs).max() <= 1


def same_video(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """The same of encoded pictures, where a level may become several. Encoding itself moves the pictures of these
    models by 4 levels; any other pictures are 26 levels away."""
    return ours.shape == theirs.shape and np.abs(ours.astype(int) - theirs).mean() < 1


def described(keyframe: Keyframe) -> tuple:
    return keyframe.shot, keyframe.frame, keyframe.label, keyframe.pinned, keyframe.quality  # none is measured here


def same_memory(ours: MemoryBank, theirs: MemoryBank) -> bool:
    return len(ours.keyframes) == len(theirs.keyframes) and all(
        described(one) == described(other)
        and same_pictures(one.image, other.image)
        and np.allclose(one.embedding, other.embedding, atol=0.01)
        for one, other in zip(ours.keyframes, theirs.keyframes, strict=True)
    )


# A crossfade replaces frames of the shot before it.
FIVE = [
    [
        shot("a red fox in the snow"),
        shot("the fox runs", "first_frame", characters=["fox"]),
        shot("the fox jumps", "motion_frames", length=13),
    ],
    [shot("a house at night", seed=2**64 - 1), shot("a door opens")],
]
FRAMES = [LENGTH, LENGTH - 1, 13 - 5, LENGTH, LENGTH]


@pytest.mark.parametrize(
    "settings, frames",
    [
        ({}, sum(FRAMES)),
        ({"crossfade": 3, "blend_overlap": True, "match_color": True, "memory_guidance": 1.5}, sum(FRAMES) - 2 * 3),
    ],
)
def test_a_film_is_what_the_ordinary_nodes_make(server, tmp_path, settings, frames):
    film = produce(server, story(*FIVE), **settings)
    shots = [one for scene in FIVE for one in scene]
    expected, parts, banks = by_hand(server, shots, **settings)
    assert film.sampled == [1, 2, 3, 4, 5]
    assert len(expected) == frames
    for number, (part, bank) in enumerate(zip(parts, banks, strict=True), 1):
        assert same_pictures(film.last_frames(number)[-5:], np.concatenate(parts[:number])[-5:]), number
        assert same_memory(film.bank(number), bank), number
        write_video(tmp_path / "part.mp4", part, 16)
        assert same_video(pictures_of(film.folders[number - 1] / "video.mp4"), pictures_of(tmp_path / "part.mp4"))
    assert same_pictures(film.last_frames(5)[-5:], expected[-5:])

    shown = film.pictures()
    assert shown.shape == (frames, HEIGHT, WIDTH, 3)
    videos = [pictures_of(folder / "video.mp4") for folder in film.folders]
    replaced = [film.manifest(number)["replaced"] for number in range(2, 6)] + [0]
    kept = [video[: len(video) - left_out] for video, left_out in zip(videos, replaced, strict=True)]
    assert np.array_equal(shown, np.concatenate(kept))
    assert np.array_equal(pictures_of(film.saved), shown)


def test_a_short_continuation_is_continued_over_its_own_beginning(server):
    """Of nine frames, motion_frames adds four: the next one's five reach back into the shot before."""
    shots = [shot("a fox"), shot("it runs", "motion_frames"), shot("it jumps", "motion_frames")]
    film = produce(server, story(shots))
    expected, _, _ = by_hand(server, shots)
    assert len(film.pictures()) == len(expected) == 9 + 4 + 4
    assert same_pictures(film.last_frames(3), expected[-5:])


def test_only_the_director_makes_plans(server):
    graph = Graph(server.client)
    negative = graph.prompts()["negative"]
    inner = {"model": graph.model(), "clip": graph.clip(), "vae": graph.vae(), "bank": graph.bank(0)}
    shot = graph.node("StoryMemDirectedShot", plan={"number": 1}, folder="stories/x", negative=negative, **inner)
    graph.node("PreviewAny", source=shot)
    with pytest.raises(NodeError, match=r"plan=.*Use Story Director"):
        graph.run()


def test_fps_is_the_films(server):
    film = produce(server, story([shot("a fox"), shot("a house")]), fps=23.976)
    with av.open(str(film.file)) as container:
        stream = container.streams.video[0]
        assert abs(float(stream.average_rate) - 23.976) < 1e-3
        times = [frame.time for frame in container.decode(stream)]
    assert np.allclose(np.diff(times), 1 / 23.976, atol=1e-3)


THREE = [[shot("a fox"), shot("it runs", "first_frame"), shot("a house")]]


@pytest.fixture(scope="module")
def three(server) -> tuple[dict, Film]:
    """A finished story, and its film."""
    script = story(*THREE)
    return script, produce(server, script)


def test_a_second_run_samples_nothing(server, three):
    script, film = three
    again = produce(server, script)
    assert again.sampled == []
    assert again.made() == film.made()
    assert np.array_equal(again.pictures(), film.pictures())


def test_the_storyboard_is_told_what_became_of_each_shot(server, three):
    script, _ = three
    script = changed(script, 3, video_prompts=" a mill ")
    graph = Graph(server.client)
    director, _ = graph.director(script)
    outputs = graph.run()["outputs"]
    node, _ = graph[director]["inputs"]["story"]
    assert outputs[director]["storymem_story"] == [{"script": node, "prompts": ["a fox", "it runs", "a mill"]}]
    told = [shown for output in outputs.values() for shown in output.get("storymem_shot", [])]
    told.sort(key=lambda shown: shown["number"])
    assert [(shown["number"], shown["reused"]) for shown in told] == [(1, True), (2, True), (3, False)]
    assert not any("storymem_shot" in output for name, output in outputs.items() if not name.endswith("_files"))
    for shown in told:
        picture = cv2.imdecode(np.frombuffer(server.client.view(**shown["thumbnail"]), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (HEIGHT, WIDTH, 3)


def test_a_new_server_finds_the_shots_of_another(server, three, tmp_path):
    script, film = three
    make_base(tmp_path, BASE / "input" / FOOTAGE_NAME, models=BASE / "models")
    (tmp_path / "output").rmdir()
    (tmp_path / "output").symlink_to(server.base / "output", target_is_directory=True)
    with Server(tmp_path) as other:
        again = produce(other, script)
    assert again.sampled == []
    assert again.made() == film.made()
    assert np.array_equal(again.pictures(), film.pictures())


def changed(script: dict, number: int, **fields) -> dict:
    """The script with fields of one shot of its first scene changed."""
    (scene,) = script["scenes"]
    scene = {name: list(values) if isinstance(values, list) else values for name, values in scene.items()}
    for field, value in fields.items():
        scene[field][number - 1] = value
    return {**script, "scenes": [scene]}


@pytest.mark.parametrize(
    "number, fields, sampled",
    [
        (3, {"video_prompts": "a tower"}, [3]),
        (2, {"video_prompts": "it swims"}, [2, 3]),
        (1, {"video_prompts": "a wolf"}, [1, 2, 3]),
        (2, {"seed": 6}, [2, 3]),
        (3, {"length": 13}, [3]),
        (2, {"transition": "cut", "cut": True}, [2, 3]),
        (2, {"transition": None}, []),  # first_frame is the Director's default
        (2, {"seed": SEED + 2}, []),  # story seed + shot number is, too
        (3, {"characters": ["fox"]}, [3]),  # labels the keyframes
    ],
)
def test_a_changed_shot_and_those_after_it_are_made_anew(server, three, number, fields, sampled):
    script, film = three
    again = produce(server, changed(script, number, **fields))
    assert again.sampled == sampled
    kept = [i for i in (1, 2, 3) if i not in sampled]
    assert [again.made()[i - 1] for i in kept] == [film.made()[i - 1] for i in kept]
    assert f"to sample: {sampled or 'none'}" in again.log
    assert produce(server, script).sampled == []


def test_a_shot_more_or_less_remakes_nothing_even_with_crossfades(server):
    script = story([shot("a fox"), shot("it runs", "first_frame")])
    produce(server, script, crossfade=6)
    longer = {**script, "scenes": story([*THREE[0][:1], shot("it runs", "first_frame"), shot("a house")])["scenes"]}
    film = produce(server, longer, crossfade=6)
    assert film.sampled == [3]
    assert len(film.pictures()) == 9 + 8 + 9 - 6
    assert produce(server, script, crossfade=6).sampled == []


@pytest.mark.parametrize("change", ["steps", "model", "low noise", "lora", "loader setting", "negative prompt", "bank"])
def test_what_all_shots_share_remakes_all(server, three, change):
    script, film = three
    graph, settings = Graph(server.client), {}
    if change == "steps":
        settings["steps"] = 3
    elif change == "model":
        settings["model"] = graph.model(LOW)
    elif change == "low noise":
        settings["model_low_noise"] = graph.model(LOW)
    elif change == "lora":
        lora = {"lora_name": "storymem_demo_high_noise.safetensors", "strength": 1.0}
        settings["model"] = graph.node("StoryMemLoraLoader", model=graph.model(), **lora)
    elif change == "loader setting":
        file = "storymem_demo_high_noise.safetensors"
        settings["model"] = graph.node("UNETLoader", unet_name=file, weight_dtype="fp8_e4m3fn")
    elif change == "negative prompt":
        settings["negative_prompt"] = "dark"
    elif change == "bank":
        settings["bank"] = graph.bank(1)
    again = produce(server, script, graph, **settings)
    assert again.sampled == [1, 2, 3]
    assert not {folder.name for folder in again.folders} & {folder.name for folder in film.folders}


def test_another_place_in_the_graph_remakes_nothing(server, three):
    """Other node numbers, other nodes beside: what determines the shots is the same."""
    graph = Graph(server.client)
    graph.write(graph.images(1, 1))
    vae, clip, model = graph.vae(), graph.clip(), graph.model()
    assert produce(server, three[0], graph, vae=vae, clip=clip, model=model).sampled == []


def test_a_changed_reference_remakes_shots_from_its_first_use(server):
    ann, fox, place = ("director_ann.png", "director_fox.png", "director_place.png")
    for seed, name in enumerate((ann, fox, place)):
        write_picture(server, name, seeded_picture(seed))
    shots = [
        shot("Ann", characters=["Ann"]),
        shot("a fox", characters=["fox", "Ann"]),
        shot("a house", "first_frame", characters=["fox"]),
    ]
    script = story(shots, references={"Ann": ann, "fox": fox, "the place": place})
    film = produce(server, script)
    pinned = [{k.label: k.image for k in film.bank(number).keyframes if k.pinned} for number in (1, 2, 3)]
    assert [set(labels) for labels in pinned] == [{"Ann", "the place"}, {"Ann", "the place", "fox"}, set(pinned[1])]
    for seed, label in enumerate(("Ann", "fox", "the place")):
        assert np.array_equal(pinned[1][label], seeded_picture(seed))
    (fox_id,) = (k.id for k in film.bank(2).keyframes if k.label == "fox" and k.pinned)
    assert [fox_id in film.manifest(number)["recalled"] for number in (1, 2, 3)] == [False, True, True]
    assert {k.label for k in film.bank(3).keyframes if k.shot == 2} == {"fox, Ann"}

    write_picture(server, fox, seeded_picture(11))
    again = produce(server, script)
    assert again.sampled == [2, 3]
    assert again.made()[0] == film.made()[0]
    assert [np.array_equal(k.image, seeded_picture(11)) for k in again.bank(2).keyframes if k.label == "fox"] == [True]
    write_picture(server, place, seeded_picture(12))  # nobody's: it is needed from the beginning
    assert produce(server, script).sampled == [1, 2, 3]


def damage_byte(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)


DAMAGES = {
    "video byte": lambda folder: damage_byte(folder, "video.mp4"),
    "frames byte": lambda folder: damage_byte(folder, "last_frames.safetensors"),
    "bank byte": lambda folder: damage_byte(folder, "bank.safetensors"),
    "thumbnail byte": lambda folder: damage_byte(folder, "thumbnail.jpg"),
    "manifest byte": lambda folder: damage_byte(folder, "manifest.json"),
    "no video": lambda folder: (folder / "video.mp4").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "empty video": lambda folder: (folder / "video.mp4").write_bytes(b""),
    "no folder": lambda folder: folder.rename(folder.with_name("moved " + uuid.uuid4().hex)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shot_alone_is_made_anew(server, three, damage):
    script, _ = three
    film = produce(server, script)
    before, pictures = film.made(), film.pictures()
    DAMAGES[damage](film.folders[1])
    again = produce(server, script)
    assert again.sampled == [2]
    assert [a == b for a, b in zip(again.made(), before, strict=True)] == [True, False, True]
    assert np.array_equal(again.pictures(), pictures)
    assert "to sample: [2]" in again.log
    if damage != "no folder":
        assert re.search(rf"{film.folders[1].name}\S* is (damaged|missing).*: this shot is made anew", again.log)
    assert produce(server, script).sampled == []


def test_half_written_files_of_killed_runs_are_removed(server, three):
    """Only those older than the server: a younger one may be at work in another process."""
    script, film = three
    root = film.file.parent
    old, young = (root / f".{uuid.uuid4().hex}.part" for _ in range(2))
    for part in (old, young):
        part.mkdir()
        (part / "video.mp4").write_bytes(b"half")
    old_film = root / f".{uuid.uuid4().hex}.part"
    old_film.write_bytes(b"half")
    for part in (old, old_film):
        os.utime(part, (0, 0))
    assert produce(server, script).sampled == []
    assert not old.exists() and not old_film.exists()
    assert (young / "video.mp4").exists()


def test_the_first_shot_of_a_text_to_video_model_is_the_hosts(server):
    graph = Graph(server.client)
    film = produce(server, story([shot("a fox"), shot("it runs", "first_frame")]), graph, model_t2v=graph.model(T2V))
    assert film.sampled == [1, 2]
    host = Graph(server.client)
    clip = host.clip()
    latent = host.node(
        "KSampler",
        model=host.node("ModelSamplingSD3", model=host.model(T2V), shift=4.0),
        positive=host.node("CLIPTextEncode", clip=clip, text="a fox"),
        negative=host.node("CLIPTextEncode", clip=clip, text="blurry"),
        latent_image=host.node("EmptyHunyuanLatentVideo", **SIZE, batch_size=1),
        seed=SEED + 1,
        steps=STEPS,
        cfg=3.5,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )
    file = host.write(host.node("VAEDecode", samples=latent, vae=host.vae()))
    host.run()
    expected = (host.read(file)[-5:].clamp(0, 1) * 255).round().byte().numpy()
    assert np.array_equal(film.last_frames(1), expected)


def test_two_text_to_video_experts_switch_where_they_were_trained_to(server):
    """shift 4, three steps: sigma 1, 0.889, 0.667. Wan 2.2 T2V switches at 0.875, so after two."""
    graph, calls = Graph(server.client), {}
    for name in ("model_t2v", "model_t2v_low_noise"):
        calls[name] = f"{uuid.uuid4().hex}.json"
    models = {
        name: graph.node("ProbeModelCalls", model=graph.model(T2V), name=file, scale=1.0)
        for name, file in calls.items()
    }
    produce(server, story([shot("a fox")]), graph, **models, steps=3, cfg=1.0)
    assert [len(graph.read_json(file)) for file in calls.values()] == [2, 1]


@pytest.mark.parametrize("source", ["bank", "script"])
def test_references_make_the_first_shot_by_the_memory_model(server, source):
    """MR2V: with references, the connected text-to-video model must not matter."""
    script, settings = story([shot("a fox", characters=["fox"])]), {}
    if source == "script":
        write_picture(server, "director_mr2v.png", seeded_picture(3))
        script["references"] = {"fox": "director_mr2v.png"}
    films = []
    for t2v in (False, True):
        graph = Graph(server.client)
        if source == "bank":
            settings["bank"] = graph.bank(2)
        if t2v:
            settings["model_t2v"] = graph.model(T2V)
        films.append(produce(server, script, graph, **settings))
    assert [film.sampled for film in films] == [[1], [1]]
    assert films[0].folders != films[1].folders
    assert np.array_equal(films[0].last_frames(1), films[1].last_frames(1))
    assert len(films[1].manifest(1)["recalled"]) == {"bank": 2, "script": 1}[source]


def test_a_directed_shot_recalls_whom_it_shows(server):
    shots = [shot(f"a {who}", characters=[who]) for who in ("fox", "cat", "fox")]
    films = {}
    for policy in ("sliding_window", "same_labels"):
        graph = Graph(server.client)
        films[policy] = produce(server, story(shots), graph, bank=graph.bank(0, policy=policy))
    of_shot = {number: films["same_labels"].bank(number).keyframes for number in (1, 2)}
    ids = {number: [keyframe.id for keyframe in keyframes] for number, keyframes in of_shot.items()}
    assert {keyframe.label for keyframe in of_shot[1]} == {"fox"} and len(ids[2]) > len(ids[1])
    # Of the cat nothing is known: its shot recalls everything.
    recalled = {policy: [film.manifest(number)["recalled"] for number in (2, 3)] for policy, film in films.items()}
    assert recalled == {"sliding_window": [ids[1], ids[2]], "same_labels": [ids[1], ids[1]]}
    made = {policy: [film.last_frames(number) for number in (2, 3)] for policy, film in films.items()}
    assert np.array_equal(made["same_labels"][0], made["sliding_window"][0])
    assert not np.array_equal(made["same_labels"][1], made["sliding_window"][1])


def test_cancel_keeps_the_finished_shots(server):
    script = story([shot("a fox"), shot("it runs", "first_frame"), shot("a house"), shot("a door")])
    graph = Graph(server.client)
    graph.director(script, steps=10)

    def cancel_in_shot_3(event, data):
        if event == "progress" and data["node"].endswith("shot3_sampler") and data["value"] == 1:
            server.client.interrupt()

    with pytest.raises(NodeError) as error:
        graph.run(on_event=cancel_in_shot_3)
    assert error.value.exception_type == "interrupted"
    film = produce(server, script, steps=10)
    assert film.sampled == [3, 4]
    assert len(film.pictures()) == 9 + 8 + 9 + 9


def test_two_stories_of_one_name_at_once_do_not_meet(server):
    """Both are queued before either is made; each is then what it is when made alone."""
    name = f"story {uuid.uuid4().hex}"
    texts = [("a fox", "it runs"), ("a ship", "it sails")]
    stories = [[shot(first), shot(second, "first_frame")] for first, second in texts]
    clients = [Client(server.client.url) for _ in stories]
    prompts = []
    for client, shots in zip(clients, stories, strict=True):
        graph = Graph(client)
        graph.director(story(shots, name=name))
        prompts.append(client.submit(dict(graph)))
    films = [film_of(server, client.wait(prompt), []) for client, prompt in zip(clients, prompts, strict=True)]
    assert films[0].file != films[1].file and films[0].file.parent == films[1].file.parent
    assert not {folder.name for folder in films[0].folders} & {folder.name for folder in films[1].folders}
    for film, shots in zip(films, stories, strict=True):
        assert produce(server, story(shots, name=name)).sampled == []
        alone = produce(server, story(shots))
        assert alone.sampled == [1, 2]
        assert same_video(film.pictures(), alone.pictures())
        assert same_memory(film.bank(2), alone.bank(2))


@pytest.mark.parametrize(
    "name", ["../../escaped", "/etc/escaped", "C:\\escaped", "灯台 🗼", "x" * 300, "...", "a/b", ".hidden", "CON"]
)
def test_any_story_name_stays_in_its_folder(server, name):
    film = produce(server, story([shot("a fox", length=1)], name=name))
    root = (server.base / "output" / "stories").resolve()
    assert film.file.resolve().parent.parent == root
    assert film.folders[0].resolve().parent.parent == root
    assert len(film.pictures()) == 1


@pytest.mark.parametrize("folder", ["../escaped", "/tmp/escaped", "stories/../../escaped", "C:\\escaped", "leads_out"])
def test_a_folder_outside_the_output_tree_is_refused(server, folder, tmp_path):
    link = server.base / "output" / "leads_out"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(NodeError) as error:
        produce(server, story([shot("a fox", length=1)]), folder=folder)
    link.unlink()
    assert error.value.node_type == "StoryMemDirector"
    assert "folder" in error.value.message
    assert list(tmp_path.iterdir()) == []
    assert not (server.base / "escaped").exists() and not Path("/tmp/escaped").exists()
    assert len(produce(server, story([shot("a fox", length=1)])).pictures()) == 1


@pytest.mark.parametrize(
    "shots, settings, message",
    [
        ([shot("a fox"), shot("a house")], {"crossfade": 9}, "crossfade=9: shot 1 shows 9 frames, shot 2 has 9"),
        (
            [shot("a fox"), shot("it runs", "motion_frames"), shot("a house")],
            {"crossfade": 4},
            "crossfade=4: shot 2 shows 4 frames, shot 3 has 9",
        ),
        ([shot("a fox"), shot("it runs", None, cut=False)], {"length": 1}, "length=1: shot 2 repeats 1 frames"),
        ([shot("a fox")], {"width": 40}, "width=40"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is_sampled(server, shots, settings, message):
    script = story(shots)
    if None in script["scenes"][0]["transition"]:
        script["scenes"][0]["cut"] = [True, False]
    with pytest.raises(NodeError) as error:
        produce(server, script, **settings)
    assert error.value.node_type == "StoryMemDirector"
    assert message in error.value.message.replace(" = ", "=")


@pytest.fixture
def small_disk(server, tmp_path):
    """A folder in the output tree that is a file system of 200 KiB."""
    disk = server.base / "output" / "small_disk"
    disk.mkdir(exist_ok=True)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_the_finished_shots(server, small_disk):
    script = story([shot(f"shot {number}") for number in range(1, 8)], name="full")
    with pytest.raises(NodeError) as error:
        produce(server, script, folder="small_disk")
    assert re.search(r"shot \d cannot be written .*No space left on device.* run again", error.value.message)
    root = small_disk / "full"
    finished = sorted(path.name for path in root.iterdir())
    assert 1 <= len(finished) < 7 and all(re.fullmatch(r"00\d-[0-9a-f]{32}", name) for name in finished)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    film = produce(server, script, folder="small_disk")
    assert film.sampled == list(range(len(finished) + 1, 8))
    assert len(film.pictures()) == 7 * LENGTH
