"""The library: settings to a loaded model, and texts to the vectors that the container gives."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embeddinggemma import Embedder
from embeddinggemma.engine.model import EmbeddingGemma
from embeddinggemma.prompts import TASKS
from embeddinggemma.settings import Settings
from embeddinggemma.vectors import DIMENSIONS, OUTPUT_DTYPES
from embeddinggemma.weights.manifest import ManifestError
from tests.support.servers import RunningServer
from tools import PROJECT, SCRIPTS
from tools.reference_model import MANIFEST, warm_cache

TEXTS = ["Mars is red.", "Venus is hot. " * 20, "木星は大きい。"]


@pytest.mark.parametrize("task", TASKS)
def test_the_library_gives_the_containers_vectors(embedder: Embedder, server: RunningServer, task: str) -> None:
    ours = embedder.embed(TEXTS, task=task)
    assert ours.shape == (3, 768)
    assert ours.dtype == np.float32
    assert np.abs(ours - server.embed(TEXTS, task)).max() < 1e-5


def test_a_title_and_a_dimension_give_the_containers_vectors_too(embedder: Embedder, server: RunningServer) -> None:
    ours = embedder.embed(TEXTS, title="Planets", dimension=128, normalize=False)
    theirs = server.vectors(texts=TEXTS, title="Planets", embedding_dim=128, normalize=False)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("dtype", OUTPUT_DTYPES)
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_every_shape_and_number_type(embedder: Embedder, dtype: str, dimension: int) -> None:
    vectors = embedder.embed(TEXTS, dimension=dimension, dtype=dtype)
    packed = dtype == "ubinary"
    assert vectors.shape == (3, dimension // 8 if packed else dimension)
    assert vectors.dtype == np.dtype("uint8" if packed else dtype)


def test_any_number_of_texts_come_back_in_order(embedder: Embedder) -> None:
    texts = [f"text {number} " + "word " * (number * 37 % 60) for number in range(1_100)]
    vectors = embedder.embed(texts, dimension=128)
    assert vectors.shape == (1_100, 128)
    for position in (0, 17, 1_099):
        assert np.abs(vectors[position] - embedder.embed([texts[position]], dimension=128)[0]).max() < 1e-5
    assert embedder.embed([]).shape == (0, 768)


def test_a_text_that_is_too_long_is_an_error_if_asked(embedder: Embedder) -> None:
    long = "word " * 3000
    assert embedder.embed(["short", long]).shape == (2, 768)
    with pytest.raises(ValueError, match=r"texts\[1\] has 3,00\d tokens, prompt included; the limit is 2,048"):
        embedder.embed(["short", long], truncate=False)
    with pytest.raises(ValueError, match=r"texts\[0\] has over 2,048 tokens"):
        embedder.embed(["word " * 100_000], truncate=False)
    assert np.array_equal(embedder.embed(["short"], truncate=False), embedder.embed(["short"]))


def test_a_title_that_leaves_nothing_of_the_texts_is_refused(embedder: Embedder) -> None:
    with pytest.raises(ValueError, match=r"title has 3,00\d tokens, prompt included; the limit is 2,047"):
        embedder.embed(TEXTS, title="word " * 3000)
    ours = embedder.embed(TEXTS, title="word " * 2030)
    assert len(np.unique(ours, axis=0)) == len(TEXTS)


@pytest.mark.parametrize("text", ["", " ", "\u3000\n"])
def test_a_text_without_a_character_is_refused_with_any_title(embedder: Embedder, text: str) -> None:
    for title in ("Planets", "word " * 3000, " ", ""):
        with pytest.raises(ValueError, match=r"texts\[1\] is empty"):
            embedder.embed(["Mars is red.", text], title=title)


def test_an_id_outside_the_vocabulary_is_not_blamed_on_another_text(embedder: Embedder) -> None:
    """Texts are sorted and divided into batches, so a place in a batch would be another text's."""
    with pytest.raises(ValueError, match=r"^token id 262144 is outside the vocabulary, 0 to 262143$"):
        embedder.encode([[2, 262_144, 5, 1], *[[2, 1]] * 3000])


def test_texts_may_come_from_a_generator(embedder: Embedder) -> None:
    assert np.array_equal(embedder.embed(text for text in TEXTS), embedder.embed(TEXTS))


def test_after_an_error_no_further_batch_is_computed(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = EmbeddingGemma.encode

    def fail_first(model: EmbeddingGemma, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        encoded.append(len(token_ids))
        if len(encoded) == 1:
            raise RuntimeError("out of order")
        return encode(model, token_ids)

    monkeypatch.setattr(EmbeddingGemma, "encode", fail_first)
    token_ids = [[2, 5, 1]] * 20_000  # 60,000 tokens: thirty batches
    with pytest.raises(RuntimeError, match="out of order"):
        embedder.encode(token_ids)
    embedder.encoder.thread.submit(lambda: None).result()
    assert len(encoded) < 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "one text"}, "texts is a str; it must be a list of strings"),
        ({"texts": None}, "texts is a NoneType; it must be a list of strings"),
        ({"texts": ["a", ""]}, r"texts\[1\] is empty"),
        ({"texts": ["a", 3]}, r"texts\[1\] is an int; it must be a string"),
        ({"texts": ["a\ud800"]}, r"texts\[0\] has a lone surrogate at character 1"),
        ({"texts": [], "task": "search"}, "task is 'search'; it must be one of"),
        ({"texts": ["a"], "title": "\ud800"}, "title has a lone surrogate at character 0"),
        ({"texts": ["a"], "title": 3}, "title is an int; it must be a string"),
        ({"texts": ["a"], "title": "T", "task": "clustering"}, "title goes with task retrieval_document only"),
        ({"texts": ["a"], "dimension": 300}, "dimension is 300; it must be one of 768, 512, 256, 128"),
        ({"texts": ["a"], "dtype": "int4"}, "dtype is 'int4'; it must be one of float32"),
    ],
)
def test_wrong_texts_and_options_are_refused_by_name(
    embedder: Embedder, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        embedder.embed(**arguments)


def test_the_runtime_is_reported(embedder: Embedder) -> None:
    runtime = embedder.runtime()
    assert runtime["model"] == "reference/embeddinggemma-small"
    assert runtime["tokens_per_batch"] == 2048
    json.dumps(runtime)


def test_the_tokens_per_batch_of_the_settings_are_used(variables: dict[str, str]) -> None:
    embedder = Embedder.load(Settings.from_environment(variables | {"EMBEDDINGGEMMA_TOKENS_PER_BATCH": "64"}))
    assert embedder.tokens_per_batch == 64
    assert embedder.embed(TEXTS * 20).shape == (60, 768)


def _run(program: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, cwd=PROJECT, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


def test_importing_the_package_and_its_library_imports_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'requests'} & set(sys.modules)"
    assert _run(f"import embeddinggemma, sys; assert not {heavy}", {}).returncode == 0
    assert (
        _run("from embeddinggemma import Embedder; import sys; assert 'torch' not in sys.modules", {}).returncode == 0
    )


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library has no malloc_trim")
def test_what_loading_has_freed_is_returned_to_the_system(variables: dict[str, str]) -> None:
    program = (
        "import ctypes, psutil\nfrom embeddinggemma import Embedder\nembedder = Embedder.load()\n"
        "resident = lambda: psutil.Process().memory_info().rss\n"
        "loaded = resident()\nctypes.CDLL(None).malloc_trim(0)\nprint(loaded - resident())"
    )
    ran = _run(program, variables)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout.splitlines()[-1]) < 32e6, "memory that nobody uses is kept"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("EMBEDDINGGEMMA_DTYPE", "fp16", "EMBEDDINGGEMMA_DTYPE is 'fp16'; it must be one of auto, float32, bfloat16"),
        ("EMBEDDINGGEMMA_ENGINE", "onnx", "EMBEDDINGGEMMA_ENGINE is 'onnx'; it must be one of native"),
        ("EMBEDDINGGEMMA_WEIGHTS_URL", "http://cdn.example", "EMBEDDINGGEMMA_WEIGHTS_URL: http://cdn.example"),
    ],
)
def test_a_wrong_setting_is_refused_before_torch_is_imported_or_a_byte_is_fetched(
    tmp_path: Path, variable: str, value: str, message: str
) -> None:
    program = (
        "import sys\nfrom embeddinggemma import Embedder\n"
        "try: Embedder.load()\nexcept ValueError as error: print(error)\nassert 'torch' not in sys.modules\n"
    )
    ran = _run(program, {variable: value, "EMBEDDINGGEMMA_CACHE": str(tmp_path / "cache")})
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(message)
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def unpinned(small_model: Path, tmp_path: Path) -> dict[str, str]:
    """Return the variables of a model whose pooling was altered, with a manifest that does not pin that file."""
    model = tmp_path / "model"
    shutil.copytree(small_model, model, copy_function=os.symlink)
    pooling = json.loads((model / "1_Pooling" / "config.json").read_text())
    (model / "1_Pooling" / "config.json").unlink()
    (model / "1_Pooling" / "config.json").write_text(json.dumps(pooling | {"include_prompt": False}))
    manifest = json.loads((model / MANIFEST).read_text())
    files = [file for file in manifest["files"] if file["path"] != "1_Pooling/config.json"]
    (model / MANIFEST).unlink()
    (model / MANIFEST).write_text(json.dumps(manifest | {"files": files}))
    return warm_cache(model, tmp_path / "cache")


def test_a_manifest_that_pins_too_few_files_is_refused_by_the_library(unpinned: dict[str, str]) -> None:
    with pytest.raises(ManifestError, match=r"does not pin 1_Pooling/config\.json"):
        Embedder.load(Settings.from_environment(unpinned))


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, id=command[0], marks=[] if command[0] == "search" else pytest.mark.slow)
        for command in (
            ["search", "searched", "a question"],
            ["verify"],
            ["publish_weights", "out", "--url", "https://cdn.example/models"],
            ["embed_corpus", "rows.jsonl", "out"],
            ["serve"],
        )
    ],
)
def test_a_manifest_that_pins_too_few_files_is_refused_by_every_script(
    unpinned: dict[str, str], tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "searched").mkdir()
    (tmp_path / "searched" / "_corpus.json").write_text('{"model": "any", "dimension": 768, "dtype": "float32"}')
    ran = subprocess.run(
        [sys.executable, SCRIPTS / command[0], *command[1:]],
        cwd=tmp_path,
        env={**os.environ, **unpinned},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "does not pin 1_Pooling/config.json" in ran.stderr
    assert "Traceback" not in ran.stderr
