"""The real server over HTTP, with the small reference model, as a caller sees it."""

import base64
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from embeddinggemma import Embedder
from embeddinggemma.vectors import DIMENSIONS, OUTPUT_DTYPES
from tests.support.inputs import REFUSED
from tests.support.servers import RunningServer
from tests.support.texts import IMAGE_TOKEN, ODD_TEXTS
from tools.server import LocalServer

TEXTS = ["Mars is red.", "Venus is hot. " * 20, "木星は大きい。"]
CODES = {"float32": "<f4", "float16": "<f2", "int8": "i1", "ubinary": "u1"}


@pytest.mark.parametrize(("dtype", "dimension", "normalize"), [*product(OUTPUT_DTYPES, DIMENSIONS, [True, False])])
def test_both_formats_hold_the_same_vectors(
    server: RunningServer, embedder: Embedder, dtype: str, dimension: int, normalize: bool
) -> None:
    asked: dict[str, Any] = {"output_dtype": dtype, "embedding_dim": dimension, "normalize": normalize}
    encoded = server.predict(texts=TEXTS, output_format="base64", **asked)
    listed = server.predict(texts=TEXTS, output_format="array", **asked)
    expected = embedder.embed(TEXTS, dimension=dimension, normalize=normalize, dtype=dtype).astype(np.float64)
    width = dimension // 8 if dtype == "ubinary" else dimension
    assert encoded["shape"] == listed["shape"] == [3, width]
    decoded = np.frombuffer(base64.b64decode(encoded["embedding"]), CODES[dtype]).reshape(encoded["shape"])
    # One step of the number type: two runs of a product may round its last bit differently.
    step = {"float32": 1e-5, "float16": 1e-3, "int8": 1, "ubinary": 255}[dtype]
    for ours in (decoded, np.array(listed["embedding"])):
        assert ours.shape == expected.shape
        assert np.abs(ours - expected).max() <= step * max(1, np.abs(expected).max())
        if dtype == "ubinary":
            assert (ours == expected).mean() > 0.98


def test_one_text_gives_one_vector_and_its_bookkeeping(server: RunningServer, embedder: Embedder) -> None:
    output = server.predict(text=TEXTS[0], output_format="array")
    assert np.abs(np.array(output.pop("embedding")) - embedder.embed(TEXTS[:1])[0]).max() < 1e-5
    assert output.pop("processing_time_ms") > 0
    described = {"output_format": "array", "shape": [768], "tokens": [12], "truncated": [False]}
    assert output == {"file": None, **described}


def test_truncation_is_reported_and_logged_without_the_text(server: RunningServer) -> None:
    texts = ["short", "marzipan " * 3000, "marzipan " * 20_000]
    prediction = server.post(texts=texts).json()
    assert prediction["output"]["truncated"] == [False, True, True]
    assert prediction["output"]["tokens"][1:] == [2048, 2048]
    log = server.log.read_text()
    assert "texts[1] has 9,009 tokens; the first 2,048 were kept" in log
    assert "texts[2] has over 2,048 tokens; the first 2,048 were kept" in log
    assert "texts[1] has 9,009 tokens" in prediction["logs"]
    assert "marzipan" not in log


@pytest.mark.parametrize(("inputs", "message"), [case for case in REFUSED if "surrogate" not in case[1]])
def test_bad_input_is_refused_and_the_next_request_is_answered(
    server: RunningServer, inputs: dict[str, Any], message: str
) -> None:
    response = server.post(**inputs)
    if response.status == 422:  # the schema refused it, naming the input
        assert message.split()[0].split("\\")[0] in response.text
    else:
        assert response.json()["status"] == "failed"
        assert re.search(message, response.json()["error"])
    assert server.predict(text="still here")["shape"] == [768]


def test_our_schema_is_served(server: RunningServer) -> None:
    schema = requests.get(f"{server.url}/openapi.json", timeout=600).json()
    assert "anyOf" in schema["components"]["schemas"]["Output"]["properties"]["embedding"]


def test_the_operators_number_of_threads_is_used_and_said(tmp_path: Path) -> None:
    changes = {"EMBEDDINGGEMMA_CACHE": str(tmp_path / "cache"), "EMBEDDINGGEMMA_THREADS": "1"}
    with LocalServer(tmp_path / "log", weights="small", changes=changes):
        [line] = [line for line in (tmp_path / "log").read_text().splitlines() if "running: {" in line]
    assert '\\"threads\\": 1, \\"threads_from\\": \\"EMBEDDINGGEMMA_THREADS\\"' in line


def test_a_text_brings_its_own_prompt_or_is_refused_whole(server: RunningServer) -> None:
    prompt = "title: none | text: "
    assert server.predict(text=f"{prompt}Mars", task="none")["embedding"] == server.predict(text="Mars")["embedding"]
    refused = server.post(texts=["short", "word " * 3000], truncate=False).json()
    assert refused["status"] == "failed"
    assert re.search(r"texts\[1\] has 3,00\d tokens, prompt included; the limit is 2,048", refused["error"])


def test_a_title_that_leaves_nothing_of_the_texts_is_refused(server: RunningServer) -> None:
    refused = server.post(texts=["Mars is red.", "Venus is hot."], title="word " * 3000).json()
    assert refused["status"] == "failed"
    assert re.search(r": title has 3,00\d tokens, prompt included; the limit is 2,047", refused["error"])
    [mars, venus] = server.vectors(texts=["Mars is red.", "Venus is hot."], title="word " * 2030)
    assert not np.array_equal(mars, venus)


def test_odd_texts_and_titles_get_the_librarys_vectors(server: RunningServer, embedder: Embedder) -> None:
    texts = [*ODD_TEXTS.values(), IMAGE_TOKEN, f"the token {IMAGE_TOKEN} is used by Gemma 3"]
    for title in (None, f"A <eos> and {IMAGE_TOKEN}"):
        theirs = server.vectors(texts=texts, **({} if title is None else {"title": title}))
        assert np.abs(theirs - embedder.embed(texts, title=title)).max() < 1e-5
