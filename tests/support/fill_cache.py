"""Another process that needs the weights: `python -m tests.support.fill_cache MANIFEST CACHE [MAX_FILE_SIZE]`."""

import logging
import resource
import sys
from pathlib import Path

from embeddinggemma.weights.cache import WeightsError, ensure_weights
from embeddinggemma.weights.manifest import read_manifest
from embeddinggemma.weights.store import Store

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    manifest, cache, *max_file_size = sys.argv[1:]
    if max_file_size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(max_file_size[0]), resource.RLIM_INFINITY))
    try:
        ensure_weights(read_manifest(Path(manifest)), Store(Path(cache), stall_seconds=600))
    except WeightsError as error:
        sys.exit(str(error))
