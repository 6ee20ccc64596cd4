"""Another process that wants the weights: `python -m tests.fill_cache MANIFEST CACHE [LARGEST_FILE]`."""

import logging
import resource
import sys
from pathlib import Path

from embeddinggemma.manifest import read_manifest
from embeddinggemma.settings import Store
from embeddinggemma.weights import WeightsError, ensure_weights

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    manifest, cache, *largest = sys.argv[1:]
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest[0]), resource.RLIM_INFINITY))
    try:
        ensure_weights(read_manifest(Path(manifest)), Store(Path(cache), stall_seconds=5))
    except WeightsError as error:
        sys.exit(str(error))
