"""The README's examples, run as they are printed, and its tables, against the code."""

import base64
import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddinggemma.prompts import TASKS, add_prompt
from embeddinggemma.vectors import OUTPUT_DTYPES
from local_server import PROJECT
from predict import Predictor
from tests.conftest import SCRIPTS, Server, running_gateway

README = (PROJECT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


PYTHON = _blocks("python")
[PYTHON_DECODER] = [block for block in PYTHON if "def decode" in block]
JAVASCRIPT = _blocks("javascript")
[JAVASCRIPT_DECODER] = [block for block in JAVASCRIPT if "function decode" in block]
[CURL] = [block for block in _blocks("bash") if block.startswith("curl")]


def _run(command: list[str | Path], environment: dict[str, str], folder: Path | None = None) -> str:
    finished = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("block", [block for block in PYTHON if block != PYTHON_DECODER])
def test_python_examples_run_as_printed(server: Server, gateway: str, block: str) -> None:
    program = block.replace("http://127.0.0.1:5000", server.url)
    printed = _run([sys.executable, "-c", program], {**os.environ, "REPLICATE_BASE_URL": gateway})
    assert "768" in printed or "Red Planet" in printed


[LOCAL_CLIENT] = re.findall(r"`(new Replicate\(\{ baseUrl: .*? \}\))`", README)


@pytest.mark.parametrize("block", [block for block in JAVASCRIPT if block != JAVASCRIPT_DECODER])
def test_javascript_examples_run_as_printed_against_the_gateway(gateway: str, node_modules: Path, block: str) -> None:
    assert "new Replicate()" in block
    program = block.replace("new Replicate()", LOCAL_CLIENT).replace("http://127.0.0.1:8000", gateway)
    (node_modules / "example.mjs").write_text(program)
    assert "768" in _run(["node", "example.mjs"], dict(os.environ), node_modules)


[GATEWAY] = [block for block in _blocks("bash") if block.startswith("scripts/replicate_gateway")]
[PYTHON_AT_GATEWAY] = [block for block in _blocks("bash") if block.startswith("REPLICATE_BASE_URL")]


def test_the_gateways_commands_run_as_printed(server: Server, tmp_path: Path) -> None:
    command = GATEWAY.replace("http://127.0.0.1:5000", server.url).replace("--port 8000", "--port 0")
    (tmp_path / "example.py").write_text(PYTHON[0])
    with running_gateway(["bash", "-c", f"cd {PROJECT} && exec {command}"]) as (url, _):
        program = PYTHON_AT_GATEWAY.replace("http://127.0.0.1:8000", url)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        printed = _run(["bash", "-c", program], {**os.environ, "PATH": path}, tmp_path)
    assert printed.startswith("(768,)")


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


PLAIN = "const plain = (vectors) => (Array.isArray(vectors) ? vectors.map(plain) : Array.from(vectors));\n"
DECODE = JAVASCRIPT_DECODER + PLAIN + "print(answers.map(({ output, dtype }) => plain(decode(output, dtype))));"


def _in_node(program: str, answers: list[dict[str, Any]], folder: Path) -> Any:
    """Return what a program prints of these answers."""
    given = f"const answers = {json.dumps(answers)}, print = (value) => console.log(JSON.stringify(value));\n"
    (folder / "program.cjs").write_text(given + program)
    return json.loads(_run(["node", "program.cjs"], dict(os.environ), folder))


def _in_chromium(program: str, answers: list[dict[str, Any]], folder: Path) -> Any:
    """Return what a program prints of these answers."""
    given = f"const answers = {json.dumps(answers)}, print = (value) => document.body.append(JSON.stringify(value));\n"
    page = folder / "page.html"
    page.write_text(f"<!doctype html><body><script>{given + program}</script></body>")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    shown = _run(["chromium", *options, page.as_uri()], dict(os.environ), folder)
    return json.loads(shown.partition("</script>")[2].partition("</body>")[0])


def test_the_javascript_decoder_gives_the_python_decoders_numbers_in_node(
    answers: list[dict[str, Any]], decoded: list[Any], tmp_path: Path
) -> None:
    assert_equal(_in_node(DECODE, answers, tmp_path), decoded)


@pytest.mark.usefixtures("chromium")
def test_the_javascript_decoder_gives_the_python_decoders_numbers_in_a_browser(
    answers: list[dict[str, Any]], decoded: list[Any], tmp_path: Path
) -> None:
    assert_equal(_in_chromium(DECODE, answers, tmp_path), decoded)


def assert_equal(ours: list[Any], pythons: list[Any]) -> None:
    for one, expected in zip(ours, pythons, strict=True):
        assert np.array_equal(np.array(one), expected)


NAIVE = """
const types = { float32: Float32Array, float16: Uint16Array, int8: Int8Array, ubinary: Uint8Array };
print(answers.map(({ output, dtype }) => new types[dtype](Buffer.from(output.embedding, "base64").buffer).length));
"""


def test_a_decoder_of_a_buffers_array_buffer_would_be_wrong_in_node(
    answers: list[dict[str, Any]], decoded: list[Any], tmp_path: Path
) -> None:
    """A short Buffer lies in an ArrayBuffer that many share; of 768 float32 it is just long enough to have its own."""
    short = [number for number, answer in enumerate(answers) if len(answer["output"]["embedding"]) < 4096]
    assert {answers[number]["dtype"] for number in short} == set(OUTPUT_DTYPES)
    lengths = _in_node(NAIVE, [answers[number] for number in short], tmp_path)
    assert all(length > decoded[number].size for length, number in zip(lengths, short, strict=True))


def test_the_javascript_decoder_reads_every_half_as_numpy_does(tmp_path: Path) -> None:
    program = JAVASCRIPT_DECODER + (
        "const numbers = Float32Array.from({ length: 65536 }, (_, half) => halfToNumber(half));\n"
        'print(Buffer.from(numbers.buffer).toString("base64"));\n'
    )
    ours = np.frombuffer(base64.b64decode(_in_node(program, [], tmp_path)), "<f4")
    numpys = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    assert np.isnan(numpys).sum() == 2 * 1023
    assert np.array_equal(ours, numpys, equal_nan=True)
    numbers = ~np.isnan(numpys)
    assert np.array_equal(np.signbit(ours[numbers]), np.signbit(numpys[numbers]))


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


def test_the_table_of_speeds_is_the_measured_one() -> None:
    machine, table, *_ = (PROJECT / "benchmarks" / "results" / "speed.md").read_text().split("\n\n")
    assert table in README
    assert machine.removeprefix("Machine: ").split(". ")[0] in README
