"""The container with an encoder that breaks at a text of BREAKS_AT tokens as the variable BREAKS says."""

import os
import threading
from collections.abc import Callable, Sequence
from unittest.mock import patch

import torch

from embeddinggemma.engine import encoder
from embeddinggemma.engine.model import EmbeddingGemma
from predict import Predictor as Container

BREAKS_AT = 100
MEMORY = 300
"""Tokens of one pass for which there is memory."""


def _not_finite() -> torch.Tensor:
    return torch.full((1, 768), torch.nan)


def _cuda_error() -> torch.Tensor:
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def _hang() -> torch.Tensor:
    while not threading.Event().wait(3600):
        pass
    return torch.zeros(1, 768)


WAYS: dict[str, Callable[[], torch.Tensor]] = {"not finite": _not_finite, "CUDA error": _cuda_error, "hang": _hang}
_encode = EmbeddingGemma.encode


def _breaking(model: EmbeddingGemma, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
    if sum(map(len, token_ids)) > MEMORY:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if any(len(ids) == BREAKS_AT for ids in token_ids):
        return WAYS[os.environ["BREAKS"]]()
    return _encode(model, token_ids)


class Predictor(Container):
    """The container, broken when it is set up."""

    def setup(self) -> None:
        patch.object(EmbeddingGemma, "encode", _breaking).start()
        if os.environ["BREAKS"] == "hang":
            patch.dict(encoder._PASS_TIMEOUT, cpu=5.0).start()
        super().setup()
