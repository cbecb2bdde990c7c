"""A UMT5 text encoder of two layers with a tokenizer of its own, under the names of the host's umt5 file."""

import io

import numpy as np
import sentencepiece

from .files import ModelFile
from .layers import Weights, linear, normal
from .wan import TEXT_WIDTH

LAYERS = 2
HEADS = 4
HEAD_WIDTH = 16
FF_WIDTH = 128
POSITION_BUCKETS = 32  # of the relative distance between two tokens, as in every UMT5
VOCABULARY = 400  # 256 of them are the single bytes, so any text can be encoded

TEXT = """
A red fox walks along the old harbour street at dusk, and the lamps come on one after another.
Close-up of the same fox: she looks into the camera, then turns her head towards the sea.
Wide shot of a quiet mountain village in winter, snow on the roofs, smoke rising from the chimneys.
The old fisherman in a yellow coat rows his small boat across the misty lake in the morning light.
He stops, lifts the oars out of the water and listens to the birds on the far shore.
A girl with a blue scarf runs through a field of tall grass while the camera follows her from behind.
Cut to the inside of a train: rain on the window, the city passes by, she reads a letter and smiles.
A large grey rabbit wakes up under a tree, stretches, and steps out into the warm sunlight.
Three small birds watch the rabbit from a branch; one of them flies away with a nut.
Slow pan over a kitchen table with bread, cheese, a glass of milk and an open book.
The detective in a black hat crosses the wet street at night under neon signs, cinematic, film grain.
A medium shot of two friends who sit by the fire and talk; sparks fly up into the dark sky.
The astronaut walks over the red sand, plants a flag and looks back at the shining ship.
Overexposed, blurred details, subtitles, worst quality, low quality, static, extra fingers, deformed.
"""


def umt5_text_encoder(seed: int) -> ModelFile:
    """A text encoder of TEXT_WIDTH channels; the tokenizer is the bytes `spiece_model` beside it."""
    rng = np.random.default_rng(seed)
    weights = {"spiece_model": _tokenizer(), "shared.weight": normal(rng, (VOCABULARY, TEXT_WIDTH), 1.0)}
    for index in range(LAYERS):
        weights |= _layer(rng, f"encoder.block.{index}")
    weights |= _norm(rng, "encoder.final_layer_norm")
    config = {
        "d_model": TEXT_WIDTH,
        "d_ff": FF_WIDTH,
        "d_kv": HEAD_WIDTH,
        "num_heads": HEADS,
        "num_layers": LAYERS,
        "vocab_size": VOCABULARY,
    }
    return ModelFile(weights, {"text_encoder": config})


def _layer(rng: np.random.Generator, name: str) -> Weights:
    attention, ff = f"{name}.layer.0", f"{name}.layer.1"
    inner = HEADS * HEAD_WIDTH
    return (
        _norm(rng, f"{attention}.layer_norm")
        # T5 does not divide its logits by sqrt(head width): the query weights carry that factor.
        | linear(rng, f"{attention}.SelfAttention.q", inner, TEXT_WIDTH, gain=HEAD_WIDTH**-0.5, bias=False)
        | linear(rng, f"{attention}.SelfAttention.k", inner, TEXT_WIDTH, bias=False)
        | linear(rng, f"{attention}.SelfAttention.v", inner, TEXT_WIDTH, bias=False)
        | linear(rng, f"{attention}.SelfAttention.o", TEXT_WIDTH, inner, bias=False)
        | _position_bias(rng, f"{attention}.SelfAttention")
        | _norm(rng, f"{ff}.layer_norm")
        | linear(rng, f"{ff}.DenseReluDense.wi_0", FF_WIDTH, TEXT_WIDTH, bias=False)
        | linear(rng, f"{ff}.DenseReluDense.wi_1", FF_WIDTH, TEXT_WIDTH, bias=False)
        | linear(rng, f"{ff}.DenseReluDense.wo", TEXT_WIDTH, FF_WIDTH, bias=False)
    )


def _position_bias(rng: np.random.Generator, name: str) -> Weights:
    return {f"{name}.relative_attention_bias.weight": normal(rng, (POSITION_BUCKETS, HEADS), 1.0)}


def _norm(rng: np.random.Generator, name: str) -> Weights:
    return {f"{name}.weight": normal(rng, (TEXT_WIDTH,), 0.1, mean=1.0)}


def _tokenizer() -> np.ndarray:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.strip().splitlines()),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        # The ids of T5: the host pads with 0 and ends a text with 1.
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return np.frombuffer(model.getvalue(), dtype=np.uint8)
