"""One engine in its own process: `python -m benchmarks.engine ENGINE FOLDER`, then a line of JSON for each call.

Each input line is a list of texts; each output line has the seconds that embedding them took. An empty list asks for
the process's peak memory and the vectors of all texts so far, which are none if the engine makes no vectors.
"""

import asyncio
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks import exported
from embeddinggemma import Embedder
from embeddinggemma.settings import Settings
from tools.reference_model import warm_cache

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32] | None]


def native(folder: Path, dtype: str) -> Embed:
    """Return our own stages from texts to unit vectors, with the batcher that the container uses."""
    from embeddinggemma.batching import Batcher
    from embeddinggemma.vectors import finish

    embedder = _embedder(folder, dtype)
    loop = asyncio.new_event_loop()
    batcher = Batcher(embedder.encoder.submit, embedder.tokens_per_batch)

    async def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        encoded = await batcher.encode([text.ids for text in embedder.tokenizer.tokenize(texts)])
        return finish(encoded.vectors, 768, True, "float32")

    return lambda texts: loop.run_until_complete(embed(texts))


def sentence_transformers(folder: Path, batch_size: int) -> Embed:
    """Return sentence-transformers in float32, or on a GPU in bfloat16."""
    import torch
    from sentence_transformers import SentenceTransformer

    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model = SentenceTransformer(str(folder), local_files_only=True, model_kwargs={"dtype": dtype})
    return lambda texts: model.encode(list(texts), batch_size=batch_size, show_progress_bar=False)


def matrix_products(folder: Path, dtype: str) -> Embed:
    """Return a function that computes only the matrix products of a forward pass: our engine's limit."""
    from embeddinggemma.check import multiply

    embedder = _embedder(folder, dtype)

    def embed(texts: Sequence[str]) -> None:
        multiply(embedder, sum(len(text.ids) for text in embedder.tokenizer.tokenize(texts)))

    return embed


def _embedder(folder: Path, dtype: str) -> Embedder:
    """Return our own model of a folder, after its files have been verified."""
    with tempfile.TemporaryDirectory() as cache:
        variables = warm_cache(folder, Path(cache)) | {"EMBEDDINGGEMMA_DTYPE": dtype}
        return Embedder.load(Settings.from_environment(variables))


def load(engine: str, folder: Path) -> Embed:
    """Return the engine of this name: sentence-transformers-BATCH_SIZE, or its kind (see below) and its precision."""
    kind, _, option = engine.rpartition("-")
    if kind == "sentence-transformers":
        return sentence_transformers(folder, int(option))
    engines = {"native": native, "products": matrix_products, **exported.ENGINES}
    return engines[kind](folder, option)


def peak_megabytes() -> float:
    """Return the most memory that this process has held, in MB (VmHWM)."""
    [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kilobytes) * 1024 / 1e6


def main() -> None:
    """Load the engine, print an empty line, and answer lines until the input ends."""
    embed = load(sys.argv[1], Path(sys.argv[2]))
    print(flush=True)
    vectors: dict[str, npt.NDArray[np.float32] | None] = {}
    for line in sys.stdin:
        texts = json.loads(line)
        if not texts:
            peak = peak_megabytes()
            rows = [row for array in vectors.values() if array is not None for row in array.tolist()]
            print(json.dumps({"peak_megabytes": peak, "vectors": rows}), flush=True)
            continue
        started = time.perf_counter()
        vectors[line] = embed(texts)
        print(json.dumps(time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main()
