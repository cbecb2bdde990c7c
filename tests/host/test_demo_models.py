"""The demo models through the host's own nodes, on the real server."""

import io

import numpy as np
import pytest
from PIL import Image

from host_graph import HEIGHT, HIGH, LENGTH, LOW, SIZE, T2V, UNI_PC, WIDTH, Graph


def save_video(graph, model, positive, negative, vae):
    """Sample and decode one shot with the host's nodes; returns the id of the SaveImage node."""
    start = graph.images(seed=5, count=1)
    conditioning = {"positive": positive, "negative": negative}
    shot = graph.node("WanImageToVideo", **conditioning, vae=vae, **SIZE, batch_size=1, start_image=start)
    latent = graph.node(
        "KSampler",
        model=graph.node("ModelSamplingSD3", model=model, shift=4.0),
        positive=shot,
        negative=[shot[0], 1],
        latent_image=[shot[0], 2],
        seed=3,
        denoise=1.0,
        **UNI_PC,
    )
    images = graph.node("VAEDecode", samples=latent, vae=vae)
    return graph.node("SaveImage", images=images, filename_prefix="demo_models")[0]


def read_video(graph, history, node):
    """The saved pictures as uint8 [frames, height, width, 3]."""
    files = history["outputs"][node]["images"]
    return np.stack([np.array(Image.open(io.BytesIO(graph.client.view(**file)))) for file in files])


@pytest.mark.parametrize("name", [HIGH, LOW, T2V])
def test_the_hosts_nodes_make_a_video(client, name):
    graph = Graph(client)
    video = save_video(graph, graph.model(name), **graph.prompts(), vae=graph.vae())
    video = read_video(graph, graph.run(), video)
    assert video.shape == (LENGTH, HEIGHT, WIDTH, 3)
    assert 0.3 < video.mean() / 255 < 0.7
    assert video.std(axis=(1, 2)).min() / 255 > 0.05, "every frame and channel has contrast"
    assert ((video == 0) | (video == 255)).mean() < 0.2, "few values are saturated"


def test_prompt_and_expert_change_the_video(client):
    graph = Graph(client)
    vae, prompts = graph.vae(), graph.prompts()
    clip = graph.node("StoryMemDemoCLIPLoader", clip_name="storymem_demo_umt5.safetensors")
    other = {**prompts, "positive": graph.node("CLIPTextEncode", clip=clip, text="a black ship at night")}
    shots = [(HIGH, prompts), (HIGH, other), (LOW, prompts)]
    nodes = [save_video(graph, graph.model(name), **words, vae=vae) for name, words in shots]
    history = graph.run()
    video, other_prompt, other_expert = (read_video(graph, history, node).astype(int) for node in nodes)
    assert np.abs(video - other_prompt).mean() > 5
    assert np.abs(video - other_expert).mean() > 5


def test_the_hosts_loaders_miss_no_weight(client, server):
    graph = Graph(client)
    save_video(graph, graph.model(), **graph.prompts(), vae=graph.vae())
    graph.run()
    log = server.log.read_text()
    assert "Requested to load WAN21" in log
    for warning in ("unet missing", "clip missing", "Missing VAE keys"):
        assert warning not in log
