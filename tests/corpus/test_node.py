"""What a machine of a cluster says that it lacks."""

import subprocess
import sys
from pathlib import Path

import pytest

from embeddinggemma.corpus.node import what_is_missing
from embeddinggemma.corpus.stores import ObjectPath
from embeddinggemma.weights.manifest import Manifest, read_manifest
from embeddinggemma.weights.store import Store
from tools import PROJECT
from tools.reference_model import MANIFEST, warm_cache
from tools.server import free_port

_WITHOUT_PACKAGES = """
from embeddinggemma.corpus.node import what_is_missing
from embeddinggemma.weights.manifest import Manifest
print(what_is_missing({}, None, None, None))
"""


def _weights(model: Path, cache: Path) -> tuple[Manifest, Store]:
    warm_cache(model, cache)
    return read_manifest(model / MANIFEST), Store(cache)


def test_a_machine_with_input_and_weights_lacks_nothing(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("abc")
    assert what_is_missing({str(tmp_path / "rows"): 3}, None, *_weights(small_model, tmp_path / "cache")) is None


def test_the_first_file_that_is_not_there_is_named(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abc")
    weights = _weights(small_model, tmp_path / "cache")
    assert what_is_missing({f"{tmp_path}/a": 3, f"{tmp_path}/b": 3}, None, *weights) == (
        f"{tmp_path}/b cannot be read there: No such file or directory"
    )
    assert what_is_missing({f"{tmp_path}/a": 4}, None, *weights) == f"{tmp_path}/a has 3 bytes there, and 4 here"


def test_a_store_that_does_not_answer_there_is_named(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    rows = ObjectPath("s3", ("bucket", "rows.jsonl"))
    assert what_is_missing({}, rows, *_weights(small_model, tmp_path / "cache")) == (
        "s3://bucket/rows.jsonl cannot be read there: the store does not answer; check AWS_ENDPOINT_URL and the network"
    )


def test_weights_that_cannot_be_had_are_one_line(small_model: Path, tmp_path: Path) -> None:
    lacking = what_is_missing({}, None, read_manifest(small_model / MANIFEST), Store(tmp_path / "cache"))
    assert lacking is not None
    assert "\n" not in lacking
    assert "are not complete: 1_Pooling/config.json is missing" in lacking


def test_a_python_without_any_package_names_them() -> None:
    command = [sys.executable, "-S", "-c", _WITHOUT_PACKAGES]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ran.stdout == "Python there lacks numpy, pyarrow, requests, safetensors, tokenizers, torch\n"
