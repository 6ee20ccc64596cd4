"""No text and no secret is in the server's log, in its public pages, or in a command line."""

import json
from http import HTTPStatus
from itertools import repeat
from pathlib import Path

import psutil
import pytest

from predict import Predictor
from tests.support.faulty_server import FaultyServer, status
from tests.support.servers import TOKEN, HeldServer
from tools.client import JSON, request_bytes, wait_until
from tools.evidence import Evidence
from tools.observed_server import MARKER, ObservedServer, command_line
from tools.server import LocalServer, health

SLOTS = Predictor.predict.__cog_concurrent_max__
pytestmark = pytest.mark.slow
PUBLIC = ("/", "/openapi.json", "/health-check")


def _command_lines(pid: int) -> str:
    process = psutil.Process(pid)
    return str([command_line(found) for found in [process, *process.children(recursive=True)]])


def test_no_text_is_printed_however_its_request_ends(
    container: ObservedServer, held: HeldServer, evidence: Evidence
) -> None:
    bodies = {
        "answered": json.dumps({"input": {"text": MARKER, "title": MARKER}}),
        "truncated": json.dumps({"input": {"text": f"{MARKER} " * 3_000}}),
        "refused by the schema": json.dumps({"input": {"texts": MARKER}}),
        "refused by predict": json.dumps({"input": {"texts": [MARKER, ""], "title": MARKER}}),
        "an unknown choice": json.dumps({"input": {"text": MARKER, "task": MARKER}}),
        "not JSON": f'{{"input": {{"text": "{MARKER}',
        "JSON that has no input": json.dumps([MARKER]),
    }
    answers = {name: container.send(body.encode()) for name, body in bodies.items()}
    assert [answer.status for answer in answers.values()] == [200, 200, 422, 200, 422, 400, 422]
    assert answers["answered"].json()["status"] == "succeeded"
    assert answers["truncated"].json()["output"]["truncated"] == [True]
    assert "texts[1] is empty" in answers["refused by predict"].json()["error"]
    assert container.send(bodies["answered"].encode(), JSON | {"Prefer": "respond-async"}).status == HTTPStatus.ACCEPTED
    wait_until(container.is_idle)
    printed = container.new_log()
    assert "tokens; the first 2,048 were kept" in printed

    long = request_bytes({"texts": [f"{MARKER} " + "word " * 1_000] * 16, "title": MARKER})
    with held.held():
        taken = held.fill_slots(SLOTS, long)
        assert held.send(bodies["answered"].encode()).status == HTTPStatus.CONFLICT
        held.drop(taken)
    wait_until(held.is_idle)
    printed += held.log.read_text()
    assert "Prediction cancelled" in printed
    assert MARKER not in printed
    figure = f"{len(bodies) + SLOTS + 2} requests, no text in {len(printed):,} characters of log"
    how = "a marked text through every path: answered, truncated, refused, no JSON, cancelled, in all slots, in a 409"
    evidence.record("No text and no secret is printed", how, figure)


def test_the_token_appears_nowhere(container: ObservedServer, evidence: Evidence) -> None:
    answers = [container.send(method="GET", path=path).text for path in PUBLIC]
    answers += [container.post(**inputs).text for inputs in ({"text": "one"}, {}, {"text": 1})]
    assert all(answers)
    assert TOKEN not in "".join([*answers, container.log.read_text(), _command_lines(container.server.pid)])
    how = "HF_TOKEN set: log, /openapi.json, /health-check, answers, errors, command lines of all processes"
    evidence.record("No text and no secret is printed", how, "not found")


def test_a_setup_that_fails_with_the_token_does_not_print_it(
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
        changes = {
            "HF_TOKEN": f"{TOKEN}\n",
            "EMBEDDINGGEMMA_MANIFEST": str(manifest),
            "EMBEDDINGGEMMA_CACHE": str(tmp_path),
        }
        server = LocalServer(tmp_path / "log", weights="manifest", changes=changes)
        command_lines: set[str] = set()
        try:
            while health(server.url) in ("UNREACHABLE", "STARTING") and server.process.poll() is None:
                command_lines.add(_command_lines(server.process.pid))
            last_health = health(server.url)
        finally:
            server.stop()
        asked = [request.headers.get("Authorization") for path in paths for request in hub.asked_for(f"/hub/{path}")]
    assert f"Bearer {TOKEN}" in asked, "the token was not used"
    printed = server.log.read_text()
    assert "has the account of HF_TOKEN accepted the licence?" in printed
    assert TOKEN not in last_health + printed + "".join(command_lines)
    evidence.record("No text and no secret is printed", "HF_TOKEN sent to a gated source that refuses it", "not found")
