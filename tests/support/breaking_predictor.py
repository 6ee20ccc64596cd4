"""The container with an encoder that breaks at a text of BREAKS_AT tokens. The variable BREAKS says how."""

import os
import threading
from collections.abc import Callable, Sequence
from unittest.mock import patch

import torch

from embeddinggemma.engine import encoder
from embeddinggemma.engine.model import EmbeddingGemma
from predict import Predictor as RealPredictor

BREAKS_AT = 100
MEMORY = 300
"""The tokens that fit into the memory in one forward pass."""


def _not_finite() -> torch.Tensor:
    return torch.full((1, 768), torch.nan)


def _cuda_error() -> torch.Tensor:
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def _hang() -> torch.Tensor:
    while not threading.Event().wait(3600):
        pass
    return torch.zeros(1, 768)


BREAKS: dict[str, Callable[[], torch.Tensor]] = {"not finite": _not_finite, "CUDA error": _cuda_error, "hang": _hang}
_encode = EmbeddingGemma.encode


def _breaking(model: EmbeddingGemma, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
    if sum(map(len, token_ids)) > MEMORY:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if any(len(ids) == BREAKS_AT for ids in token_ids):
        return BREAKS[os.environ["BREAKS"]]()
    return _encode(model, token_ids)


class Predictor(RealPredictor):
    """The container, with the encoder that breaks."""

    def setup(self) -> None:
        patch.object(EmbeddingGemma, "encode", _breaking).start()
        if os.environ["BREAKS"] == "hang":
            patch.dict(encoder._PASS_TIMEOUT, cpu=5.0).start()
        super().setup()
