"""The real server with an encoder that breaks: each request ends with a reason, and /health-check reports it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.breaking_predictor import BREAKS_AT, MEMORY
from tests.support.servers import RunningServer, running_server
from tools.evidence import Evidence
from tools.reference_model import warm_cache
from tools.server import health, wait_until_ready

pytestmark = pytest.mark.slow

PROMPT = 8  # tokens besides the words: <bos>, the prompt without a title, <eos>
REASONS = {
    "not finite": "a vector is not finite; memory, processor or card are at fault",
    "CUDA error": "CUDA error: an illegal memory access was encountered",
    "hang": "a forward pass gave no answer for 5 s",
}


def _text(tokens: int) -> str:
    """Return a text that has this many tokens with its prompt."""
    return " ".join(["word"] * (tokens - PROMPT))


@pytest.fixture(scope="module")
def breaking(
    small_model: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[RunningServer, str]]:
    """Return the server and the reason that it must give."""
    folder = tmp_path_factory.mktemp("breaking")
    changes = warm_cache(small_model, folder) | {"BREAKS": request.param}
    log = folder / "log"
    with running_server(changes, log, slots=16, predictor="tests/support/breaking_predictor.py:Predictor") as (
        process,
        url,
    ):
        wait_until_ready(process, url)
        yield RunningServer(url, log), REASONS[request.param]


def _error(answer: dict[str, Any]) -> str:
    assert answer["status"] == "failed", answer
    return str(answer["error"])


@pytest.mark.parametrize("breaking", ["not finite"], indirect=True)
def test_a_batch_too_large_for_the_memory_is_halved_and_fails_alone(
    breaking: tuple[RunningServer, str], evidence: Evidence
) -> None:
    server, _ = breaking
    batch = server.predict(texts=[_text(70)] * 20)
    assert batch["tokens"] == [70] * 20
    short = _error(server.post(texts=["short", _text(MEMORY + 1)]).json())
    assert "BatchTooLargeError: texts[1] has 301 tokens, for which memory is short: CUDA out of memory" in short
    assert server.predict(text=_text(70))["tokens"] == [70]
    assert health(server.url) == "READY"
    evidence.record(
        "A batch too large for the memory is tried again in halves; a text too large fails alone, with the reason",
        f"an encoder that is out of memory above {MEMORY} tokens per pass",
        "20 texts of 70 tokens answered; a text of 301 failed by name, the next request answered",
    )


@pytest.mark.parametrize("breaking", REASONS, indirect=True)
def test_a_broken_encoder_fails_every_request_and_the_health_check(
    breaking: tuple[RunningServer, str], evidence: Evidence
) -> None:
    server, reason = breaking
    assert health(server.url) == "READY"
    with ThreadPoolExecutor(9) as pool:
        asked = [
            pool.submit(server.post, text=_text(BREAKS_AT)),
            *(pool.submit(server.post, texts=[_text(200)] * 9) for _ in range(8)),
        ]
        answers = [request.result().json() for request in asked]
    assert f"BrokenEncoderError: {reason}" in _error(answers[0])
    for answer in answers[1:]:
        assert answer["status"] == "succeeded" or reason in answer["error"]

    reported = requests.get(f"{server.url}/health-check", timeout=600).json()
    assert reported["status"] == "UNHEALTHY"
    assert reported["user_healthcheck_error"] == f"Healthcheck failed: BrokenEncoderError: {reason}"
    assert f"BrokenEncoderError: {reason}" in _error(server.post(text="a good text").json())
    assert f"unhealthy: {reason}" in server.log.read_text()
    evidence.record(
        "A broken encoder stops serving: its requests fail, and the health check reports it",
        f"9 requests at once, one of which breaks the encoder: {reason}",
        "each ended in vectors or that reason; UNHEALTHY; the next request failed with the same reason",
    )
