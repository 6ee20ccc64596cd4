"""The door of text-embeddings-inference: its prompts, and the tokens of a text."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from embeddinggemma.embedder import Embedder
from embeddinggemma.weights.manifest import read_manifest
from gateway.doors.tei import PROMPTS
from tests.support.gateways import gateway_to
from tools.reference_model import CONFIGS

TEXT = "Venus est voil\u00e9e \u2014 \U0001f30d"


@pytest.fixture
def door(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The gateway, whose tokenizer is in its cache's source."""
    monkeypatch.setenv("EMBEDDINGGEMMA_MANIFEST", str(small_model / "weights_manifest.json"))
    monkeypatch.setenv("EMBEDDINGGEMMA_CACHE", str(tmp_path))
    with TestClient(gateway_to()) as client:
        yield client


def _fill(small_model: Path, cache: Path) -> None:
    """Put the two files where the gateway keeps them."""
    manifest = read_manifest(small_model / "weights_manifest.json")
    files = tuple(file for file in manifest.files if file.path in ("config.json", "tokenizer.json"))
    folder = cache / replace(manifest, files=files).folder_name
    folder.mkdir()
    for file in files:
        shutil.copy(small_model / file.path, folder)


def _tokens(door: TestClient, **body: Any) -> list[list[dict[str, Any]]]:
    answer = door.post("/tokenize", json=body)
    assert answer.status_code == 200, answer.text
    tokens: list[list[dict[str, Any]]] = answer.json()
    return tokens


def test_the_prompts_are_those_of_the_models_configuration() -> None:
    assert json.loads((CONFIGS / "config_sentence_transformers.json").read_text())["prompts"] == PROMPTS


def test_tokens_are_those_of_the_model(door: TestClient, small_model: Path, tmp_path: Path, embedder: Embedder) -> None:
    _fill(small_model, tmp_path)
    [tokens] = _tokens(door, inputs=TEXT)
    [expected] = embedder.tokenizer.tokenize([TEXT])
    assert [token["id"] for token in tokens] == list(expected.ids)
    assert tokens[0] == {"id": 2, "text": "<bos>", "special": True, "start": None, "stop": None}
    assert all(token["text"] == TEXT[token["start"] : token["stop"]] for token in tokens[1:-1])


def test_tokens_have_the_prompt_that_is_named_and_no_special_ones_if_asked(
    door: TestClient, small_model: Path, tmp_path: Path
) -> None:
    _fill(small_model, tmp_path)
    bare, prompted = (
        _tokens(door, inputs=["a", "b"], add_special_tokens=False, **more)[1] for more in ({}, {"prompt_name": "query"})
    )
    assert [token["text"] for token in bare] == ["b"]
    assert "".join(token["text"] for token in prompted) == "task: search result | query: b"


def test_a_text_that_would_take_too_long_is_refused(door: TestClient) -> None:
    answer = door.post("/tokenize", json={"inputs": ["a", "b" * 65_537]})
    assert (answer.status_code, answer.json()["error_type"]) == (413, "Validation")
    assert answer.json()["error"] == "inputs[1] has 65,537 characters; the limit here is 65,536"


def test_a_tokenizer_that_cannot_be_had_is_an_error_with_its_reason(door: TestClient, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EMBEDDINGGEMMA_CACHE", str(tmp_path / "file"))
        answer = door.post("/tokenize", json={"inputs": "a"})
    assert answer.status_code == 503
    assert answer.json()["error"].startswith("the tokenizer could not be loaded: ")
