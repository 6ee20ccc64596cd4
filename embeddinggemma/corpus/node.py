"""What a machine of a cluster may lack; it runs there first, so it needs nothing but Python to say so."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from embeddinggemma.weights.manifest import Manifest
from embeddinggemma.weights.store import Store

if TYPE_CHECKING:
    from embeddinggemma.corpus.stores import ObjectPath

_PACKAGES = ("numpy", "pyarrow", "requests", "safetensors", "tokenizers", "torch")


def what_is_missing(sizes: dict[str, int], sample: "ObjectPath | None", manifest: Manifest, store: Store) -> str | None:
    """Return what this machine lacks to do the work; None: nothing. Missing weights are downloaded.

    Args:
        sizes: the files of INPUT.
        sample: an object of INPUT, if it is in a store.
        manifest: the weights.
        store: where they are kept.

    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        return f"Python there lacks {', '.join(missing)}"
    for path, size in sizes.items():
        try:
            with Path(path).open("rb") as file:
                there = os.fstat(file.fileno()).st_size
        except OSError as error:
            return f"{path} cannot be read there: {error.strerror}"
        if there != size:
            return f"{path} has {there:,} bytes there, and {size:,} here"
    if sample:
        try:
            sample.open().close()
        except OSError as error:
            return f"{sample} cannot be read there: {error.strerror}"
    from embeddinggemma.weights.cache import ensure_weights

    try:
        ensure_weights(manifest, store)
    except (OSError, ValueError, RuntimeError) as error:
        return " ".join(str(error).split())
    return None
