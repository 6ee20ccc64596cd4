"""Raw vectors to the answer's bytes or numbers: dimension, norm, number type, base64 or array."""

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from embeddinggemma.engine.contract import Float32Array

DIMENSIONS = (768, 512, 256, 128)  # the Matryoshka dimensions that the model was trained for
OUTPUT_DTYPES = ("float32", "float16", "int8", "ubinary")
OUTPUT_FORMATS = ("base64", "array")


def finish(raw: Float32Array, dimension: int, normalize: bool, dtype: str) -> npt.NDArray[Any]:
    """Cut raw vectors to a dimension, normalise them, and change their number type.

    Args:
        raw: [texts, 768], vectors from the model's last layer.
        dimension: how many of the first values to keep (Matryoshka).
        normalize: scale each vector to unit length, after the cut.
        dtype: float32; float16; int8, which is round(127·x / max|x|) for each vector and so keeps its direction;
            or ubinary, the signs packed eight to a byte as numpy.packbits does.

    Returns:
        [texts, dimension], or [texts, dimension / 8] for ubinary.

    Raises:
        FloatingPointError: a vector holds a value that is not finite; the message names its text.

    """
    vectors = raw[:, :dimension]
    _check_finite(vectors)
    if normalize:
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        # torch.nn.functional.normalize, and so sentence-transformers, divides by at least 1e-12.
        vectors = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    if dtype == "ubinary":
        return np.packbits(vectors > 0, axis=1)
    if dtype == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True)
        scaled: Float32Array = np.rint(127 * vectors / np.maximum(largest, np.finfo(np.float32).tiny))
        return scaled.astype(np.int8)
    if dtype == "float16":
        with np.errstate(over="ignore"):  # it is checked on the next line
            halves = vectors.astype(np.float16)
        _check_finite(halves)
        return halves
    return vectors


def serialize(array: npt.NDArray[Any], output_format: str) -> str | npt.NDArray[Any]:
    """Return an array as base64 of its little-endian, row-major bytes, or as an array that Cog's server writes."""
    if output_format == "array":
        return array.view(Numbers)
    little_endian = array.astype(array.dtype.newbyteorder("<"), order="C")
    return base64.b64encode(little_endian.tobytes()).decode("ascii")


class Numbers(np.ndarray[Any, Any]):
    """An array that Cog's server writes as JSON row by row, so that other requests go on meanwhile.

    Seen in the sources of coglet 0.23.1: it turns an array into lists by `tolist`, looks at every item of every list
    for files, and passes the result to json.dumps, all with Python's lock in its hands (1,024 vectors: 2.8 seconds). It
    only looks into real lists, and json.dumps asks any other list for its items when it comes to them; the lock is
    given away there.
    """

    def tolist(self) -> list[Any]:
        """Return what json.dumps writes as the numbers, nested as the array is."""
        return _Nested(np.asarray(self))


class _Nested(list[Any]):
    """A list whose items are made when they are asked for."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        super().__init__()
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._array.tolist()) if self._array.ndim == 1 else map(_Nested, self._array)


def _check_finite(vectors: npt.NDArray[Any]) -> None:
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        position = int(np.argmin(finite))
        raise FloatingPointError(f"texts[{position}] gave a vector that is not finite; it was not returned")
