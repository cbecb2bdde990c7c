"""The demo models as files: the same bytes every time, names and sizes that belong together."""

import hashlib
import json

import pytest
import sentencepiece
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tools.demo_models import DEMO_MODELS, build_demo_models

HIGH_NOISE = "diffusion_models/storymem_demo_high_noise.safetensors"
ADAPTER = "loras/storymem_demo_high_noise.safetensors"
TEXT_ENCODER = "text_encoders/storymem_demo_umt5.safetensors"
VAE = "vae/storymem_demo_vae.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    build_demo_models(folder)
    return folder


def digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def config(path):
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["config"])


def test_two_builds_give_the_same_bytes_and_nothing_else(models, tmp_path):
    written = build_demo_models(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in written} == set(DEMO_MODELS)
    assert digests(tmp_path) == digests(models)
    assert set(digests(tmp_path)) == set(DEMO_MODELS)
    assert len(set(digests(tmp_path).values())) == len(DEMO_MODELS)


def test_only_missing_and_outdated_files_are_built(models, tmp_path):
    built = digests(models)
    build_demo_models(tmp_path)
    (tmp_path / ADAPTER).unlink()
    weights = load_file(tmp_path / VAE)
    save_file(weights, tmp_path / VAE, {"config": json.dumps({"demo_builder": "an older builder"})})
    save_file(weights, tmp_path / HIGH_NOISE)
    assert build_demo_models(tmp_path) == [tmp_path / VAE, tmp_path / ADAPTER]
    now = digests(tmp_path)
    assert {name for name in now if now[name] != built[name]} == {HIGH_NOISE}, "weights of others stay"
    assert build_demo_models(tmp_path) == []


def test_the_tokenizer_takes_any_text_and_keeps_the_ids_of_t5(models):
    weights = load_file(models / TEXT_ENCODER)
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=weights["spiece_model"].tobytes(), add_eos=True)
    text = "The fox meets a 狐 at the café 🦊"
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert tokens[-1] == tokenizer.eos_id() == 1
    assert tokenizer.pad_id() == 0
    assert tokenizer.unk_id() not in tokens
    assert tokenizer.get_piece_size() == len(weights["shared.weight"])


def test_text_encoder_and_transformers_share_the_text_width(models):
    width = config(models / TEXT_ENCODER)["text_encoder"]["d_model"]
    for name in (HIGH_NOISE, HIGH_NOISE.replace("high", "low"), HIGH_NOISE.replace("high_noise", "t2v")):
        assert config(models / name)["transformer"]["text_dim"] == width
        assert load_file(models / name)["text_embedding.0.weight"].shape[1] == width


def test_the_adapter_fits_every_linear_layer_of_every_block(models):
    linear = {
        name: weight.shape
        for name, weight in load_file(models / HIGH_NOISE).items()
        if name.startswith("blocks.") and weight.ndim == 2
    }
    assert len(linear) == 2 * 10
    adapter = load_file(models / ADAPTER)
    fitted = {}
    for name, shape in linear.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        down, up = adapter.pop(f"{layer}.lora_A.weight"), adapter.pop(f"{layer}.lora_B.weight")
        assert down.shape[0] == up.shape[1] == 8
        fitted[name] = (up.shape[0], down.shape[1])
        assert shape == fitted[name]
    assert adapter == {}, "no alpha, as in the official files"
