from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embeddinggemma.corpus.search import cosines, search
from embeddinggemma.vectors import OUTPUT_DTYPES, finish

DIMENSION = 128
_RANDOM = np.random.default_rng(300)
RAW = _RANDOM.normal(size=(500, 768)).astype(np.float32)
[QUESTION] = finish(_RANDOM.normal(size=(1, 768)).astype(np.float32), DIMENSION, True, "float32")


def _write(folder: Path, dtype: str) -> np.ndarray:
    """Write the vectors as two files of several row groups; return them."""
    vectors = finish(RAW, DIMENSION, True, dtype)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = pa.table({"id": [str(row) for row in range(len(RAW))], "embedding": column, "text": ["a text"] * len(RAW)})
    pq.write_table(table[:300], folder / "a.parquet", row_group_size=70)
    pq.write_table(table[300:], folder / "b.parquet", row_group_size=70)
    return vectors


def _brute_force(vectors: np.ndarray, dtype: str) -> np.ndarray:
    """Return every cosine, computed singly and in float64."""
    if dtype == "ubinary":
        signs = np.unpackbits(vectors, axis=1)
        vectors = np.where(signs == 1, 1.0, -1.0)
    wide = vectors.astype(np.float64)
    question = QUESTION.astype(np.float64)
    return np.array([row @ question / np.sqrt((row @ row) * (question @ question)) for row in wide])


@pytest.mark.parametrize("dtype", OUTPUT_DTYPES)
@pytest.mark.parametrize("count", [1, 10, 1000])
def test_the_ranking_is_that_of_brute_force(tmp_path: Path, dtype: str, count: int) -> None:
    expected = _brute_force(_write(tmp_path, dtype), dtype)
    hits = search(tmp_path, QUESTION, dtype, count)
    ranking = np.argsort(-expected, kind="stable")[:count]
    assert np.abs([hit.score for hit in hits] - expected[ranking]).max() < 1e-6
    assert np.abs(expected[[int(hit.row["id"]) for hit in hits]] - expected[ranking]).max() < 1e-6
    assert len({hit.row["id"] for hit in hits}) == min(count, len(RAW))
    assert hits[0].row["text"] == "a text"


@pytest.mark.parametrize(("dtype", "min_cosine"), [("float16", 0.9999), ("int8", 0.999), ("ubinary", 0.7)])
def test_a_vector_stays_near_itself_in_every_number_type(dtype: str, min_cosine: float) -> None:
    stored = finish(RAW, DIMENSION, True, dtype)
    exact = finish(RAW, DIMENSION, True, "float32")
    own = np.array([cosines(stored[[row]], exact[row], dtype)[0] for row in range(len(RAW))])
    assert min_cosine < own.min() <= own.max() < 1 + 1e-6


def test_equal_scores_keep_the_order_of_the_rows(tmp_path: Path) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(QUESTION, 9)), DIMENSION)
    pq.write_table(pa.table({"id": list("abcdefghi"), "embedding": column}), tmp_path / "a.parquet", row_group_size=2)
    assert [hit.row["id"] for hit in search(tmp_path, QUESTION, "float32", 3)] == ["a", "b", "c"]
