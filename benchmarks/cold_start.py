"""Time from process start to first vector, with the files in the page cache.

`python -m benchmarks.cold_start ENGINE FOLDER` is one of these processes.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

TEXT = "Machine learning helps computers understand data"


def container() -> object:
    """Do what the container does with its environment variables: verify the weights, load, embed."""
    from predict import Predictor

    predictor = Predictor()
    predictor.setup()
    defaults = {"texts": None, "task": "retrieval_document", "title": None, "embedding_dim": 768, "normalize": True}
    embedding = predictor.predict(text=TEXT, **defaults, output_format="base64", output_dtype="float32")
    return asyncio.run(embedding)


def sentence_transformers(folder: Path) -> object:
    """Do what a script with sentence-transformers does."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), local_files_only=True).encode(TEXT)


def measure(engines: Sequence[str], folder: Path, environment: Mapping[str, str], rounds: int) -> dict[str, float]:
    """Return each engine's median seconds from process start to first vector; `environment` is the container's."""
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    for turn in range(rounds):
        print(f"cold start: round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
        for engine in engines:
            command = [sys.executable, "-m", "benchmarks.cold_start", engine, str(folder)]
            dtype = engine.rpartition("-")[2]
            variables = {**os.environ, **environment, "EMBEDDINGGEMMA_DTYPE": dtype}
            started = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=variables) as process:
                assert process.stdout is not None
                if process.stdout.readline() != b"vector\n":
                    raise RuntimeError(f"{engine} gave no vector")
                seconds[engine].append(time.perf_counter() - started)
                process.kill()
    return {engine: statistics.median(times) for engine, times in seconds.items()}


def main() -> None:
    """Embed one text with the named engine, and print a line once its vector is there."""
    if sys.argv[1].startswith("native"):
        container()
    else:
        sentence_transformers(Path(sys.argv[2]))
    print("vector", flush=True)


if __name__ == "__main__":
    main()
