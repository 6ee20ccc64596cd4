"""A model of a few megabytes to download: its bytes mean nothing, and are the same in every run."""

import hashlib
import json
import random
import sys
from pathlib import Path

from embeddinggemma.weights.manifest import Manifest, PinnedFile, Source

BIG = "model.safetensors"
FILES = {
    "config.json": b'{"hidden_size": 1}\n',
    "2_Dense/model.safetensors": random.Random(1).randbytes(50_000),  # noqa: S311
    BIG: random.Random(2).randbytes(3_000_000),  # noqa: S311
}


def manifest(*sources: str | Source) -> Manifest:
    """Pin the files; a source that is given as text is not gated."""
    pins = tuple(PinnedFile(path, len(body), hashlib.sha256(body).hexdigest()) for path, body in FILES.items())
    opened = tuple(source if isinstance(source, Source) else Source(source) for source in sources)
    return Manifest("tests/tiny", pins, opened)


def write_manifest(path: Path, *sources: str) -> Path:
    """Write the manifest as a file, for another process."""
    made = manifest(*sources)
    files = [vars(file) for file in made.files]
    path.write_text(json.dumps({"model": made.model, "sources": [{"url": url} for url in sources], "files": files}))
    return path


def is_right(folder: Path) -> bool:
    """Whether the folder holds the files, and nothing else."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == FILES


def strays(cache: Path) -> list[str]:
    """Return the paths in a cache folder that are neither its lock nor right files under their names."""
    folder = cache / manifest().folder_name
    right = {folder / path: body for path, body in FILES.items()}
    files = [path for path in cache.rglob("*") if path.is_file() and path != cache / ".lock"]
    folders = [path for path in cache.iterdir() if path.is_dir() and path != folder]
    return [str(path) for path in [*files, *folders] if path.is_dir() or right.get(path) != path.read_bytes()]


def write_right_files(cache: Path) -> Path:
    """Fill a cache folder without any download."""
    folder = cache / manifest().folder_name
    for path, body in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return folder


def program(path: Path, source: str) -> Path:
    """Write a Python program that can be started by its name."""
    path.write_text(f"#!{sys.executable} -IS\n{source}")
    path.chmod(0o755)
    return path
