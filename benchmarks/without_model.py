"""The container with an encoder that only sleeps, 1 ms a pass: all that a request costs beside the model.

BENCHMARK_PASS_SECONDS and BENCHMARK_PASS_TOKENS make an encoder that limits what is served.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from embeddinggemma.batching import Batcher
from embeddinggemma.engine.contract import Float32Array
from predict import Predictor as RealPredictor

_SECONDS = float(os.environ.get("BENCHMARK_PASS_SECONDS", "0.001"))
_TOKENS_PER_BATCH = int(os.environ.get("BENCHMARK_PASS_TOKENS", "8192"))  # 8,192 as on a GPU
_VECTORS = np.random.default_rng(300).standard_normal((2048, 768), np.float32)
_THREAD = ThreadPoolExecutor(max_workers=1)


class Predictor(RealPredictor):
    """The container, whose encoder is replaced after set-up."""

    def setup(self) -> None:
        """Load the model, for the tokenizer's sake, and do without it."""
        super().setup()
        self.batcher = Batcher(_submit, _TOKENS_PER_BATCH, in_flight=2)


def _submit(token_ids: Sequence[Sequence[int]]) -> Future[Float32Array]:
    return _THREAD.submit(_encode, len(token_ids))


def _encode(texts: int) -> Float32Array:
    time.sleep(_SECONDS)
    return _VECTORS[:texts]
