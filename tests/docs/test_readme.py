"""README.md: its programs and commands, run as a reader would run them, and its tables, against the code."""

import json
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from embeddinggemma.prompts import TASKS, add_prompt
from predict import Output, Predictor
from tests.support.answers import PROXYS_PAGE, answering
from tests.support.documents import LOCAL_CLIENT, first_column, printed, readers, run, section
from tests.support.servers import RunningServer
from tools import PROJECT
from tools.reference_model import warm_cache
from tools.server import free_port, wait_until_ready

RUN = printed("README.md", "bash", "scripts/run ")
SERVE = printed("README.md", "bash", "scripts/serve")
CURL = printed("README.md", "bash", "curl ")
OVER_HTTP = printed("docs/api.md", "python", "requests.post(")
LIBRARY = printed("README.md", "python", "Embedder.load()")
ON_REPLICATE = printed("README.md", "python", "replicate.run(")
ON_REPLICATE_IN_JAVASCRIPT = printed("README.md", "javascript", "replicate.run(")


@pytest.mark.usefixtures("small_model")
def test_the_first_command_prints_a_vector_even_if_no_source_has_the_weights(tmp_path: Path) -> None:
    manifest = json.loads((PROJECT / "weights_manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"sources": []}))
    changes = {
        "EMBEDDINGGEMMA_MANIFEST": str(tmp_path / "manifest.json"),
        "EMBEDDINGGEMMA_CACHE": str(tmp_path / "cache"),
        "EMBEDDINGGEMMA_WEIGHTS_URL": "",
    }
    output = run("bash", "-c", f"{RUN.strip()} 2>&1", changes=changes)
    assert "the vectors MEAN NOTHING" in output
    assert "vector: shape (768,), norm 1.000000" in output


def test_the_servers_command_starts_it(small_model: Path, tmp_path: Path) -> None:
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {SERVE.strip()} --port {port}"],
            cwd=PROJECT,
            env=readers(warm_cache(small_model, tmp_path / "cache")),
            stdout=log,
            stderr=log,
        )
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()


def test_the_curl_example_runs_as_printed(server: RunningServer) -> None:
    answer = run("bash", "-c", CURL.replace("http://127.0.0.1:5000", server.url))
    assert json.loads(answer)["output"]["shape"] == [768]


def test_the_example_over_http_runs_as_printed(server: RunningServer) -> None:
    assert run("python", "-c", OVER_HTTP.replace("http://127.0.0.1:5000", server.url)) == "[2, 768]\n"


@pytest.mark.parametrize("answer", [PROXYS_PAGE, (404, "text/plain", b"")])
def test_the_example_over_http_shows_an_answer_that_is_not_json(answer: tuple[int, str, bytes]) -> None:
    with answering(*answer) as url, pytest.raises(AssertionError, match=f"^HTTP {answer[0]}: {answer[2].decode()}\n$"):
        run("python", "-c", OVER_HTTP.replace("http://127.0.0.1:5000", url))


def test_the_example_over_http_shows_the_containers_refusal(server: RunningServer) -> None:
    changed = OVER_HTTP.replace("http://127.0.0.1:5000", server.url).replace('"second text"', '""')
    with pytest.raises(AssertionError, match=r"^HTTP 200: .*texts\[1\] is empty"):
        run("python", "-c", changed)


def test_the_library_runs_as_printed(small_model: Path, tmp_path: Path) -> None:
    assert run("python", "-c", LIBRARY, changes=warm_cache(small_model, tmp_path)).startswith("(2, 768) [")


def test_replicates_python_client_runs_as_printed(gateway: str) -> None:
    assert run("python", "-c", ON_REPLICATE, changes={"REPLICATE_BASE_URL": gateway}).startswith("(768,) [")


def test_replicates_javascript_client_runs_as_printed(gateway: str, node_modules: Path) -> None:
    """One argument is changed, so that the client reaches a local container."""
    assert "new Replicate()" in ON_REPLICATE_IN_JAVASCRIPT
    client = LOCAL_CLIENT.replace("http://127.0.0.1:8000", gateway)
    (node_modules / "example.mjs").write_text(ON_REPLICATE_IN_JAVASCRIPT.replace("new Replicate()", client))
    assert run("node", "example.mjs", folder=node_modules).startswith("[ 768 ] [")


def test_the_input_table_names_every_input() -> None:
    names = [name for name in Predictor.predict.__annotations__ if name != "return"]
    assert first_column(section("README.md", "Inputs")) == names


def test_the_output_table_names_every_field() -> None:
    assert first_column(section("README.md", "Output")) == [field.name for field in fields(Output)]


def test_the_task_table_has_every_tasks_prompt() -> None:
    table = section("README.md", "Tasks").replace("\\|", "|")
    assert first_column(table) == list(TASKS)
    for task in TASKS:
        prompt = add_prompt("{text}", task).replace("title: none", 'title: {title or "none"}')
        assert re.search(rf"^\| `{task}` \|.*\| `{re.escape(prompt)}` \|$", table, re.MULTILINE), task
