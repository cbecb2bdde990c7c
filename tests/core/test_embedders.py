"""The colour layout against a literal per-pixel version; OpenClip against open_clip itself."""

import colorsys
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from storymem_core.embedders import ColorLayout, OpenClip
from storymem_core.errors import InputError
from tests.core.footage import read_footage

SMALL = "ViT-S-32-alt"


def literal_color_layout(image: np.ndarray) -> np.ndarray:
    patches = []
    for top in range(0, 224, 28):
        for left in range(0, 224, 28):
            total = np.zeros(4)
            for red, green, blue in image[top : top + 28, left : left + 28].reshape(-1, 3) / 255:
                hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
                angle = 2 * np.pi * hue
                total += saturation * np.cos(angle), saturation * np.sin(angle), value - 0.5, 0.15
            patches.append(total / np.linalg.norm(total))
    return np.concatenate(patches) / 8


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return read_footage(132, 416, 240)


def test_color_layout_equals_the_literal_per_pixel_version(clip):
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    real = cv2.resize(clip[50], (224, 224), interpolation=cv2.INTER_AREA)
    embeddings = ColorLayout()(np.stack([noise, real]))
    np.testing.assert_allclose(embeddings[0], literal_color_layout(noise), atol=1e-4)
    np.testing.assert_allclose(embeddings[1], literal_color_layout(real), atol=1e-4)


def test_color_layout_spreads_usefully_on_real_video(clip):
    embeddings = ColorLayout()(clip)
    neighbours = (embeddings[1:] * embeddings[:-1]).sum(axis=1)
    assert neighbours.min() > 0.98
    crouching, standing = embeddings[0], embeddings[60]
    assert 0.7 < crouching @ standing < 0.9
    assert embeddings[60] @ embeddings[90] > 0.95
    # Other pictures from the same pixels: mirrored, upside down, other hues, negative.
    others = [clip[0][:, ::-1], clip[0][::-1], clip[0][..., ::-1], 255 - clip[0]]
    assert (ColorLayout()(np.stack(others)) @ crouching).max() < 0.6


def test_color_layout_forgives_noise_compression_and_brightness(clip):
    frame = clip[0]
    noisy = np.clip(frame + np.random.default_rng(0).normal(0, 8, frame.shape), 0, 255).astype(np.uint8)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    brighter = np.clip(frame * 1.1, 0, 255).astype(np.uint8)
    changed = ColorLayout()(np.stack([noisy, jpeg, brighter]))
    assert (changed @ ColorLayout()(frame[None])[0]).min() > 0.95


def test_color_layout_of_uniform_pictures_is_a_unit_vector():
    pictures = np.zeros((6, 48, 64, 3), np.uint8)
    for picture, colour in zip(pictures, np.array([0, 255, 128, 127, 1, 254]), strict=True):
        picture[:] = colour
    embeddings = ColorLayout()(pictures)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert embeddings[0] @ embeddings[1] < -0.8
    assert embeddings[2] @ embeddings[3] > 0.99


def test_color_layout_is_deterministic_unit_length_and_independent_of_the_batch(clip):
    together = ColorLayout()(clip[:10])
    assert together.dtype == np.float32 and together.shape == (10, 256)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(together, np.concatenate([ColorLayout()(clip[i : i + 1]) for i in range(10)]))
    assert ColorLayout()(clip[:0]).shape == (0, 256)


def test_pictures_of_another_kind_are_refused(clip):
    for wrong in (clip[:1] / 255, clip[0], clip[:1, ..., :1]):
        with pytest.raises(InputError, match=r"^images="):
            ColorLayout()(wrong)


def save_random_clip(architecture: str, path: Path) -> Path:
    """A checkpoint of seeded random weights: real ones are too large to ship."""
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**open_clip.get_model_config(architecture)).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def vit_b_32():
    with TemporaryDirectory() as folder:
        yield save_random_clip("ViT-B-32", Path(folder, "vit_b_32.safetensors"))


@pytest.fixture(scope="module")
def small():
    """The smallest architecture open_clip knows, for what does not depend on size."""
    with TemporaryDirectory() as folder:
        yield save_random_clip(SMALL, Path(folder, "small.safetensors"))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("network access")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def open_clip_alone(architecture: str, checkpoint: Path, image: np.ndarray) -> np.ndarray:
    model, _, preprocess = open_clip.create_model_and_transforms(architecture, pretrained=str(checkpoint))
    with torch.no_grad():
        return model.eval().encode_image(preprocess(Image.fromarray(image))[None], normalize=True)[0].numpy()


def test_vit_b_32_equals_open_clip_itself(vit_b_32, clip, no_network):
    embedder = OpenClip(vit_b_32)
    wide, tall = clip[5], clip[90].transpose(1, 0, 2).copy()
    for image in (wide, tall):
        embedding = embedder(image[None])
        assert embedding.dtype == np.float32 and embedding.shape == (1, 512)
        np.testing.assert_allclose(embedding[0], open_clip_alone("ViT-B-32", vit_b_32, image), atol=2e-6)
    # Same weights, other activation: other vectors, so the names must differ too.
    quick = OpenClip(vit_b_32, "ViT-B-32-quickgelu")
    assert quick.name != embedder.name
    difference = quick(wide[None])[0] - open_clip_alone("ViT-B-32-quickgelu", vit_b_32, wide)
    assert np.abs(difference).max() < 2e-6 < 1e-4 < np.abs(quick(wide[None]) - embedder(wide[None])).max()


def test_batches_keep_every_picture_in_its_place(small, clip):
    embedder = OpenClip(small, SMALL)
    embeddings = embedder(clip[:70:2])
    assert len(embeddings) == 35 > embedder.BATCH
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    for i in (0, 1, 31, 32, 34):
        np.testing.assert_allclose(embeddings[i], open_clip_alone(SMALL, small, clip[2 * i]), atol=2e-6)
    assert embedder(clip[:0]).shape == (0, 256)


def test_pictures_are_scaled_by_the_shortest_side_and_cropped(small):
    # 448x896: halved, then the middle 224 columns are kept, so the black sides are never seen.
    image = np.zeros((448, 896, 3), np.uint8)
    image[:, 200:696] = colour = (255, 128, 0)
    inside = np.empty((224, 224, 3), np.uint8)
    inside[:] = colour
    embeddings = OpenClip(small, SMALL)
    np.testing.assert_allclose(embeddings(image[None]), embeddings(inside[None]), atol=1e-5)
    assert embeddings(np.zeros_like(image)[None])[0] @ embeddings(inside[None])[0] < 0.999


def test_name_tells_architecture_and_weights_apart(small, tmp_path):
    name = OpenClip(small, SMALL).name
    assert name == OpenClip(small, SMALL).name and SMALL in name
    changed = load_file(small)
    changed["visual.proj"][0, 0] += 1
    save_file(changed, tmp_path / "changed.safetensors")
    assert OpenClip(tmp_path / "changed.safetensors", SMALL).name != name


def test_pt_and_half_precision_checkpoints(small, tmp_path, clip):
    weights, expected = load_file(small), OpenClip(small, SMALL)(clip[:1])
    torch.save(weights, tmp_path / "same.pt")
    np.testing.assert_array_equal(OpenClip(tmp_path / "same.pt", SMALL)(clip[:1]), expected)

    save_file({key: tensor.half() for key, tensor in weights.items()}, tmp_path / "half.safetensors")
    half = OpenClip(tmp_path / "half.safetensors", SMALL)(clip[:1])
    np.testing.assert_allclose(half, expected, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*TorchScript|.*torch.jit.script")
def test_wrong_checkpoints(small, tmp_path, no_network):
    (tmp_path / "text.safetensors").write_text("not weights")
    (tmp_path / "text.pt").write_text("not weights")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "cut.safetensors").write_bytes(small.read_bytes()[:100_000])
    (tmp_path / "folder.safetensors").mkdir()
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 1}, tmp_path / "dict.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    save_file({"blocks.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    for file in [*tmp_path.iterdir(), tmp_path / "missing.safetensors"]:
        with pytest.raises(InputError, match=r"^clip_checkpoint="):
            OpenClip(file, SMALL)
    with pytest.raises(InputError, match="not the weights of a ViT-B-32"):
        OpenClip(small)


def test_architectures_that_need_a_download_are_refused(small, no_network):
    hub = "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    for architecture in ("ViT-X", hub, "roberta-ViT-B-32", "coca_ViT-B-32"):
        with pytest.raises(InputError, match=r"^clip_architecture="):
            OpenClip(small, architecture)
