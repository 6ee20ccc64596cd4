"""What an engine can be asked for and what it answers, for those who use one without importing torch."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

ENGINES = ("native", "sentence-transformers")
"""native is the fast one; sentence-transformers is slow, and the reference."""
DTYPES = ("auto", "float32", "bfloat16")
"""Of the matrix products. float16 is no choice: it overflows to NaN, because activations reach about 800,000."""

Float32Array = npt.NDArray[np.float32]

Submit = Callable[[Sequence[Sequence[int]]], Future[Float32Array]]
"""Hands the token ids of some texts to an encoder; the future holds their raw vectors, [texts, size], or its error.

Two errors are about the encoder: BatchTooLargeError and BrokenEncoderError. Any other is a text's or a request's own.
"""


class BatchTooLargeError(RuntimeError):
    """An encoder has no memory for a batch, and may have it for a smaller one."""


class BrokenEncoderError(RuntimeError):
    """No vector that an encoder gives from now on can be trusted, or it gives none; the message says why."""
