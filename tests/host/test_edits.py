"""Edits by hand on the Memory Bank, through the real server: what they change in the next shot, and the cache."""

import json

import torch

from host_graph import HEIGHT, LENGTH, WIDTH, Graph, memory_defaults

COUNT = 6
CAPACITY, SINK = 4, 2
SETTINGS = {"capacity": CAPACITY, "sink": SINK, "policy": "sliding_window"}


class Shot:
    """A shot's keyframes in an edited memory, and what a sampler would get of them."""

    def __init__(self, client, edits=None, label="run"):
        """edits: {"keyframes": {place: changes}, "order": [place, ...]} in places of the memory without edits."""
        self.graph = graph = Graph(client)
        self.images = graph.images(31, COUNT)
        stored = graph.extractor(self.images, threshold=1.0, max_keyframes=COUNT, label=label)
        self.bank = graph.node("StoryMemMemoryBank", bank=stored, **SETTINGS)
        if edits is not None:
            graph[self.bank[0]]["inputs"]["edits"] = edits
        vae = graph.vae()
        size = {"width": WIDTH, "height": HEIGHT, "length": LENGTH}
        model = {"model": graph.model(), "vae": vae, **graph.prompts()}
        memory = graph.node("StoryMemApplyMemory", **model, bank=self.bank, **size, **memory_defaults())
        pictures = graph.write(self.images), graph.write([self.bank[0], 1])
        conditioning = graph.write_conditioning([memory[0], 1])
        # each picture alone, through the host's own VAE node
        latents = [
            graph.write(graph.node("VAEEncode", pixels=graph.frames(self.images, i, 1), vae=vae)) for i in range(COUNT)
        ]
        self.history = graph.run()
        self.shown = self.history["outputs"][self.bank[0]]["storymem_keyframes"]
        images, recalled = (graph.read(file) for file in pictures)
        self.recalled = [self.place_of(image, images) for image in recalled]
        latents = [graph.read(file) for file in latents]
        known = graph.read_all(conditioning)["concat_latent_image"][:, :, : len(self.recalled)]
        self.conditioned = [
            self.place_of(known[:, :, i], [latent[:, :, 0] for latent in latents]) for i in range(len(self.recalled))
        ]

    @staticmethod
    def place_of(value, values):
        (place,) = [i for i, other in enumerate(values) if torch.allclose(value, other, atol=1e-4)]
        return place


def edits_of(shown, keyframes=None, order=()):
    """The edits text for changes by place."""
    ids = [keyframe["id"] for keyframe in shown]
    keyframes = {ids[place]: changes for place, changes in (keyframes or {}).items()}
    return json.dumps({"keyframes": keyframes, "order": [ids[place] for place in order]})


def test_edits_change_what_the_next_shot_recalls(client):
    plain = Shot(client)
    assert plain.recalled == plain.conditioned == [0, 1, 4, 5]
    cases = [
        ({"keyframes": {4: {"excluded": True}}}, [0, 1, 3, 5]),
        ({"keyframes": {0: {"excluded": True}}}, [1, 2, 4, 5]),
        ({"keyframes": {3: {"pinned": True}}}, [0, 1, 3, 5]),
        ({"keyframes": {3: {"pinned": True, "excluded": True}}}, [0, 1, 4, 5]),
        ({"order": [5, 4, 3, 2, 1, 0]}, [5, 4, 1, 0]),
        ({"order": [3, 0]}, [3, 1, 4, 5]),
        ({"keyframes": {2: {"label": "Mara"}}}, [0, 1, 4, 5]),
    ]
    for edits, expected in cases:
        shot = Shot(client, edits_of(plain.shown, **edits))
        assert shot.recalled == shot.conditioned == expected, edits
        marked = [keyframe["id"] for keyframe in shot.shown if keyframe["recalled"]]
        assert marked == [plain.shown[place]["id"] for place in expected]


def test_the_strip_is_told_what_the_edits_changed(client):
    plain = Shot(client)
    text = edits_of(plain.shown, {0: {"excluded": True}, 2: {"pinned": True, "label": "Mara"}}, [5, 1])
    shot = Shot(client, text)
    outputs = shot.history["outputs"][shot.bank[0]]
    assert outputs["storymem_edits"] == [text] and outputs["storymem_stored"] == [COUNT]
    places = [0, 5, 2, 3, 4, 1]
    assert [keyframe["frame"] for keyframe in shot.shown] == places
    unedited = [{"place": place, "label": "run", "pinned": False, "excluded": False} for place in places]
    assert [keyframe["unedited"] for keyframe in shot.shown] == unedited
    assert [keyframe["label"] for keyframe in shot.shown] == ["run", "run", "Mara", "run", "run", "run"]
    assert [keyframe["excluded"] for keyframe in shot.shown] == [True] + [False] * 5
    assert [keyframe["pinned"] for keyframe in shot.shown] == [False, False, True, False, False, False]
    assert [keyframe["sink"] for keyframe in shot.shown] == [False, True, True, False, False, False]


def test_edits_are_part_of_the_cache_key(client):
    plain = Shot(client, label="cache")
    text = edits_of(plain.shown, {1: {"excluded": True}})
    ran = []
    for edits in (text, text, "", text):
        shot = Shot(client, edits, label="cache")
        cached = dict(shot.history["status"]["messages"])["execution_cached"]["nodes"]
        ran.append(shot.bank[0] not in cached)
        assert shot.shown[1]["excluded"] == bool(edits), "a node from the cache still tells what it holds"
    assert ran == [True, False, True, True]


def test_edits_of_keyframes_that_are_not_there_wait(client):
    plain = Shot(client)
    shot = Shot(client, json.dumps({"keyframes": {"0" * 16: {"pinned": True}}, "order": ["0" * 16]}))
    assert shot.recalled == plain.recalled
    assert shot.shown == plain.shown


def test_a_memory_saved_after_edits_keeps_them(client):
    plain = Shot(client)
    text = edits_of(plain.shown, {4: {"excluded": True, "label": "<img src=x onerror=alert(1)>"}}, [1, 0])
    graph = Graph(client)
    bank = graph.extractor(graph.images(31, COUNT), threshold=1.0, max_keyframes=COUNT, label="run")
    bank = graph.node("StoryMemMemoryBank", bank=bank, edits=text, **SETTINGS)
    saved = graph.node("StoryMemSaveBank", bank=bank, filename_prefix="edited/bank")
    loaded = graph.node("StoryMemLoadBank", bank_file=[saved[0], 1])
    graph.write([loaded[0], 1])
    outputs = graph.run()["outputs"]
    shown = outputs[loaded[0]]["storymem_keyframes"]
    assert [keyframe["frame"] for keyframe in shown] == [1, 0, 2, 3, 4, 5]
    assert shown[4]["excluded"] and shown[4]["label"] == "<img src=x onerror=alert(1)>"
    assert [keyframe["frame"] for keyframe in shown if keyframe["recalled"]] == [1, 0, 3, 5]
