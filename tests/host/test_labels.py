"""The recall policy same_labels, through the real server: what a shot's labels change."""

import torch

from host_graph import HEIGHT, LENGTH, WIDTH, Graph, memory_defaults, sampler_defaults

MARA, JON = 31, 32  # seeds of their pictures


def test_a_sampler_recalls_the_keyframes_of_its_labels(client):
    graph = Graph(client)
    pictures = {seed: graph.images(seed, 2) for seed in (MARA, JON)}
    bank = graph.extractor(pictures[MARA], threshold=1.0, label="Mara, the pier")
    bank = graph.extractor(pictures[JON], bank, threshold=1.0, label="Jon, the pier")
    bank = graph.node("StoryMemMemoryBank", bank=bank, capacity=10, sink=3, policy="same_labels")
    vae = graph.vae()
    models = {"model": graph.model(), "vae": vae, **graph.prompts()}
    size = {"width": WIDTH, "height": HEIGHT, "length": LENGTH}
    known, samplers = {}, {}
    for labels in ("Jon, the pier", "mara", "Ada", ""):
        memory = graph.node("StoryMemApplyMemory", **models, bank=bank, **size, **memory_defaults(), labels=labels)
        known[labels] = graph.write_conditioning([memory[0], 1])
        samplers[labels] = graph.node("StoryMemSampler", **models, bank=bank, **sampler_defaults(), labels=labels)
        graph.write(samplers[labels])
    # each picture alone, through the host's own VAE node
    alone = {
        seed: [graph.write(graph.node("VAEEncode", pixels=graph.frames(pictures[seed], i, 1), vae=vae)) for i in (0, 1)]
        for seed in pictures
    }
    outputs = graph.run()["outputs"]
    alone = {seed: torch.cat([graph.read(file) for file in files], 2) for seed, files in alone.items()}
    everybody = torch.cat([alone[MARA], alone[JON]], 2)
    expected = {"Jon, the pier": alone[JON], "mara": alone[MARA], "Ada": everybody, "": everybody}
    for labels, latents in expected.items():
        conditioned = graph.read_all(known[labels])["concat_latent_image"]
        assert torch.allclose(conditioned[:, :, : latents.shape[2]], latents, atol=1e-4), labels
        recalled = outputs[samplers[labels][0]]["storymem_recalled"]
        assert len(recalled) == latents.shape[2], labels
    assert {keyframe["shot"] for keyframe in outputs[samplers["Jon, the pier"][0]]["storymem_recalled"]} == {2}


def test_a_picture_of_somebody_else_is_no_repetition(client):
    """The same picture four times: stored for Mara, for Jon, not again for him, and not again where nobody is named."""
    graph = Graph(client)
    picture, bank = graph.images(MARA, 1), None
    reports = []
    for label in ("Mara, the pier", "Jon, the pier", "jon", ""):
        bank = graph.extractor(picture, bank, label=label)
        reports.append(graph.text([bank[0], 2]))
    outputs = graph.run()["outputs"]
    kept = [outputs[report]["text"][0].split("\n")[0].split(" of ")[0] for report in reports]
    assert kept == ["shot 1: 1", "shot 2: 1", "shot 3: 0", "shot 4: 0"]


def test_a_bank_holds_more_references_than_a_shot_recalls(client):
    graph = Graph(client)
    names = ("Ada", "Bo", "Cy")
    memory = {"capacity": 2, "sink": 1, "policy": "same_labels"}
    pictures = graph.images(MARA, len(names))
    bank = graph.node("StoryMemMemoryBank", **memory, reference_images=pictures, reference_labels="\n".join(names))
    sampler = graph.node(
        "StoryMemSampler",
        **{"model": graph.model(), "vae": graph.vae(), **graph.prompts(), "bank": bank},
        **{**sampler_defaults(), "labels": "Bo"},
    )
    graph.write(sampler)
    outputs = graph.run()["outputs"]
    assert [keyframe["recalled"] for keyframe in outputs[bank[0]]["storymem_keyframes"]] == [True] * 3
    assert [keyframe["label"] for keyframe in outputs[sampler[0]]["storymem_recalled"]] == ["Bo"]


def test_story_shot_names_who_it_shows(client):
    graph = Graph(client)
    scene = {"scene_num": 1, "video_prompts": ["a fox"], "cut": [True], "characters": [["fox", "the snow"]]}
    story = graph.script({"story_name": "labels", "scenes": [scene]})
    text = graph.text([graph.node("StoryMemShot", story=story, index=1)[0], 4])
    assert graph.run()["outputs"][text]["text"] == ["fox, the snow"]
