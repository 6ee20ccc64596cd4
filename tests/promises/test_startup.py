"""A model or a setting that would give wrong vectors is refused, even if every byte of the weights is as pinned."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from embeddinggemma import Embedder
from embeddinggemma.settings import Settings
from embeddinggemma.weights.manifest import PinnedFile
from tests.support.servers import running_server
from tools.evidence import Evidence
from tools.reference_model import MANIFEST, warm_cache
from tools.server import wait_until_ready

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Wrong:
    """A model with a wrong file, or with wrong environment variables."""

    reason: str
    """Part of the error that refuses it."""
    file: str = "config.json"
    """The wrong file."""
    change: Callable[[Any], Any] = lambda content: content
    """From the right JSON of the file to the wrong one."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The wrong environment variables."""


def _causal(config: Any) -> Any:
    return config | {"use_bidirectional_attention": False}


WRONG = {
    "causal attention": Wrong("use_bidirectional_attention is False; only True is implemented", change=_causal),
    "causal attention, in the engine sentence-transformers": Wrong(
        "attention is causal: the first token does not see the last; vectors would be wrong",
        change=_causal,
        variables={"EMBEDDINGGEMMA_ENGINE": "sentence-transformers"},
    ),
    "float16 on a CPU": Wrong("dtype is float16, which is for GPUs", variables={"EMBEDDINGGEMMA_DTYPE": "float16"}),
    "a tokenizer that splits differently": Wrong(
        "tokenizer.json is not EmbeddingGemma's", "tokenizer.json", lambda tokenizer: tokenizer | {"normalizer": None}
    ),
    "the first token's vector instead of the mean": Wrong(
        "pooling_mode_cls_token is True, which is not implemented",
        "1_Pooling/config.json",
        lambda pooling: pooling | {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    ),
    "no second dense layer": Wrong("modules.json lists", "modules.json", lambda modules: [*modules[:3], modules[4]]),
    "a manifest without the digest of a file": Wrong(
        "weights_manifest.json lacks or garbles 'sha256'",
        MANIFEST,
        lambda manifest: manifest | {"files": [*manifest["files"][1:], {"path": "config.json", "size": 9}]},
    ),
    "a manifest without the tokenizer": Wrong(
        "does not pin tokenizer.json",
        MANIFEST,
        lambda manifest: manifest | {"files": [file for file in manifest["files"] if file["path"] != "tokenizer.json"]},
    ),
}


PROVED_ON_THE_SERVER = ("causal attention", "a manifest without the tokenizer")
PROMISE = "Set-up refuses models and settings that would give wrong vectors"


@pytest.fixture
def variables(small_model: Path, tmp_path: Path, wrong: Wrong) -> dict[str, str]:
    """Return the environment of a container with something wrong in it."""
    model = tmp_path / "model"
    shutil.copytree(small_model, model, copy_function=os.symlink)
    _replace(model / wrong.file, wrong.change(_read(model / wrong.file)))
    if wrong.file == MANIFEST:  # the cache's folder is named by the pins, which a refused manifest cannot give
        found = {"EMBEDDINGGEMMA_MANIFEST": str(model / MANIFEST), "EMBEDDINGGEMMA_CACHE": str(tmp_path)}
    else:
        _pin(model, wrong.file)
        found = warm_cache(model, tmp_path / "cache")
    return {**found, **wrong.variables}


@pytest.mark.parametrize("wrong", [pytest.param(WRONG[name], id=name) for name in PROVED_ON_THE_SERVER])
def test_a_wrong_model_or_setting_does_not_start_the_server(
    wrong: Wrong, variables: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    log = tmp_path / "log"
    with (
        running_server(variables, log, slots=16) as (process, url),
        pytest.raises(RuntimeError, match="cannot start: SETUP_FAILED"),
    ):
        wait_until_ready(process, url)
    assert wrong.reason in log.read_text()
    evidence.record(PROMISE, f"{request.node.callspec.id}, on the real server", f"SETUP_FAILED: … {wrong.reason} …")


@pytest.mark.parametrize("wrong", [pytest.param(WRONG[name], id=name) for name in WRONG])
def test_a_wrong_model_or_setting_is_not_loaded(
    wrong: Wrong, variables: dict[str, str], request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    with pytest.raises((ValueError, RuntimeError), match=re.escape(wrong.reason)):
        Embedder.load(Settings.from_environment(variables))
    evidence.record(PROMISE, request.node.callspec.id, f"… {wrong.reason} …")


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _replace(link: Path, content: Any) -> None:
    link.unlink()
    link.write_text(json.dumps(content))


def _pin(model: Path, file: str) -> None:
    """Make the manifest's pin that of the file as it is now."""
    manifest = _read(model / MANIFEST)
    pin = vars(PinnedFile.of(model, file))
    _replace(
        model / MANIFEST,
        manifest | {"files": [pin if pinned["path"] == file else pinned for pinned in manifest["files"]]},
    )
