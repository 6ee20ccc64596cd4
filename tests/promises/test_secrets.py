"""No text and no secret gets into what the server prints, says of itself, or is started with."""

import json
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import psutil
import pytest

from local_server import LocalServer, health
from predict import Predictor
from tests.conftest import command_line
from tests.faulty_server import FaultyServer, status
from tests.promises.container import MARKER, SETTLED, Container, fill_slots, readable, request_bytes, seconds_until
from tests.promises.evidence import Evidence

TOKEN = "hf_quaggaQuaggaQUAGGA"  # noqa: S105
SLOTS = Predictor.predict.__cog_concurrent_max__
PUBLIC = ("/", "/openapi.json", "/health-check")


@pytest.fixture(scope="module")
def with_token(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A server that has HF_TOKEN."""
    assert small_model
    folder = tmp_path_factory.mktemp("with_token")
    changes = {"EMBEDDINGGEMMA_CACHE": str(folder), "HF_TOKEN": TOKEN}
    with LocalServer(folder / "log", weights="small", changes=changes) as server:
        yield Container(server)


def _command_lines(server: LocalServer) -> str:
    process = psutil.Process(server.process.pid)
    return str([command_line(one) for one in [process, *process.children(recursive=True)]])


def test_no_text_is_printed_whatever_becomes_of_its_request(with_token: Container, evidence: Evidence) -> None:
    long = request_bytes({"texts": [f"{MARKER} " + "word " * 1_000] * 16, "title": MARKER})
    bodies = {
        "answered": json.dumps({"input": {"text": MARKER, "title": MARKER}}),
        "truncated": json.dumps({"input": {"text": f"{MARKER} " * 3_000}}),
        "refused by the schema": json.dumps({"input": {"texts": MARKER}}),
        "refused by predict": json.dumps({"input": {"texts": [MARKER, ""], "title": MARKER}}),
        "an unknown choice": json.dumps({"input": {"text": MARKER, "task": MARKER}}),
        "not JSON": f'{{"input": {{"text": "{MARKER}',
        "JSON that has no input": json.dumps([MARKER]),
    }
    answers = {name: with_token.send(body.encode()) for name, body in bodies.items()}
    assert [answer.status for answer in answers.values()] == [200, 200, 422, 200, 422, 400, 422]
    assert answers["answered"].json()["status"] == "succeeded"
    assert answers["truncated"].json()["output"]["truncated"] == [True]
    assert "texts[1] is empty" in answers["refused by predict"].json()["error"]
    assert with_token.send(bodies["answered"].encode(), {"Prefer": "respond-async", "Content-Type": "application/json"})
    with with_token.open(long) as connection:
        assert not readable([connection], SETTLED)
    for connection in fill_slots(with_token, SLOTS, long):
        connection.close()
    seconds_until(with_token.is_idle, limit=60)
    printed = with_token.new_log()
    assert "tokens; the first 2,048 were kept" in printed
    assert "Prediction cancelled" in printed
    assert MARKER not in printed
    figure = f"{len(bodies) + SLOTS + 2} requests, no text in {len(printed):,} characters of log"
    how = "a marked text through every path: answered, truncated, refused, no JSON, cancelled, in all slots, in 409s"
    evidence.record("No text and no secret is printed", how, figure)


def test_the_token_is_nowhere_to_be_seen(with_token: Container, evidence: Evidence) -> None:
    said = [with_token.send(b"", method="GET", path=path).body.decode() for path in PUBLIC]
    said += [with_token.predict(**inputs).body.decode() for inputs in ({"text": "one"}, {}, {"text": 1})]
    assert all(said)
    assert TOKEN not in "".join([*said, with_token.server.log.read_text(), _command_lines(with_token.server)])
    how = "HF_TOKEN set: log, /openapi.json, /health-check, answers, errors, command lines of all processes"
    evidence.record("No text and no secret is printed", how, "not found")


def test_a_setup_that_fails_with_the_token_does_not_tell_it(
    small_model: Path, tmp_path: Path, evidence: Evidence
) -> None:
    with FaultyServer() as hub:
        manifest = tmp_path / "manifest.json"
        source = f"{hub.url}/hub/{{path}}"
        made = json.loads((small_model / "weights_manifest.json").read_text())
        manifest.write_text(json.dumps(made | {"sources": [{"url": source, "gated": True}]}))
        paths = [file["path"] for file in made["files"]]
        for path in paths:
            hub.fail(f"/hub/{path}", repeat(status(401)))
        changes = {"HF_TOKEN": TOKEN, "EMBEDDINGGEMMA_MANIFEST": str(manifest), "EMBEDDINGGEMMA_CACHE": str(tmp_path)}
        server = LocalServer(tmp_path / "log", weights="manifest", changes=changes)
        command_lines: set[str] = set()
        try:
            while health(server.url) in ("UNREACHABLE", "STARTING") and server.process.poll() is None:
                command_lines.add(_command_lines(server))
            told = json.dumps(health(server.url))
        finally:
            server.stop()
        asked = [request.headers.get("Authorization") for path in paths for request in hub.asked_for(f"/hub/{path}")]
    assert f"Bearer {TOKEN}" in asked, "the token was not even used"
    printed = server.log.read_text()
    assert "has the account of HF_TOKEN accepted the licence?" in printed
    assert TOKEN not in told + printed + "".join(command_lines)
    evidence.record("No text and no secret is printed", "HF_TOKEN sent to a gated source that refuses it", "not found")
