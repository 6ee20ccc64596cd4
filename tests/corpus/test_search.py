import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embeddinggemma.corpus.search import check_files, cosines, search
from embeddinggemma.vectors import OUTPUT_DTYPES, finish
from embeddinggemma.weights.manifest import read_manifest
from tests.support.corpora import run_script
from tools import SCRIPTS

DIMENSION = 128
_RANDOM = np.random.default_rng(300)
RAW = _RANDOM.normal(size=(500, 768)).astype(np.float32)
[QUESTION] = finish(_RANDOM.normal(size=(1, 768)).astype(np.float32), DIMENSION, True, "float32")

VECTOR = pa.FixedSizeListArray.from_arrays(pa.array(QUESTION), DIMENSION)


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


@pytest.mark.parametrize("dtype", OUTPUT_DTYPES)
def test_files_of_the_outputs_number_type_and_dimension_can_be_searched(tmp_path: Path, dtype: str) -> None:
    _write(tmp_path, dtype)
    check_files(tmp_path, DIMENSION, dtype)
    with pytest.raises(ValueError, match=r"a\.parquet is not of this output: it has no column embedding of type fixed"):
        check_files(tmp_path, 256, dtype)


def test_an_output_without_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no vectors yet; run scripts/embed_corpus to its end"):
        check_files(tmp_path, DIMENSION, "float32")


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        ({"id": ["a"]}, "embedding of type fixed_size_list<"),
        ({"id": ["a"], "embedding": [[1.0] * DIMENSION]}, "embedding of type fixed_size_list<"),
        ({"embedding": VECTOR}, "id of type string"),
        ({"id": [1], "embedding": VECTOR}, "id of type string"),
        ({"id": ["a"], "text": [b"a"], "embedding": VECTOR}, "text of type string"),
        ({"id": ["a"], "chunk": pa.array([0], pa.int32()), "embedding": VECTOR}, "start of type int64"),
    ],
)
def test_a_foreign_parquet_file_is_refused(tmp_path: Path, columns: dict[str, object], missing: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=f"b.parquet is not of this output: it has no column {missing}"):
        check_files(tmp_path, DIMENSION, "float32")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    _write(tmp_path, "float32")
    whole = (tmp_path / "b.parquet").read_bytes()
    for damaged in (b"", b"text", whole[:-5], whole[:1000]):
        (tmp_path / "b.parquet").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"b\.parquet is damaged, or no Parquet file: "):
            check_files(tmp_path, DIMENSION, "float32")
    (tmp_path / "b.parquet").write_bytes(b"\xff" * 50_000 + whole[50_000:])
    with pytest.raises(ValueError, match=r"b\.parquet is damaged, or no Parquet file: "):
        search(tmp_path, QUESTION, "float32", 1)


@pytest.fixture
def output(variables: dict[str, str], tmp_path: Path) -> Path:
    """An output whose ids and texts hold what steers a terminal, and characters that ASCII lacks."""
    manifest = read_manifest(Path(variables["EMBEDDINGGEMMA_MANIFEST"]))
    settings = {"model": manifest.folder_name, "dimension": DIMENSION, "dtype": "float32"}
    (tmp_path / "_corpus.json").write_text(json.dumps(settings))
    table = pa.table({"id": ["a\x1b[2Jb\x9bm\n"] * 3, "text": ["木星 \x1b]0;title\x07 " * 50] * 3})
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(QUESTION, 3)), DIMENSION)
    pq.write_table(table.append_column("embedding", column), tmp_path / "a.parquet")
    return tmp_path


def test_what_is_shown_steers_no_terminal_and_fits_its_encoding(variables: dict[str, str], output: Path) -> None:
    shown = run_script({**variables, "PYTHONIOENCODING": "ascii"}, "search", output, "a question", "-k", "2")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("  a\\x1b[2Jb\\x9bm\\x0a")
    assert lines[1].startswith("    \\u6728\\u661f \\x1b]0;title\\x07 \\u6728")
    assert shown.stdout.replace("\n", "").isprintable()


def test_a_reader_that_has_enough_is_no_error(variables: dict[str, str], output: Path) -> None:
    command = 'set -o pipefail; "$@" | true'
    shown = subprocess.run(
        ["bash", "-c", command, "-", SCRIPTS / "search", output, "a question"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode != 0
    assert "Error" not in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a question", "-k", "0"], "-k is 0; it must be at least 1"),
        (["a question", "-k", "-1"], "-k is -1; it must be at least 1"),
        ([" "], "QUESTION is empty"),
        (["\udcff"], "QUESTION has a lone surrogate at character 0"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(
    variables: dict[str, str], output: Path, arguments: list[str], message: str
) -> None:
    refused = run_script(variables, "search", output, *arguments)
    assert refused.returncode == 1
    assert refused.stderr.startswith(message)
    assert refused.stderr.count("\n") == 1
