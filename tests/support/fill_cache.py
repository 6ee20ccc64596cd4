"""Another process that wants the weights: `python -m tests.support.fill_cache MANIFEST CACHE [LARGEST_FILE]`."""

import logging
import resource
import sys
from pathlib import Path

from embeddinggemma.weights.cache import WeightsError, ensure_weights
from embeddinggemma.weights.manifest import read_manifest
from embeddinggemma.weights.store import Store

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    manifest, cache, *largest = sys.argv[1:]
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest[0]), resource.RLIM_INFINITY))
    try:
        ensure_weights(read_manifest(Path(manifest)), Store(Path(cache), stall_seconds=600))
    except WeightsError as error:
        sys.exit(str(error))
