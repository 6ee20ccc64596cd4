"""What an engine can be asked for and what it answers; importing this does not import torch."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

ENGINES = ("native", "sentence-transformers")
"""native is fast; sentence-transformers is slow, and the reference."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Of the matrix products. float16 is for cards without bfloat16, and never chosen by auto; see float16.py."""

Float32Array = npt.NDArray[np.float32]

Submit = Callable[[Sequence[Sequence[int]]], Future[Float32Array]]
"""Hands the token ids of some texts to an encoder; the future holds their raw vectors, [texts, size], or its error.

Two errors are about the encoder: BatchTooLargeError and BrokenEncoderError. Any other error is about the texts.
"""


def check_ids(ids: npt.NDArray[np.integer[Any]], vocab_size: int) -> None:
    """Raise ValueError if a token id is outside the vocabulary: on a GPU it would end every later request too.

    It does not say which text: a batch may hold the texts of many requests, in an order that no caller knows.
    """
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if outside.size:
        raise ValueError(f"token id {outside[0]} is outside the vocabulary, 0 to {vocab_size - 1}")


class BatchTooLargeError(RuntimeError):
    """An encoder has too little memory for a batch; a smaller batch may fit."""


class BrokenEncoderError(RuntimeError):
    """An encoder's vectors can no longer be trusted, or it gives no more vectors; the message says why."""
