"""What would give wrong vectors does not start: the real server, with weights whose every byte is as it is pinned."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from embeddinggemma.manifest import PinnedFile
from local_server import running_container, wait_until_ready, warm_cache
from tests.promises.evidence import Evidence

MANIFEST = "weights_manifest.json"


@dataclass(frozen=True)
class Wrong:
    """A file of the model with other JSON in it than it should have, or other environment variables."""

    reason: str
    file: str = "config.json"
    change: Callable[[Any], Any] = lambda content: content
    variables: Mapping[str, str] = field(default_factory=dict)


def _causal(config: Any) -> Any:
    return config | {"use_bidirectional_attention": False}


WRONG = {
    "causal attention": Wrong("use_bidirectional_attention is False; only True is implemented", change=_causal),
    "causal attention, in the engine sentence-transformers": Wrong(
        "attention is causal: the first token does not see the last; vectors would be wrong",
        change=_causal,
        variables={"EMBEDDINGGEMMA_ENGINE": "sentence-transformers"},
    ),
    "float16": Wrong("EMBEDDINGGEMMA_DTYPE is 'float16'", variables={"EMBEDDINGGEMMA_DTYPE": "float16"}),
    "a tokenizer that splits in another way": Wrong(
        "tokenizer.json is not EmbeddingGemma's", "tokenizer.json", lambda tokenizer: tokenizer | {"normalizer": None}
    ),
    "the first token's vector in place of the mean": Wrong(
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
        lambda manifest: manifest | {"files": [one for one in manifest["files"] if one["path"] != "tokenizer.json"]},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_would_give_wrong_vectors_does_not_start(
    small_model: Path, tmp_path: Path, name: str, evidence: Evidence
) -> None:
    wrong = WRONG[name]
    model = tmp_path / "model"
    shutil.copytree(small_model, model, copy_function=os.symlink)
    _replace(model / wrong.file, wrong.change(_read(model / wrong.file)))
    if wrong.file != MANIFEST:
        _pin(model, wrong.file)

    # The cache's folder bears the name of its pins, which a manifest that is refused cannot give.
    changes = (
        {"EMBEDDINGGEMMA_MANIFEST": str(model / MANIFEST), "EMBEDDINGGEMMA_CACHE": str(tmp_path)}
        if wrong.file == MANIFEST
        else warm_cache(model, tmp_path / "cache")
    )
    log = tmp_path / "log"
    with (
        running_container({**changes, **wrong.variables}, log, slots=16) as (process, url),
        pytest.raises(RuntimeError, match="cannot start: SETUP_FAILED"),
    ):
        wait_until_ready(process, url)
    assert wrong.reason in log.read_text()
    evidence.record("Startup refuses what would give wrong vectors", name, f"SETUP_FAILED: … {wrong.reason} …")


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
        manifest | {"files": [pin if one["path"] == file else one for one in manifest["files"]]},
    )
