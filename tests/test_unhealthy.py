"""The real server with an encoder that breaks: every request ends in a reason, and /health-check tells the platform."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from local_server import free_port, health, start_container, wait_until_ready, warm_cache
from tests.breaking_predictor import BREAKS_AT, MEMORY
from tests.conftest import Server

PROMPT = 8  # tokens beside the words: <bos>, the prompt without a title, <eos>
REASONS = {
    "not finite": "a vector is not finite; memory, processor or card are at fault",
    "CUDA error": "CUDA error: an illegal memory access was encountered",
    "hang": "a forward pass gave no answer for 2 s",
}


def _text(tokens: int) -> str:
    """Return a text that has so many tokens with its prompt."""
    return " ".join(["word"] * (tokens - PROMPT))


@pytest.fixture(params=REASONS)
def breaking(small_model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Server, str]]:
    """Return the server and the reason that it has to give."""
    changes = warm_cache(small_model, tmp_path) | {"EMBEDDINGGEMMA_LOAD_LOG": "1", "BREAKS": request.param}
    port = free_port()
    server = Server(f"http://127.0.0.1:{port}", tmp_path / "log")
    with server.log.open("wb") as log:
        process = start_container(port, changes, slots=16, predictor="tests/breaking_predictor.py:Predictor", log=log)
    try:
        wait_until_ready(process, server.url)
        yield server, REASONS[request.param]
    finally:
        process.terminate()
        process.wait(20)


def _error(answer: dict[str, Any]) -> str:
    assert answer["status"] == "failed", answer
    return str(answer["error"])


def test_short_memory_fails_one_text_alone_and_a_broken_encoder_everything(breaking: tuple[Server, str]) -> None:
    server, reason = breaking
    batch = server.predict(texts=[_text(70)] * 20)
    assert batch["tokens"] == [70] * 20
    short = _error(server.post(texts=["short", _text(MEMORY + 1)]).json())
    assert "BatchTooLargeError: texts[1] has 301 tokens, for which memory is short: CUDA out of memory" in short
    assert server.predict(text=_text(70))["tokens"] == [70]
    assert health(server.url) == "READY"

    with ThreadPoolExecutor(9) as pool:
        asked = [
            pool.submit(server.post, text=_text(BREAKS_AT)),
            *(pool.submit(server.post, texts=[_text(200)] * 9) for _ in range(8)),
        ]
        answers = [one.result().json() for one in asked]
    assert f"BrokenEncoderError: {reason}" in _error(answers[0])
    for answer in answers[1:]:
        assert answer["status"] == "succeeded" or reason in answer["error"]

    told = requests.get(f"{server.url}/health-check", timeout=10).json()
    assert told["status"] == "UNHEALTHY"
    assert told["user_healthcheck_error"] == f"Healthcheck failed: BrokenEncoderError: {reason}"
    assert f"BrokenEncoderError: {reason}" in _error(server.post(text="a good text").json())
    assert f"unhealthy: {reason}" in server.log.read_text()
