"""The small world's UMT5 text encoder: the host's class, a few words of vocabulary, trained with the T2V model."""

import io

import numpy as np
import sentencepiece
import torch

from .host import DEVICE, T5, comfy
from .world import every_caption

WIDTH = 64
TOKENS = 16  # captions are padded to this with zeros; the longest has 12 tokens
CONFIG = {"d_model": WIDTH, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2}
UMT5 = {"dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True, "model_type": "umt5"}


def tokenizer_model() -> bytes:
    """A SentencePiece model of the captions' words; bytes stand for anything else."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=every_caption(),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,  # 256 of them are the single bytes, so any text can be encoded
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


class TextEncoder(torch.nn.Module):
    """Captions -> [B, TOKENS, WIDTH], as the host's UMT5 gives them: 0 behind the end of a caption."""

    def __init__(self):
        super().__init__()
        self.spiece_model = tokenizer_model()
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_proto=self.spiece_model, add_eos=True)
        config = CONFIG | UMT5 | {"vocab_size": self.tokenizer.get_piece_size()}
        self.t5 = T5(config, torch.float32, None, comfy.ops.disable_weight_init)
        for name, weight in self.t5.named_parameters():
            if "norm" in name:
                torch.nn.init.ones_(weight)
            elif weight.shape[0] == config["vocab_size"] or "bias" in name:
                torch.nn.init.normal_(weight)
            else:
                torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

    @property
    def config(self) -> dict[str, int]:
        """What the host must know: sizes of the T5."""
        return CONFIG | {"vocab_size": self.tokenizer.get_piece_size()}

    def tokens(self, captions: list[str]) -> torch.Tensor:
        ids = np.zeros((len(captions), TOKENS), np.int64)
        for row, caption in zip(ids, captions, strict=True):
            words = self.tokenizer.encode(caption)
            row[: len(words)] = words
        return torch.from_numpy(ids).to(DEVICE)

    def forward(self, captions: list[str]) -> torch.Tensor:
        return self.encode(self.tokens(captions))

    def encode(self, ids: torch.Tensor) -> torch.Tensor:
        """Tokens [B, TOKENS] -> [B, TOKENS, WIDTH]."""
        known = (ids != 0).float()[..., None]
        unseen = torch.where(known[:, None, None, :, 0] > 0, 0.0, -1e9)
        x = self.t5.shared(ids)
        # The host's blocks add in place, which autograd does not allow; these are the same sums.
        for block in self.t5.encoder.block:
            attention, feed_forward = block.layer[0], block.layer[-1]
            x = x + attention.SelfAttention(attention.layer_norm(x), unseen, optimized_attention=_attention)[0]
            x = x + feed_forward.DenseReluDense(feed_forward.layer_norm(x))
        return self.t5.encoder.final_layer_norm(x) * known


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
