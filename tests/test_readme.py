"""The README's examples, run as they are printed, and its tables, against the code."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddinggemma.prompts import TASKS, add_prompt
from embeddinggemma.vectors import OUTPUT_DTYPES
from local_server import PROJECT
from predict import Predictor
from tests.conftest import SCRIPTS, Server
from tests.replicate_stand_in import replicate_stand_in

README = (PROJECT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


PYTHON = _blocks("python")
[PYTHON_DECODER] = [block for block in PYTHON if "def decode" in block]
JAVASCRIPT = _blocks("javascript")
[JAVASCRIPT_DECODER] = [block for block in JAVASCRIPT if "function decode" in block]
[CURL] = [block for block in _blocks("bash") if block.startswith("curl")]


@pytest.fixture(scope="module")
def clients(server: Server) -> Iterator[dict[str, str]]:
    """The environment in which Replicate's clients find a container behind a stand-in for Replicate."""
    with replicate_stand_in(server.url) as url:
        yield {**os.environ, "REPLICATE_BASE_URL": url, "REPLICATE_API_TOKEN": "none", "PATH": os.environ["PATH"]}


@pytest.fixture(scope="module")
def node_modules() -> Path:
    folder = PROJECT / ".cache" / "node"
    folder.mkdir(parents=True, exist_ok=True)
    package = (PROJECT / "tests" / "package.json").read_text()
    if not (folder / "node_modules").exists() or (folder / "package.json").read_text() != package:
        (folder / "package.json").write_text(package)
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder


def _run(command: list[str | Path], environment: dict[str, str], folder: Path | None = None) -> str:
    finished = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("block", [block for block in PYTHON if block != PYTHON_DECODER])
def test_python_examples_run_as_printed(server: Server, clients: dict[str, str], block: str) -> None:
    printed = _run([sys.executable, "-c", block.replace("http://127.0.0.1:5000", server.url)], clients)
    assert "768" in printed or "Red Planet" in printed


# The JavaScript client has no variable for its base URL, so its requests are sent on underneath it.
REDIRECT = """
const original = globalThis.fetch;
globalThis.fetch = (url, options) =>
  original(String(url).replace("https://api.replicate.com", process.env.REPLICATE_BASE_URL), options);
"""


@pytest.mark.parametrize("block", [block for block in JAVASCRIPT if block != JAVASCRIPT_DECODER])
def test_javascript_examples_run_as_printed(clients: dict[str, str], node_modules: Path, block: str) -> None:
    (node_modules / "redirect.mjs").write_text(REDIRECT)
    (node_modules / "example.mjs").write_text(block)
    assert "768" in _run(["node", "--import", "./redirect.mjs", "example.mjs"], clients, node_modules)


def test_the_curl_example_runs_as_printed(server: Server) -> None:
    printed = _run(["bash", "-c", CURL.replace("http://127.0.0.1:5000", server.url)], dict(os.environ))
    assert json.loads(printed)["output"]["shape"] == [128]


SINGLE_AND_BATCH: list[dict[str, Any]] = [{"text": "one text"}, {"texts": ["one", "two", "three"]}]
COMBINATIONS = [*product(OUTPUT_DTYPES, [768, 128], SINGLE_AND_BATCH)]


@pytest.fixture(scope="module")
def answers(server: Server) -> list[dict[str, Any]]:
    """Every number type and shape, as base64, with the values that the answer holds according to the types' names."""
    return [
        {"dtype": dtype, "output": server.predict(output_dtype=dtype, embedding_dim=dimension, **texts)}
        for dtype, dimension, texts in COMBINATIONS
    ]


@pytest.fixture(scope="module")
def decoded(answers: list[dict[str, Any]]) -> list[Any]:
    """The answers, decoded by the README's Python."""
    namespace: dict[str, Any] = {}
    exec(PYTHON_DECODER, namespace)  # noqa: S102
    return [namespace["decode"](answer["output"], answer["dtype"]) for answer in answers]


def test_the_python_decoder_gives_the_array_formats_numbers(server: Server, decoded: list[Any]) -> None:
    for vectors, (dtype, dimension, texts) in zip(decoded, COMBINATIONS, strict=True):
        listed = server.predict(output_dtype=dtype, embedding_dim=dimension, output_format="array", **texts)
        assert list(vectors.shape) == listed["shape"]
        if dtype != "ubinary":
            step = 1 if dtype == "int8" else 1e-3
            assert np.abs(vectors - np.array(listed["embedding"])).max() <= step
        else:
            assert (vectors == np.array(listed["embedding"])).mean() > 0.98


def test_the_javascript_decoder_gives_the_python_decoders_numbers(
    answers: list[dict[str, Any]], decoded: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    program = JAVASCRIPT_DECODER + (
        'const answers = JSON.parse(require("fs").readFileSync("answers.json", "utf8"));\n'
        "const plain = (vectors) => (Array.isArray(vectors) ? vectors.map(plain) : Array.from(vectors));\n"
        "console.log(JSON.stringify(answers.map(({ output, dtype }) => plain(decode(output, dtype)))));\n"
    )
    (tmp_path / "decode.cjs").write_text(program)
    printed = json.loads(_run(["node", "decode.cjs"], dict(os.environ), tmp_path))
    for ours, pythons in zip(printed, decoded, strict=True):
        assert np.array_equal(np.array(ours), pythons)


def test_the_first_command_prints_a_vector(small_model: Path) -> None:
    assert small_model
    printed = _run([SCRIPTS / "run", "Machine learning helps computers understand data"], dict(os.environ))
    assert "vector: shape (768,), norm 1.000000" in printed


def test_the_input_table_names_every_input() -> None:
    table = README.split("## Inputs")[1].split("## Output")[0]
    names = [name for name in Predictor.predict.__annotations__ if name != "return"]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == names


def test_the_task_table_has_every_tasks_prompt() -> None:
    table = README.split("## Tasks")[1].split("## Long texts")[0].replace("\\|", "|")
    for task in TASKS:
        prompt = add_prompt("{text}", task).replace("title: none", 'title: {title or "none"}')
        assert re.search(rf"^\| `{task}` \|.*\| `{re.escape(prompt)}` \|$", table, re.MULTILINE), task
