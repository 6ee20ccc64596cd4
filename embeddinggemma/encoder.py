"""Token ids to raw vectors, through the modules of the model's own reference, sentence-transformers."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import __version__ as transformers_version

from embeddinggemma.vectors import Float32Array

# Before it, `use_bidirectional_attention` is ignored and attention is silently causal.
_FIRST_BIDIRECTIONAL_TRANSFORMERS = (4, 57)
_TOKENS_PER_BATCH = 4096  # padding counted


class Encoder:
    """The network: embeddings, 24 layers, mean pooling and the two dense layers, without the normalisation."""

    def __init__(self, folder: Path) -> None:
        """Load the network from a verified folder onto the GPU, or the CPU where there is none.

        Raises:
            RuntimeError: transformers is too old for, or this build of it does not give, bidirectional attention.

        """
        version = tuple(int(part) for part in transformers_version.split(".")[:2])
        if version < _FIRST_BIDIRECTIONAL_TRANSFORMERS:
            raise RuntimeError(f"transformers {transformers_version} computes causal attention; 4.57 is needed")
        os.environ["HF_HUB_OFFLINE"] = "1"
        from sentence_transformers import SentenceTransformer

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = _best_dtype(self.device)
        model = SentenceTransformer(
            str(folder),
            device=str(self.device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": self.dtype, "use_safetensors": True},
        )
        self._transformer, self._pooling, *dense = list(model)[:4]
        self._dense = [layer.float() for layer in dense]
        self._check_bidirectional()

    def encode(self, token_ids: Sequence[Sequence[int]]) -> Float32Array:
        """Return the raw vector of each text, [texts, 768], not normalised."""
        vectors = np.empty((len(token_ids), 768), dtype=np.float32)
        for batch in _batches(token_ids):
            vectors[batch] = self._encode_batch([token_ids[position] for position in batch])
        return vectors

    @torch.inference_mode()
    def _encode_batch(self, token_ids: Sequence[Sequence[int]]) -> Float32Array:
        features = self._token_states(token_ids)
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in (self._pooling, *self._dense):
            features = module(features)
        vectors: Float32Array = features["sentence_embedding"].cpu().numpy()
        return vectors

    def _token_states(self, token_ids: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        longest = max(map(len, token_ids))
        ids = torch.zeros(len(token_ids), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(token_ids):
            ids[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = 1
        features: dict[str, torch.Tensor] = self._transformer(
            {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        )
        return features

    @torch.inference_mode()
    def _check_bidirectional(self) -> None:
        """Change the last token and see that the first token's state changes."""
        first, second = (self._token_states([[2, 100, last, 1]])["token_embeddings"][0, 0] for last in (200, 300))
        if torch.equal(first, second):
            raise RuntimeError("attention is causal: the first token does not see the last; vectors would be wrong")


def _best_dtype(device: torch.device) -> torch.dtype:
    """Float32, or bfloat16 on a GPU that has it; float16 overflows (activations reach about 800,000)."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def _batches(token_ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the positions of the texts in batches of similar length, so that little padding is computed."""
    batches: list[list[int]] = []
    for position in sorted(range(len(token_ids)), key=lambda position: len(token_ids[position])):
        length = len(token_ids[position])
        if not batches or length * (len(batches[-1]) + 1) > _TOKENS_PER_BATCH:
            batches.append([])
        batches[-1].append(position)
    return batches
