"""The text side of an open_clip model, and a linear head on its image features that scores beauty."""

from pathlib import Path

import numpy as np
import torch

from storymem_core.embedders import load_clip, load_weights
from storymem_core.errors import InputError


class ClipText:
    """Texts -> float32 [N, D] of unit length, comparable with OpenClip's images of the same checkpoint.

    A prompt longer than the model's context (77 tokens) is cut there, as CLIP was trained; `too_long` counts them.
    """

    def __init__(self, checkpoint: Path, architecture: str):
        from open_clip.tokenizer import SimpleTokenizer

        self._model = load_clip(checkpoint, architecture).float().eval()
        tokens = self._model.positional_embedding.shape[0]
        self._tokenizer = SimpleTokenizer(context_length=tokens)
        # No checkpoint holds it.
        self._model.attn_mask = torch.full((tokens, tokens), float("-inf")).triu(1)

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> np.ndarray:
        return self._model.encode_text(self._tokenizer(texts), normalize=True).numpy()

    def too_long(self, texts: list[str]) -> int:
        room = self._tokenizer.context_length - 2  # start and end
        return sum(len(self._tokenizer.encode(text)) > room for text in texts)


class AestheticHead:
    """A linear head on unit CLIP image features, such as LAION's aesthetic predictor for ViT-B/32.

    The file is a state dict of `weight` [1, D] and `bias` [1]. Raises InputError for any other.
    """

    def __init__(self, file: Path):
        weights = load_weights(file)
        shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
        if shapes.keys() != {"weight", "bias"} or shapes["weight"][:1] != [1] or shapes["bias"] != [1]:
            remedy = "Choose a linear head: weight [1, D] and bias [1]"
            raise InputError("aesthetic", str(file), f"holds {shapes}", remedy)
        self.name = file.name
        self._weight, self._bias = weights["weight"].float().numpy()[0], float(weights["bias"])

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Scores [N] of image embeddings [N, D]."""
        if embeddings.shape[1] != len(self._weight):
            problem = f"is for features of {len(self._weight)} channels, the embedder has {embeddings.shape[1]}"
            raise InputError("aesthetic", self.name, problem, "Choose the head of that embedder")
        return embeddings @ self._weight + self._bias
