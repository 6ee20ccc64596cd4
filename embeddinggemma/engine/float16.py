"""EmbeddingGemma with matrix products in float16, for cards without bfloat16: a text that overflows is computed again.

float16 has more digits than bfloat16 and ends at 65,504, where activations of the real weights reach 800,000. Scaled
weights (`model.Layer`) make room for those. Whatever overflows all the same becomes infinite, then NaN behind the next
norm, and reaches the text's vector; float32 computes that text again.
"""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import torch

from embeddinggemma.engine.model import EmbeddingGemma


class Float16Model:
    """Two models that share a token embedding: one with products in float16, one in float32."""

    def __init__(self, half: EmbeddingGemma, exact: EmbeddingGemma) -> None:
        self.half, self.exact = half, exact
        self.computed_again = 0
        """See encoder.Model."""
        self._counting = Lock()

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> "Float16Model":
        """See EmbeddingGemma.load; `dtype` is float16."""
        half = EmbeddingGemma.load(folder, device, dtype)
        return cls(half, EmbeddingGemma.load(folder, device, torch.float32, half.token_embedding))

    @property
    def operators(self) -> str:
        """See EmbeddingGemma.operators."""
        return self.half.operators

    @torch.inference_mode()
    def encode(self, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """See EmbeddingGemma.encode."""
        vectors = self.half.encode(token_ids)
        overflowed = (~vectors.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if overflowed:
            with self._counting:
                self.computed_again += len(overflowed)
            vectors[overflowed] = self.exact.encode([token_ids[position] for position in overflowed])
        return vectors

    def token_states(self, token_ids: Sequence[int]) -> torch.Tensor:
        """See EmbeddingGemma.token_states."""
        return self.half.token_states(token_ids)

    def products(self, tokens: int) -> torch.Tensor:
        """See EmbeddingGemma.products."""
        return self.half.products(tokens)
