"""A folder that is not EmbeddingGemma, or is not pinned, is refused by name before anything is computed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embeddinggemma.engine.architecture import check_architecture, check_pinned
from embeddinggemma.engine.encoder import load_encoder
from embeddinggemma.weights.manifest import ManifestError, read_manifest
from tools import PROJECT
from tools.reference_model import CONFIGS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with copies of the files that are checked."""
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((CONFIGS / name).read_bytes())
    return tmp_path


def test_the_genuine_files_are_accepted() -> None:
    check_architecture(CONFIGS)
    check_pinned(read_manifest(PROJECT / "weights_manifest.json"))


@pytest.mark.parametrize("dropped", [*range(5)])
def test_a_module_that_is_missing_is_refused(folder: Path, dropped: int) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    del modules[dropped]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"modules\.json lists"):
        check_architecture(folder)


def test_modules_in_another_order_or_of_another_package_are_refused(folder: Path) -> None:
    modules: list[dict[str, Any]] = json.loads((CONFIGS / "modules.json").read_text())
    strange = [*modules[:1], modules[1] | {"type": "somebody.models.Pooling"}, *modules[2:]]
    for changed in ([*modules[:2], modules[3], modules[2], modules[4]], strange):
        (folder / "modules.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=r"modules\.json lists"):
            check_architecture(folder)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("1_Pooling/config.json", "pooling_mode_mean_tokens", False),
        ("1_Pooling/config.json", "pooling_mode_cls_token", True),
        ("1_Pooling/config.json", "pooling_mode_lasttoken", True),
        ("1_Pooling/config.json", "include_prompt", False),
        ("sentence_bert_config.json", "do_lower_case", True),
        ("sentence_bert_config.json", "max_seq_length", 512),
    ],
)
def test_another_setting_is_refused(folder: Path, file: str, key: str, value: object) -> None:
    settings = json.loads((folder / file).read_text()) | {key: value}
    (folder / file).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=str(folder / file)):
        check_architecture(folder)


@pytest.mark.parametrize("engine", ["native", "sentence-transformers"])
def test_no_engine_loads_a_refused_folder(folder: Path, engine: str) -> None:
    (folder / "modules.json").write_text("[]")
    with pytest.raises(ValueError, match=r"modules\.json lists"):
        load_encoder(folder, engine)


def test_a_manifest_that_pins_too_few_files_is_refused() -> None:
    manifest = read_manifest(PROJECT / "weights_manifest.json")
    files = tuple(file for file in manifest.files if file.path not in ("tokenizer.json", "2_Dense/config.json"))
    with pytest.raises(ManifestError, match=r"does not pin 2_Dense/config\.json, tokenizer\.json"):
        check_pinned(replace(manifest, files=files))
