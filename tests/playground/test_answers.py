"""The playground's answers in a real browser: vectors, pictures and code, against numpy and the real clients."""

import ast
import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.documents import JAVASCRIPT_DECODER, README
from tests.support.page import PASTE_TEXTS, RUN
from tests.support.servers import RunningServer, running_gateway
from tools import PROJECT
from tools.browser import Browser

pytestmark = pytest.mark.slow

TEXTS = [
    "Mars is often called the Red Planet.",
    "Venus is about as large as the Earth.",
    "The bakery opens at six.",
    "Fresh bread is sold out by eight o'clock.",
    "Mars, the planet, is red.",
]
[COMMAND] = re.findall(r"^```bash\n(scripts/playground.*)\n```$", README, re.MULTILINE)
CODES = {"float32": "<f4", "float16": "<f2", "int8": "i1", "ubinary": "u1"}
COPY_JSON = """
const copied = async (name) => {
  await page.getByRole("button", { name, exact: true }).click();
  await page.getByRole("button", { name: "Copied" }).last().waitFor();
  return page.evaluate(() => navigator.clipboard.readText());
};
const output = JSON.parse(await copied("Copy JSON"));
"""
CELLS = """
const cells = await page.locator("figure [aria-label=cell] rect").evaluateAll((rects) =>
  rects.map((rect) => rect.querySelector("title").textContent));
"""
Numbers = npt.NDArray[np.float64]


def _vectors(output: dict[str, Any], dtype: str) -> Numbers:
    """Return an answer's vectors as numpy reads them; bits as 1 and -1."""
    if output["output_format"] == "array":
        array = np.array(output["embedding"])
    else:
        array = np.frombuffer(base64.b64decode(output["embedding"]), CODES[dtype]).reshape(output["shape"])
    if dtype == "ubinary":
        return 2 * np.unpackbits(array.astype(np.uint8), axis=-1).astype(np.float64) - 1
    return array.astype(np.float64)


def test_one_text_gives_its_vector_as_json_and_as_a_strip(
    browser: Browser, playground: str, server: RunningServer
) -> None:
    script = f"""
    await page.locator("#input-text").fill(given);
    {RUN}{COPY_JSON}{CELLS}
    const shown = await page.locator("#answer pre").first().innerText();
    return [output, cells, shown, await page.locator("dt").allInnerTexts()];
    """
    output, cells, shown, metrics = browser.visit(playground, script, given=TEXTS[0]).value
    vector = _vectors(output, "float32")
    expected = _vectors(server.predict(text=TEXTS[0]), "float32")
    assert vector.shape == (768,)
    assert np.abs(vector - expected).max() < 1e-5
    strip = [float(cell.split("] ")[1]) for cell in cells]
    assert np.array_equal(strip, vector)
    assert "4,048 more characters" in shown
    assert {"predict_time", "encode_ms", "tokens"} <= set(metrics)


@pytest.mark.parametrize(
    ("dtype", "output_format"), [*((dtype, "base64") for dtype in CODES), ("float32", "array"), ("ubinary", "array")]
)
def test_the_heat_maps_values_are_numpys(browser: Browser, playground: str, dtype: str, output_format: str) -> None:
    script = f"""
    {PASTE_TEXTS}
    await page.locator("#input-output_dtype").selectOption(given.dtype);
    await page.locator("#input-output_format").selectOption(given.output_format);
    {RUN}{COPY_JSON}{CELLS}
    const written = await page.locator("figure").first().locator("[aria-label=text] text").allTextContents();
    return [output, cells, written, await page.locator("figure").first().locator("svg").textContent()];
    """
    given = {"texts": TEXTS, "dtype": dtype, "output_format": output_format}
    output, cells, written, picture = browser.visit(playground, script, given=given).value
    vectors = _vectors(output, dtype)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (units @ units.T).ravel()
    drawn = np.array([float(cell.split("\n")[0]) for cell in cells])
    assert np.abs(drawn - cosines).max() <= 1e-6
    assert np.abs(np.array(written, float) - cosines).max() <= 0.005001
    assert len({f"{value:.3f}" for value in drawn}) > len(TEXTS)
    assert all(text[:12] in picture for text in TEXTS)


def test_bits_are_compared_by_their_hamming_distance(browser: Browser, playground: str) -> None:
    script = f"""
    {PASTE_TEXTS}
    await page.locator("#input-output_dtype").selectOption("ubinary");
    {RUN}{COPY_JSON}{CELLS}
    return [output, cells, await page.locator("figcaption").first().innerText()];
    """
    output, cells, caption = browser.visit(playground, script, given={"texts": TEXTS}).value
    first, second = np.frombuffer(base64.b64decode(output["embedding"]), np.uint8).reshape(5, 96)[:2]
    differing = int(np.bitwise_count(first ^ second).sum())
    assert float(cells[1].split("\n")[0]) == pytest.approx(1 - 2 * differing / 768, abs=1e-6)
    assert "Hamming distance" in caption


def test_the_maps_places_are_numpys_principal_components(browser: Browser, playground: str) -> None:
    script = f"""
    {PASTE_TEXTS}{RUN}{COPY_JSON}
    const places = await page.locator("[aria-label=dot] circle").evaluateAll((dots) =>
      dots.map((dot) => [Number(dot.getAttribute("cx")), Number(dot.getAttribute("cy"))]));
    return [output, places, await page.locator("figcaption").nth(1).innerText()];
    """
    output, places, caption = browser.visit(playground, script, given={"texts": TEXTS}).value
    vectors = _vectors(output, "float32")
    left, sizes, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    expected = (left * sizes)[:, :2]
    drawn = np.array(places) - np.mean(places, axis=0)
    scale = np.linalg.norm(drawn) / np.linalg.norm(expected)
    # The sign of a component is arbitrary; the map has one scale for both components.
    assert np.abs(np.abs(drawn) - np.abs(expected - expected.mean(axis=0)) * scale).max() < 0.01
    share = (sizes[:2] ** 2).sum() / (sizes**2).sum()
    assert f"{100 * share:.0f} % of the vectors' variance" in caption


def test_of_many_texts_the_first_hundred_are_drawn_and_the_page_says_so(browser: Browser, playground: str) -> None:
    script = f"{PASTE_TEXTS}{RUN}{CELLS} return [cells.length, await page.locator('.pictures').innerText()];"
    count, shown = browser.visit(playground, script, given={"texts": [f"text {i}" for i in range(120)]}).value
    assert count == 100 * 100
    assert "The pictures show the first 100 of 120 texts." in shown


def test_of_long_texts_the_beginnings_are_drawn_and_shown_in_code_and_the_whole_code_is_copied(
    browser: Browser, playground: str
) -> None:
    script = f"""
    {PASTE_TEXTS}{RUN}{COPY_JSON}{CELLS}
    await page.getByLabel("curl").check();
    return [cells, await page.locator("#code pre").innerText(), await copied("Copy curl")];
    """
    texts = ["a" * 9_000, "b" * 12_000]
    cells, shown, code = browser.visit(playground, script, given={"texts": texts}).value
    assert max(map(len, cells)) < 450
    assert len(shown) < 20_100
    assert f"{len(code) - 20_000:,} more characters" in shown
    assert all(text in code for text in texts)


TRICKY = 'It\'s "quoted" \\ $HOME `x` %s {y} – 木星 🪐\n\tsecond line'


def _run_python(code: str, _folder: Path) -> dict[str, Any]:
    printed: dict[str, Any] = ast.literal_eval(_printed([sys.executable, "-c", code]))
    return printed


def _run_javascript(code: str, folder: Path) -> dict[str, Any]:
    program = folder / "copied.mjs"
    program.write_text(f"{code}process.stdout.write('\\0' + JSON.stringify(output));\n")
    printed: dict[str, Any] = json.loads(_printed(["node", str(program)]).split("\0")[1])
    return printed


def _run_curl(code: str, _folder: Path) -> dict[str, Any]:
    output: dict[str, Any] = json.loads(_printed(["bash", "-c", code]))["output"]
    return output


def _printed(command: list[str], folder: Path | None = None) -> str:
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize(
    ("language", "run"), [("Python", _run_python), ("JavaScript", _run_javascript), ("curl", _run_curl)]
)
def test_the_code_that_is_copied_gives_the_pages_vectors(
    browser: Browser, playground: str, node_modules: Path, language: str, run: Any
) -> None:
    script = f"""
    await page.getByLabel("texts[0]", {{ exact: true }}).fill(given.texts[0]);
    await page.keyboard.press("Enter");
    await page.keyboard.type(given.texts[1]);
    await page.locator("#input-embedding_dim").selectOption("128");
    await page.getByLabel("normalize").uncheck();
    {RUN}{COPY_JSON}
    await page.getByLabel(given.language, {{ exact: true }}).check();
    return [output, await copied(`Copy ${{given.language}}`)];
    """
    given = {"language": language, "texts": [TRICKY, "second"]}
    output, code = browser.visit(playground, script, given=given).value
    assert "output_format" not in code  # inputs with their defaults are left out
    ran = run(code, node_modules)
    assert ran["shape"] == output["shape"] == [2, 128]
    ours, theirs = (_vectors(answer, "float32") for answer in (output, ran))
    assert np.abs(np.linalg.norm(ours, axis=1) - 1).min() > 1e-3  # they were not normalised
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(ours).max()


CHOOSE_FILE = """
await page.locator("#input-texts_file").setInputFiles(
  { name: given.name, mimeType: "text/plain", buffer: Buffer.from(given.content) });
"""
DOWNLOAD = """
const begun = page.waitForEvent("download");
await page.getByRole("link", { name: /^Download/ }).click();
const download = await begun;
const chunks = [];
for await (const chunk of await download.createReadStream()) chunks.push(chunk);
const downloaded = { name: download.suggestedFilename(), content: Buffer.concat(chunks).toString("base64") };
"""


@pytest.mark.parametrize(("count", "kept"), [(3, "data:"), (400, "http:")])
def test_a_file_of_texts_becomes_a_file_of_vectors_to_download(
    browser: Browser, playground: str, server: RunningServer, count: int, kept: str
) -> None:
    texts = [f"{number} is a planet" for number in range(count)]
    script = f"""
    {CHOOSE_FILE}{RUN}{COPY_JSON}{DOWNLOAD}
    return [output, downloaded, await page.locator("#status").innerText()];
    """
    given = {"name": "texts.txt", "content": "\n".join(texts)}
    output, downloaded, status = browser.visit(playground, script, given=given).value
    assert output["file"].startswith(kept)
    assert status.startswith(f"A file of {count} vectors of 768 numbers in ")
    assert downloaded["name"] == "vectors.npy"
    vectors = np.load(io.BytesIO(base64.b64decode(downloaded["content"])))
    assert np.abs(vectors - server.embed(texts, "retrieval_document")).max() < 1e-5


@pytest.mark.parametrize("language", ["Python", "JavaScript", "curl"])
def test_the_code_of_a_request_with_a_file_sends_it(
    browser: Browser, playground: str, node_modules: Path, tmp_path: Path, language: str
) -> None:
    script = f"""
    {CHOOSE_FILE}{COPY_JSON.partition("const output")[0]}
    await page.locator("#input-title").fill(given.title);
    await page.getByLabel(given.language, {{ exact: true }}).check();
    const code = await copied(`Copy ${{given.language}}`);
    await page.getByRole("button", {{ name: "Remove", exact: true }}).click();
    return [code, await page.locator("#code pre").innerText()];
    """
    file = tmp_path / "it's texts.txt"
    file.write_text("one\ntwo\n")
    given = {"name": file.name, "content": "one", "title": TRICKY, "language": language}
    code, without = browser.visit(playground, script, given=given).value
    assert "texts_file" in code
    assert "texts_file" not in without
    folder = node_modules if language == "JavaScript" else tmp_path
    code = code.replace(json.dumps(file.name), json.dumps(str(file)))  # Node.js looks for packages beside the program
    if language == "Python":
        printed = _printed([sys.executable, "-c", code.replace("print(output)", "print(output['shape'])")], folder)
    elif language == "JavaScript":
        (folder / "copied.mjs").write_text(code.replace("console.log(output)", "console.log(output.shape)"))
        printed = _printed(["node", "copied.mjs"], folder)
    else:
        printed = str(json.loads(_printed(["bash", "-c", code], folder))["output"]["shape"])
    assert printed.split() in (["[2,", "768]"], ["[", "2,", "768", "]"])


def test_the_page_decodes_with_the_documented_decoder() -> None:
    code = JAVASCRIPT_DECODER[JAVASCRIPT_DECODER.index("function decode(") :]
    assert code in (PROJECT / "playground" / "decode.js").read_text()


def test_the_pages_lock_file_names_no_registry() -> None:
    lock = json.loads((PROJECT / "playground" / "package-lock.json").read_text())
    assert not any("resolved" in package for package in lock["packages"].values())
    wanted = lock["packages"][""]["dependencies"]
    assert wanted and all(version[0].isdigit() for version in wanted.values())


def test_the_readmes_picture_is_of_the_wide_page_and_small() -> None:
    picture = (PROJECT / "docs" / "playground.png").read_bytes()
    assert int.from_bytes(picture[16:20]) == 1280
    assert len(picture) < 300_000


@pytest.mark.usefixtures("small_model")
def test_the_readmes_command_starts_a_server_and_interrupting_it_ends_both() -> None:
    with running_gateway(["bash", "-c", f"cd {PROJECT} && exec {COMMAND} --port 0"]) as (_, process):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=600) == 0
    started = [int(pid) for pid in children.split()]
    assert started
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
