"""Checks that a folder holds the model that this code computes, because other weights can be pinned too.

Only small files are read. What `config.json` says about the network is checked in `checkpoint.py`, where it is read.
Here the modules around the network are checked. A model of the same shapes with another pooling would load, and give
wrong vectors.
"""

import json
from pathlib import Path
from typing import Any

from embeddinggemma.weights.manifest import Manifest, ManifestError

_MODULES = {  # path: type, in the order in which a text goes through them
    "": "sentence_transformers.models.Transformer",
    "1_Pooling": "sentence_transformers.models.Pooling",
    "2_Dense": "sentence_transformers.models.Dense",
    "3_Dense": "sentence_transformers.models.Dense",
    "4_Normalize": "sentence_transformers.models.Normalize",
}
_POOLING = {"pooling_mode_mean_tokens": True, "include_prompt": True}  # every other mode must be off
_READ = (
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "3_Dense/config.json",
    "3_Dense/model.safetensors",
    "config.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
)


def check_pinned(manifest: Manifest) -> None:
    """Raise ManifestError unless every file that decides what a vector is has a digest in the manifest."""
    missing = sorted(set(_READ) - {file.path for file in manifest.files})
    if missing:
        raise ManifestError(f"the manifest of {manifest.model} does not pin {', '.join(missing)}")


def check_architecture(folder: Path) -> None:
    """Raise ValueError, naming the file, unless the modules are EmbeddingGemma's and set as this code computes them."""
    modules = {module["path"]: module["type"] for module in _read(folder / "modules.json")}
    if list(modules.items()) != list(_MODULES.items()):
        raise ValueError(f"{folder / 'modules.json'} lists {modules}; only {_MODULES} is implemented")
    pooling = _read(folder / "1_Pooling" / "config.json")
    for name, value in pooling.items():
        if (name.startswith("pooling_mode") or name in _POOLING) and value is not _POOLING.get(name, False):
            raise ValueError(f"{folder / '1_Pooling' / 'config.json'}: {name} is {value!r}, which is not implemented")
    text = _read(folder / "sentence_bert_config.json")
    if text.get("do_lower_case") or text.get("max_seq_length") != 2048:
        raise ValueError(f"{folder / 'sentence_bert_config.json'} asks for lower case, or not for 2,048 tokens")


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
