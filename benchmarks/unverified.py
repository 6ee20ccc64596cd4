"""Our container without digests, to measure their cost. Only scripts/benchmark may start it.

Run as a program, it is the process that makes the weights ready.
"""

from collections.abc import Iterable
from pathlib import Path
from unittest.mock import MagicMock, patch

from embeddinggemma.weights import background, cache, delivery, http
from embeddinggemma.weights.manifest import PinnedFile
from embeddinggemma.weights.verification import Faults


def _absent(folder: Path, files: Iterable[PinnedFile]) -> Faults:
    return {file: "is missing" for file in files if not (folder / file.path).exists()}


if __name__ == "__main__":
    patch.object(cache, "faults", _absent).start()
    patch.object(delivery, "fault", lambda *_: None).start()
    patch.object(http, "hashlib", MagicMock()).start()
    background.main()
else:
    from predict import Predictor

    patch.object(background, "_PROGRAM", "benchmarks.unverified").start()
    __all__ = ["Predictor"]
