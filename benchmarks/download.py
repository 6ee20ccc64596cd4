"""How fast weights arrive over HTTP from a CDN that gives each connection only a share of what all of them get.

`python -m benchmarks.download` makes the full-size reference model and prints a table.
"""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.cdn import serving
from embeddinggemma.weights.cache import ensure_weights
from embeddinggemma.weights.manifest import Source, read_manifest
from embeddinggemma.weights.store import Store
from tools.reference_model import MANIFEST, reference_model

_ROUNDS = 3
_OF_EACH = 50  # MB/s
_TOGETHER = (250, 1000)  # MB/s
_CONNECTIONS = (1, 8, 24)


def main() -> None:
    """Fetch the model several times at each pace and with each number of connections."""
    model = reference_model("full")
    manifest = read_manifest(model / MANIFEST)
    size = sum(file.size for file in manifest.files) / 1e6
    print("| each connection | all together | connections | reached | of what they may |")
    print("| --- | --- | --- | --- | --- |")
    for together in _TOGETHER:
        with serving(model, together, _OF_EACH) as url:
            paced = replace(manifest, sources=(Source(f"{url}/{{path}}"),))
            for connections in _CONNECTIONS:
                seconds = []
                for _ in range(_ROUNDS):
                    with tempfile.TemporaryDirectory() as cache:
                        store, started = Store(Path(cache), connections=connections), time.perf_counter()
                        ensure_weights(paced, store)
                        seconds.append(time.perf_counter() - started)
                speed, limit = size / statistics.median(seconds), min(together, connections * _OF_EACH)
                row = (
                    f"| {_OF_EACH} MB/s | {together:,} MB/s | {connections} | {speed:,.0f} MB/s | {speed / limit:.0%} |"
                )
                print(row, flush=True)


if __name__ == "__main__":
    main()
