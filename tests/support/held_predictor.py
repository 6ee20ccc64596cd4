"""The container that a test can hold: its set-up and every forward pass wait while the file HELD_GATE exists.

The file HELD_EVENTS gets a line when a tokenized request begins to wait for its vectors (`begun`), when it no longer
waits (`ended`), and for each forward pass with its number of texts (`pass 2`).
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import torch

from embeddinggemma.batching import Batcher, Encoded
from embeddinggemma.engine.model import EmbeddingGemma
from predict import Predictor as RealPredictor

_encode_model = EmbeddingGemma.encode
_encode_request = Batcher.encode


def _note(event: str) -> None:
    with Path(os.environ["HELD_EVENTS"]).open("a") as events:
        events.write(f"{event}\n")


def _wait_for_gate() -> None:
    while Path(os.environ["HELD_GATE"]).exists():
        time.sleep(0.001)


def _held(model: EmbeddingGemma, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
    _note(f"pass {len(token_ids)}")
    _wait_for_gate()
    return _encode_model(model, token_ids)


async def _noted(batcher: Batcher, token_ids: Sequence[Sequence[int]]) -> Encoded:
    _note("begun")
    try:
        return await _encode_request(batcher, token_ids)
    finally:
        _note("ended")


class Predictor(RealPredictor):
    """The container, which a test can hold."""

    def setup(self) -> None:
        _wait_for_gate()
        super().setup()
        patch.object(EmbeddingGemma, "encode", _held).start()
        patch.object(Batcher, "encode", _noted).start()
