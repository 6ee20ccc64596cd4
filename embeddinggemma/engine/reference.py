"""The model's own reference, sentence-transformers, as an engine: slow; the native engine is compared with it."""

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from embeddinggemma.engine.contract import check_ids

# Earlier versions ignore `use_bidirectional_attention`, and attention is silently causal.
_FIRST_BIDIRECTIONAL_TRANSFORMERS = (4, 57)


class SentenceTransformersModel:
    """EmbeddingGemma through all of sentence-transformers' modules except the last, Normalize."""

    operators = "plain"
    computed_again = 0

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Load the model from a verified folder, without a request to any hub.

        Raises:
            RuntimeError: transformers is too old to compute bidirectional attention.

        """
        transformers = version("transformers")
        if tuple(int(part) for part in transformers.split(".")[:2]) < _FIRST_BIDIRECTIONAL_TRANSFORMERS:
            raise RuntimeError(f"transformers {transformers} computes causal attention; 4.57 is needed")
        os.environ["HF_HUB_OFFLINE"] = "1"
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(
            str(folder),
            device=str(device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": dtype, "use_safetensors": True},
        )
        self._device = device
        self._vocab_size: int = json.loads((folder / "config.json").read_text())["vocab_size"]
        self._transformer, self._pooling, *dense = list(model)[:4]
        self._dense = [layer.float() for layer in dense]

    @torch.inference_mode()
    def encode(self, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the raw vector of each text: float32 [texts, 768] on the CPU, not normalised."""
        features = self._forward(token_ids)
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in (self._pooling, *self._dense):
            features = module(features)
        return features["sentence_embedding"].cpu()

    @torch.inference_mode()
    def token_states(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Return the last layer's state of each token of one text, [tokens, hidden]."""
        return self._forward([token_ids])["token_embeddings"][0]

    def _forward(self, token_ids: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        longest = max(map(len, token_ids))
        ids = torch.zeros(len(token_ids), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text_ids in enumerate(token_ids):
            ids[row, : len(text_ids)] = torch.tensor(text_ids)
            mask[row, : len(text_ids)] = 1
        check_ids(ids.numpy(), self._vocab_size)
        features: dict[str, torch.Tensor] = self._transformer(
            {"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)}
        )
        return features


def load_on_cpu(folder: Path) -> SentenceTransformersModel:
    """Load the reference in float32 on the CPU, where it is exact, even if there is a GPU."""
    return SentenceTransformersModel(folder, torch.device("cpu"), torch.float32)
