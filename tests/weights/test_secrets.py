"""No script that downloads prints the token, a proxy's password, or a secret part of a URL, whatever goes wrong."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest

from tests.support.faulty_server import FaultyServer, status
from tests.support.servers import TOKEN
from tools import SCRIPTS
from tools.server import free_port

pytestmark = pytest.mark.slow

SECRET = "zyzzyvaQuokka"  # noqa: S105 - of the mirror and the proxy
BEGUN = "REFERENCE MODEL"  # what scripts/serve says before it starts the server without real weights
COMMANDS: dict[str, list[str | Path]] = {
    "serve": [SCRIPTS / "serve", "--port", str(free_port())],
    "verify": [SCRIPTS / "verify"],
    "publish_weights": [SCRIPTS / "publish_weights", "out", "--url", "https://cdn.example"],
    "embed_corpus": [SCRIPTS / "embed_corpus", "texts.jsonl", "vectors"],
}


@pytest.fixture
def hub(small_model: Path, tmp_path: Path) -> Iterator[FaultyServer]:
    """A gated source that refuses every file, and a manifest and a text for the scripts."""
    (tmp_path / "texts.jsonl").write_text('{"text": "one"}\n')
    made = json.loads((small_model / "weights_manifest.json").read_text())
    with FaultyServer() as server:
        sources = [{"url": f"{server.url}/hub/{{path}}", "gated": True}]
        (tmp_path / "manifest.json").write_text(json.dumps(made | {"sources": sources}))
        for file in made["files"]:
            server.fail(f"/hub/{file['path']}", repeat(status(401)))
        yield server


def printed(command: list[str | Path], folder: Path, changes: dict[str, str]) -> str:
    """Run a script in a folder without a good source, and return what it prints until it ends or starts a server."""
    environment = {
        **os.environ,
        "EMBEDDINGGEMMA_MANIFEST": str(folder / "manifest.json"),
        "EMBEDDINGGEMMA_CACHE": str(folder / "cache"),
        "EMBEDDINGGEMMA_ENVIRONMENT": "none",
        **changes,
    }
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if BEGUN in line:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    return "".join(lines)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_token_that_cannot_be_sent_is_refused_in_one_line(command: str, hub: FaultyServer, tmp_path: Path) -> None:
    output = printed(COMMANDS[command], tmp_path, {"HF_TOKEN": f"{TOKEN}\n{TOKEN}"})
    assert output == "HF_TOKEN cannot be sent in a header: it must be printable ASCII characters without spaces\n"
    assert not hub.requests


@pytest.mark.parametrize("command", COMMANDS)
def test_no_token_and_no_secret_of_a_url_is_printed(command: str, hub: FaultyServer, tmp_path: Path) -> None:
    made = json.loads((tmp_path / "manifest.json").read_text())
    made["sources"].append({"url": f"https://user:{SECRET}@cdn.example/{{path}}?signature={SECRET}"})
    (tmp_path / "manifest.json").write_text(json.dumps(made))
    changes = {
        "HF_TOKEN": f"{TOKEN}\n",  # as every secret that is made from a file
        "EMBEDDINGGEMMA_WEIGHTS_URL": f"{hub.url.replace('//', f'//user:{SECRET}@')}/mirror?signature={SECRET}\n",
        "HTTPS_PROXY": f"http://user:{SECRET}@127.0.0.1:9",
        "NO_PROXY": "",
        "no_proxy": "",
    }
    output = printed(COMMANDS[command], tmp_path, changes)
    tokens = {request.headers.get("Authorization") for request in hub.requests if request.path.startswith("/hub/")}
    assert tokens == {f"Bearer {TOKEN}"}
    assert {request.query for request in hub.requests if request.path.startswith("/mirror/")} == {f"signature={SECRET}"}
    assert "HTTP 404" in output
    assert "HTTP 401; has the account of HF_TOKEN accepted the licence?" in output
    assert "the proxy http://127.0.0.1:9 (HTTPS_PROXY) cannot be reached: connection refused" in output
    assert SECRET not in output
    assert TOKEN not in output
    assert "Traceback" not in output
