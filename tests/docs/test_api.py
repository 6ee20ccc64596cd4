"""docs/api.md: its decoders, programs and commands, run as printed, and its tables, against the code."""

import base64
import inspect
import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddinggemma import Embedder
from embeddinggemma.request import check_request
from embeddinggemma.texts_file.sending import MAX_INLINE
from embeddinggemma.vectors import OUTPUT_DTYPES
from tests.support.documents import JAVASCRIPT_DECODER, first_column, printed, run, section
from tests.support.inputs import DEFAULTS
from tests.support.servers import RunningServer, running_gateway
from tools import PROJECT
from tools.reference_model import warm_cache

PYTHON_DECODER = printed("docs/api.md", "python", "def decode(")
LIBRARY = printed("docs/api.md", "python", "Embedder.load(settings)")
FILE_OF_TEXTS = printed("docs/api.md", "python", "data:text/plain;base64,")
SEARCH = printed("docs/api.md", "python", "np.argsort(")
GATEWAY = printed("docs/api.md", "bash", "scripts/gateway")
AT_GATEWAY = printed("docs/api.md", "bash", "REPLICATE_BASE_URL")
EXAMPLE = printed("README.md", "python", "replicate.run(")

SINGLE_AND_BATCH: list[dict[str, Any]] = [{"text": "one text"}, {"texts": ["one", "two", "three"]}]
COMBINATIONS = [*product(OUTPUT_DTYPES, [768, 128], SINGLE_AND_BATCH)]


@pytest.fixture(scope="module")
def answers(server: RunningServer) -> list[dict[str, Any]]:
    """Every number type and shape, as base64."""
    return [
        {"dtype": dtype, "output": server.predict(output_dtype=dtype, embedding_dim=dimension, **texts)}
        for dtype, dimension, texts in COMBINATIONS
    ]


@pytest.fixture(scope="module")
def decoded(answers: list[dict[str, Any]]) -> list[Any]:
    """The answers, decoded by the page's Python."""
    namespace: dict[str, Any] = {}
    exec(PYTHON_DECODER, namespace)  # noqa: S102
    return [namespace["decode"](answer["output"], answer["dtype"]) for answer in answers]


def test_the_python_decoder_gives_the_array_formats_numbers(server: RunningServer, decoded: list[Any]) -> None:
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
    """Return the output of a program that is given these answers, in Node.js."""
    given = f"const answers = {json.dumps(answers)}, print = (value) => console.log(JSON.stringify(value));\n"
    (folder / "program.cjs").write_text(given + program)
    return json.loads(run("node", "program.cjs", folder=folder))


def _in_chromium(program: str, answers: list[dict[str, Any]], folder: Path) -> Any:
    """Return the output of a program that is given these answers, in Chromium."""
    given = f"const answers = {json.dumps(answers)}, print = (value) => document.body.append(JSON.stringify(value));\n"
    page = folder / "page.html"
    page.write_text(f"<!doctype html><body><script>{given + program}</script></body>")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    shown = run("chromium", *options, page.as_uri(), folder=folder)
    return json.loads(shown.partition("</script>")[2].partition("</body>")[0])


def _assert_equal(javascripts: list[Any], pythons: list[Any]) -> None:
    for vectors, expected in zip(javascripts, pythons, strict=True):
        assert np.array_equal(np.array(vectors), expected)


def test_the_javascript_decoder_gives_the_python_decoders_numbers_in_node(
    answers: list[dict[str, Any]], decoded: list[Any], tmp_path: Path
) -> None:
    _assert_equal(_in_node(DECODE, answers, tmp_path), decoded)


@pytest.mark.slow
@pytest.mark.usefixtures("chromium")
def test_the_javascript_decoder_gives_the_python_decoders_numbers_in_a_browser(
    answers: list[dict[str, Any]], decoded: list[Any], tmp_path: Path
) -> None:
    _assert_equal(_in_chromium(DECODE, answers, tmp_path), decoded)


NAIVE = """
const types = { float32: Float32Array, float16: Uint16Array, int8: Int8Array, ubinary: Uint8Array };
print(answers.map(({ output, dtype }) => new types[dtype](Buffer.from(output.embedding, "base64").buffer).length));
"""


def test_a_decoder_of_a_buffers_array_buffer_would_be_wrong_in_node(
    answers: list[dict[str, Any]], decoded: list[Any], tmp_path: Path
) -> None:
    """A short Buffer is in an ArrayBuffer that many share; a Buffer of 768 float32 is just long enough for its own."""
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


def test_the_table_of_number_types_gives_their_bytes(decoded: list[Any]) -> None:
    table = section("docs/api.md", "Number types")
    assert first_column(table) == list(OUTPUT_DTYPES)
    for vectors, (dtype, dimension, texts) in zip(decoded, COMBINATIONS, strict=True):
        if dimension == 768 and "text" in texts:
            assert f"| `{dtype}` | {vectors.nbytes:,} |" in table


@pytest.mark.slow
def test_the_library_runs_as_printed(small_model: Path, tmp_path: Path) -> None:
    assert run("python", "-c", LIBRARY, changes=warm_cache(small_model, tmp_path)) == "(2, 32) uint8\n"


def test_the_librarys_table_names_every_argument_and_its_default() -> None:
    parameters = list(inspect.signature(Embedder.embed).parameters.values())[1:]
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? ?\|", section("docs/api.md", "The library"), re.MULTILINE)
    values = [parameter.default for parameter in parameters[1:]]
    defaults = [json.dumps(value) if isinstance(value, str) else str(value) for value in values]
    names = [parameter.name for parameter in parameters]
    assert rows == [(names[0], ""), *zip(names[1:], defaults, strict=True)]


def test_the_search_runs_as_printed(gateway: str) -> None:
    found = run("python", "-c", SEARCH, changes={"REPLICATE_BASE_URL": gateway})
    assert len(found.splitlines()) == 3
    assert "Red Planet" in found


def test_the_gateways_commands_run_as_printed(server: RunningServer, tmp_path: Path) -> None:
    command = GATEWAY.replace("http://127.0.0.1:5000", server.url).replace("--port 8000", "--port 0")
    (tmp_path / "example.py").write_text(EXAMPLE)
    with running_gateway(["bash", "-c", f"cd {PROJECT} && exec {command}"]) as (url, _):
        found = run("bash", "-c", AT_GATEWAY.replace("http://127.0.0.1:8000", url), folder=tmp_path)
    assert found.startswith("(768,) [")


def test_a_file_of_texts_is_sent_as_printed(server: RunningServer) -> None:
    assert run("python", "-c", FILE_OF_TEXTS.replace("http://127.0.0.1:5000", server.url)) == "(2, 768)\n"


def test_the_limit_within_an_answer_is_as_many_rows_as_is_said() -> None:
    said = " ".join(section("docs/api.md", "Files of texts").split())
    assert f"{MAX_INLINE:,} bytes of vectors" in said
    for dtype, bytes_of_a_row in (("float32", 3072), ("int8", 768), ("ubinary", 96)):
        assert re.search(rf"{MAX_INLINE // bytes_of_a_row:,}( rows)? of (768 )?`{dtype}`", said)


def test_the_metrics_table_names_metrics_of_the_server(server: RunningServer) -> None:
    measured = server.post(text="one text").json()["metrics"]
    assert set(first_column(section("docs/api.md", "Metrics"))) <= set(measured)


REFUSED: dict[str, dict[str, Any]] = {
    "no text was given": {},
    "text and texts were given together": {"text": "one", "texts": ["two"]},
    "texts[2] is empty": {"texts": ["one", "two", " "]},
    "texts has 1,025 texts": {"texts": ["one"] * 1025},
    "title goes with task retrieval_document only": {"text": "one", "title": "two", "task": "clustering"},
    "embedding_dim is 300; it must be one of": {"text": "one", "embedding_dim": 300},
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_request_is_refused_in_the_words_of_the_table(message: str) -> None:
    assert message in first_column(section("docs/api.md", "Errors"))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_request(**(DEFAULTS | REFUSED[message]))


def test_a_long_title_is_refused_in_the_words_of_the_table(embedder: Embedder) -> None:
    assert "title has 2,300 tokens, prompt included" in first_column(section("docs/api.md", "Errors"))
    with pytest.raises(ValueError, match=r"^title has 2,300 tokens, prompt included; the limit is 2,047"):
        embedder.embed(["text"], title="word" + " word" * 2291)


def test_a_body_that_is_not_json_is_answered_with_400_and_plain_text(server: RunningServer) -> None:
    refused = server.send(b'{"input": {"texts": ["one", "\\ud800"]}}')
    assert refused.status == 400
    assert refused.text.startswith("Failed to parse the request body as JSON: input.texts[1]")


def test_null_is_refused_and_an_unknown_input_is_ignored(server: RunningServer) -> None:
    assert server.post(text="one", title=None).status == 422
    assert server.predict(text="one", dimension=128)["shape"] == [768]


@pytest.mark.parametrize("token", ["<bos>", "<eos>", "<pad>", "<start_of_turn>"])
def test_the_name_of_a_control_token_is_one_token(embedder: Embedder, token: str) -> None:
    assert f"`{token}`" in section("docs/api.md", "What a text may hold")
    [plain, named] = embedder.tokenizer.tokenize(["a", f"a{token}"])
    assert len(named.ids) == len(plain.ids) + 1
    assert not np.array_equal(*embedder.embed(["a", f"a{token}"]))
