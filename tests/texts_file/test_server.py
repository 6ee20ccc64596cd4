"""A file of texts to the real server over HTTP, with the small reference model, as a caller sees it."""

import base64
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from embeddinggemma import Embedder
from embeddinggemma.vectors import OUTPUT_DTYPES
from tests.support.faulty_server import FaultyServer
from tests.support.servers import HeldServer, RunningServer
from tests.support.upload_store import upload_store
from tools.client import request_bytes, wait_until
from tools.observed_server import MARKER

TEXTS = [f"{MARKER} {number} is a planet" for number in range(40)]
OBJECTS = [{"id": f"p{number}", "text": text, "title": "Planets"} for number, text in enumerate(TEXTS)]
JSONL = "".join(f"{json.dumps(text)}\n" for text in TEXTS).encode()
FORMS = {
    "texts.jsonl": JSONL,
    "texts.json": json.dumps(TEXTS).encode(),
    "texts.txt": "\n".join(TEXTS).encode(),
    "texts.jsonl.gz": gzip.compress(JSONL),
}


def uri(content: bytes) -> str:
    return f"data:text/plain;base64,{base64.b64encode(content).decode()}"


def content_of(output: dict[str, Any]) -> bytes:
    head, _, encoded = output["file"].partition(",")
    assert head == "data:application/octet-stream;base64"
    return base64.b64decode(encoded)


def array_of(output: dict[str, Any]) -> Any:
    return np.load(io.BytesIO(content_of(output)))


@pytest.fixture
def files() -> Iterator[str]:
    """The URL of a folder with FORMS."""
    with FaultyServer() as started:
        started.publish("files", FORMS)
        yield f"{started.url}/files"


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_vectors_of_texts(
    server: RunningServer, embedder: Embedder, files: str, name: str
) -> None:
    expected = embedder.embed(TEXTS)
    for given in (uri(FORMS[name]), f"{files}/{name}"):
        output = server.predict(texts_file=given)
        assert np.abs(array_of(output) - expected).max() < 1e-5
        assert output.pop("processing_time_ms") > 0
        del output["file"]
        tokens = sum(server.predict(texts=TEXTS)["tokens"])
        described = {"output_format": "npy", "shape": [40, 768], "tokens": tokens, "truncated": 0}
        assert output == {"embedding": None, **described}


@pytest.mark.parametrize("dtype", OUTPUT_DTYPES)
def test_every_number_type_is_that_of_texts(server: RunningServer, embedder: Embedder, dtype: str) -> None:
    options: dict[str, Any] = {"task": "clustering", "title": None, "normalize": False}
    expected = embedder.embed(TEXTS, dimension=256, dtype=dtype, **options)
    given = {"task": "clustering", "normalize": False, "output_dtype": dtype, "embedding_dim": 256}
    vectors = array_of(server.predict(texts_file=uri(JSONL), **given))
    assert (vectors.dtype, vectors.shape) == (expected.dtype, expected.shape)
    if dtype == "ubinary":
        assert (np.unpackbits(vectors) == np.unpackbits(expected)).mean() > 0.98
    else:
        step = {"float32": 1e-5, "float16": 1e-3, "int8": 1}[dtype] * max(1, np.abs(expected.astype(float)).max())
        assert np.abs(vectors.astype(float) - expected).max() <= step


def test_ids_and_titles_are_in_parquet(server: RunningServer, embedder: Embedder, tmp_path: Path) -> None:
    output = server.predict(texts_file=uri(json.dumps(OBJECTS).encode()))
    (tmp_path / "vectors.parquet").write_bytes(content_of(output))
    table = pq.read_table(tmp_path / "vectors.parquet")
    assert table["id"].to_pylist() == [row["id"] for row in OBJECTS]
    vectors = np.stack(table["vector"].to_numpy())
    assert np.abs(vectors - embedder.embed(TEXTS, title="Planets")).max() < 1e-5
    assert sum(table["tokens"].to_pylist()) == output["tokens"]
    assert output["output_format"] == "parquet"


def test_bad_rows_are_refused_or_skipped_and_their_texts_are_in_no_log(server: RunningServer) -> None:
    rows = uri(JSONL + f'{{"txt": "{MARKER}"}}\n"marzipan "\n'.encode() + b"\n")
    refused = server.post(texts_file=rows).json()
    assert refused["status"] == "failed"
    message = "2 of 43 rows cannot be embedded, and skip_invalid is false: row 41: the row has no 'text'; row 43: "
    assert message in refused["error"]
    prediction = server.post(texts_file=rows, skip_invalid=True).json()
    assert np.isnan(array_of(prediction["output"])[:, 0]).nonzero()[0].tolist() == [40, 42]
    assert "texts_file: skipped row 41: the row has no 'text'" in prediction["logs"]
    assert "texts_file: skipped row 43: the line is empty" in prediction["logs"]
    for said in (refused["error"], refused["logs"], prediction["logs"], server.log.read_text()):
        assert MARKER not in said


def test_metrics_are_those_of_the_whole_file(server: RunningServer) -> None:
    prediction = server.post(texts_file=uri(JSONL)).json()
    assert prediction["metrics"]["tokens"] == prediction["output"]["tokens"]
    assert {"queue_ms", "encode_ms", "batch_texts"} <= set(prediction["metrics"])


@pytest.mark.parametrize("given", ["/etc/passwd", "file:///etc/passwd", "nothing"])
def test_the_containers_own_files_are_not_read(server: RunningServer, given: str) -> None:
    failed = server.post(texts_file=given).json()
    assert failed["error"].endswith("texts_file is no file; give an http or https URL, or a data URI")


def test_a_url_without_a_file_fails_the_request(server: RunningServer, files: str) -> None:
    failed = server.post(texts_file=f"{files}/missing").json()
    assert "404" in failed["error"]
    assert server.predict(text="still here")["shape"] == [768]


def test_the_vectors_are_stored_at_the_upload_url(server: RunningServer, embedder: Embedder) -> None:
    with upload_store(200) as (url, taken):
        output = server.predict(texts_file=uri(JSONL), upload_url=f"{url}/vectors.npy?signature=abc")
    [(method, path, body)] = taken
    assert (method, path) == ("PUT", "/vectors.npy?signature=abc")
    assert np.abs(np.load(io.BytesIO(body)) - embedder.embed(TEXTS)).max() < 1e-5
    assert output["file"] == f"{url}/vectors.npy"
    assert "signature" not in server.log.read_text()


def test_temporary_files_are_gone_after_an_answer_an_error_and_a_cancel(held: HeldServer, files: str) -> None:
    held.predict(texts_file=f"{files}/texts.jsonl.gz")
    held.post(texts_file=uri(b"\n"))
    wait_until(lambda: list(held.temporary.iterdir()) == [])
    with held.held():
        before = held.waiting()
        connection = held.open(request_bytes({"texts_file": f"{files}/texts.jsonl"}))
        wait_until(lambda: held.waiting() == before + 1)
        assert len(list(held.temporary.iterdir())) == 2  # the file of texts, and the folder of the file of vectors
        held.drop([connection])
        wait_until(lambda: list(held.temporary.iterdir()) == [])
    held.check_unharmed()
