import base64
import copy
import json
from typing import Any

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from embeddinggemma.vectors import DIMENSIONS, finish, serialize

RAW = np.random.default_rng(0).normal(0, 30, (5, 768)).astype(np.float32)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_vectors_are_normalised_after_the_dimension_is_cut(dimension: int) -> None:
    vectors = finish(RAW, dimension, True, "float32")
    assert vectors.shape == (5, dimension)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    cut = RAW[:, :dimension]
    assert np.abs(vectors - cut / np.linalg.norm(cut, axis=1, keepdims=True)).max() < 1e-7


def test_raw_values_are_returned_as_they_are() -> None:
    assert np.array_equal(finish(RAW, 256, False, "float32"), RAW[:, :256])


def test_float16_is_the_nearest_half() -> None:
    assert np.array_equal(finish(RAW, 768, False, "float16"), RAW.astype(np.float16))


@pytest.mark.parametrize("normalize", [True, False])
def test_int8_keeps_the_direction(normalize: bool) -> None:
    quantized = finish(RAW, 768, normalize, "int8")
    assert quantized.dtype == np.int8
    assert np.array_equal(np.abs(quantized).max(axis=1), [127] * 5)
    assert np.array_equal(quantized, np.rint(127 * RAW / np.abs(RAW).max(axis=1, keepdims=True)))
    norms = np.linalg.norm(quantized.astype(float), axis=1) * np.linalg.norm(RAW, axis=1)
    cosines = (quantized * RAW).sum(axis=1) / norms
    assert cosines.min() > 0.9999


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_ubinary_gives_the_bits_of_sentence_transformers(dimension: int) -> None:
    packed = finish(RAW, dimension, True, "ubinary")
    assert packed.shape == (5, dimension // 8)
    assert np.array_equal(packed, quantize_embeddings(RAW[:, :dimension], precision="ubinary"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "ubinary"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_an_error(bad: float, dtype: str) -> None:
    raw = RAW.copy()
    raw[3, 5] = bad
    with pytest.raises(FloatingPointError, match=r"texts\[3\].*not finite"):
        finish(raw, 768, True, dtype)


def test_a_value_too_large_for_float16_is_an_error() -> None:
    raw = RAW.copy()
    raw[1, 0] = 70_000
    with pytest.raises(FloatingPointError, match=r"texts\[1\]"):
        finish(raw, 768, False, "float16")


@pytest.mark.parametrize(("dtype", "code"), [("float32", "<f4"), ("float16", "<f2"), ("int8", "i1"), ("ubinary", "u1")])
def test_base64_holds_little_endian_row_major_bytes(dtype: str, code: str) -> None:
    array = finish(RAW, 128, True, dtype)
    encoded = serialize(np.asfortranarray(array), "base64")
    assert isinstance(encoded, str)
    assert np.array_equal(np.frombuffer(base64.b64decode(encoded), code).reshape(array.shape), array)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 3)])
@pytest.mark.parametrize("dtype", ["<f4", "<f2", "i1", "u1"])
def test_an_arrays_numbers_are_written_as_those_of_plain_lists(shape: tuple[int, ...], dtype: str) -> None:
    array = (np.random.default_rng(0).random(shape) * 100).astype(dtype)
    answer = copy.deepcopy(serialize(array, "array"))  # as Cog's server copies it
    assert isinstance(answer, np.ndarray)
    assert json.dumps(answer.tolist()) == json.dumps(array.tolist())


def test_a_large_array_is_written_row_by_row() -> None:
    """Its rows are made when json.dumps comes to them, by Python code: there, other threads have their turn."""
    rows: list[int] = []

    class Counted(np.ndarray[Any, Any]):
        def tolist(self) -> Any:
            rows.append(len(self))
            return super().tolist()

    numbers = serialize(np.ones((5, 4), np.float32), "array")
    assert isinstance(numbers, np.ndarray)
    nested = numbers.tolist()
    nested._array = nested._array.view(Counted)
    assert rows == []
    json.dumps(nested)
    assert rows == [4] * 5
