"""Everything that is measured on a GPU, in one run of under four minutes: right, fast, steady, and served over HTTP.

Each part is measured on its own: if one fails, its error stands in its place, and the others are measured all the same.
"""

import json
import os
import random
import re
import statistics
import subprocess
import sys
import sysconfig
import time
import traceback
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks.raw_load import raw_load
from benchmarks.serving import LARGE_REQUEST, PREDICTORS, SHORT_REQUEST, mixed_texts, running
from embeddinggemma import Embedder
from embeddinggemma.check import multiply
from embeddinggemma.engine.contract import BatchTooLargeError, Float32Array
from embeddinggemma.engine.reference import SentenceTransformersModel, load_on_cpu
from embeddinggemma.settings import Settings
from embeddinggemma.vectors import finish
from tools import PROJECT
from tools.client import request_bytes
from tools.reference_model import warm_cache

Figures = dict[str, Any]
Ids: TypeAlias = "array[int]"

LENGTHS = (3, 16, 17, 64, 65, 100, 128, 129, 255, 256, 257, 258, 259, 511, 512, 513, 1000, 2047, 2048)
BUDGETS = (2048, 4096, 8192, 16_384, 32_768)
CONNECTIONS = (1, 8, 64, 200)
LARGE_CONNECTIONS = (1, 4, 16)
MIXED_TEXTS = 4096
_BASELINE_TEXTS, _BASELINE_BATCHES = 1024, (32, 128, 256)
_SEED = 300
_LOAD_SECONDS = 2.5


class Gpu:
    """The models on this machine's card, and what is measured with them."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.variables = warm_cache(model, folder / "cache") | {"TRITON_CACHE_DIR": str(folder / "triton")}
        self.figures: Figures = {"card": torch.cuda.get_device_name(), "torch": torch.__version__}
        self.dice = random.Random(_SEED)  # noqa: S311 - nothing here is secret
        self._embedders: dict[str, Embedder] = {}

    def embedder(self, dtype: str) -> Embedder:
        """Return our model, loaded once for each dtype."""
        if dtype not in self._embedders:
            variables = self.variables | {"EMBEDDINGGEMMA_DTYPE": dtype}
            self._embedders[dtype] = Embedder.load(Settings.from_environment(variables))
        return self._embedders[dtype]

    def texts(self, lengths: Sequence[int]) -> list[Ids]:
        """Return random token ids, with <bos> and <eos>, as the tokenizer gives them."""
        return [
            array("i", [2, *(self.dice.randrange(10, 262_000) for _ in range(length - 2)), 1]) for length in lengths
        ]

    def mixed(self) -> tuple[list[str], list[Ids]]:
        """Return words of Python's library, in texts of log-normal length, median 60 tokens; and their token ids."""
        library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        words = [word for path in library for word in path.read_text(errors="ignore").split(" ") if word]
        texts = []
        for _ in range(MIXED_TEXTS):
            count = max(3, min(400, round(self.dice.lognormvariate(4.09, 0.9) / 2.6)))
            start = self.dice.randrange(len(words) - count)
            texts.append(" ".join(words[start : start + count]))
        return texts, [text.ids for text in self.embedder("bfloat16").tokenizer.tokenize(texts)]

    def right(self) -> Figures:
        """Return the worst cosine and the largest difference to sentence-transformers in float32 on the CPU."""
        token_ids = self.texts(LENGTHS)
        reference = load_on_cpu(self.model)
        theirs = _units(np.concatenate([reference.encode([ids]).numpy() for ids in token_ids]))
        rows: Figures = {}
        for dtype in ("bfloat16", "float32", "float16"):
            embedder = self.embedder(dtype)
            together = _units(embedder.encode(token_ids))
            alone = _units(np.concatenate([embedder.encode([ids]) for ids in token_ids]))
            rows[dtype] = _apart(together, theirs) | {"alone_to_together": float(np.abs(alone - together).max())}
            rows[dtype]["by_length"] = dict(zip(LENGTHS, (alone * theirs).sum(axis=1).round(6).tolist(), strict=True))
        half = SentenceTransformersModel(self.model, torch.device("cuda"), torch.bfloat16)
        rows["sentence-transformers bfloat16"] = _apart(
            _units(np.concatenate([half.encode([ids]).numpy() for ids in token_ids])), theirs
        )
        return rows

    def latency(self) -> Figures:
        """Return the milliseconds of calls with few texts."""
        embedder, rows = self.embedder("bfloat16"), {}
        encode = embedder.encoder.model.encode
        calls = {"1 × 12": (12,), "1 × 64": (64,), "1 × 256": (256,), "1 × 300": (300,), "1 × 2,048": (2048,)}
        for name, lengths in (calls | {"8 × 32": (32,) * 8, "64 × 16": (16,) * 64, "8 × 2,047": (2047,) * 8}).items():
            token_ids = self.texts(lengths)
            rows[name] = _median_ms(lambda ids=token_ids: encode(ids))  # type: ignore[misc]
        reference = SentenceTransformersModel(self.model, torch.device("cuda"), torch.bfloat16)
        [short] = self.texts([12])
        rows["1 × 12, by the library"] = _median_ms(lambda: embedder.encode([short]))
        rows["sentence-transformers, 1 × 12"] = _median_ms(lambda: reference.encode([short]), calls=10)
        return rows

    def bulk(self) -> Figures:
        """Return tokens per second of the mixed texts in order of arrival, and of the products alone."""
        texts, token_ids = self.mixed()
        rows, tokens = {}, sum(map(len, token_ids))
        for budget in BUDGETS:
            seconds = _median(lambda size=budget: self._pass_all("bfloat16", token_ids, size))  # type: ignore[misc]
            rows[f"bfloat16, {budget:,} tokens a batch"] = tokens / seconds
        rows["products alone"] = tokens / _median(lambda: multiply(self.embedder("bfloat16"), tokens))
        for dtype in ("float16", "float32"):
            rows[dtype] = tokens / _median(lambda of=dtype: self._pass_all(of, token_ids, 8192), calls=2)  # type: ignore[misc]
        rows["sorted, by the library"] = tokens / _median(lambda: self.embedder("bfloat16").encode(token_ids))
        rows["from texts, by the library"] = tokens / _median(lambda: self.embedder("bfloat16").embed(texts), calls=2)
        theirs = SentenceTransformer(
            str(self.model), device="cuda", local_files_only=True, model_kwargs={"dtype": torch.bfloat16}
        )
        some = texts[:_BASELINE_TEXTS]
        some_tokens = sum(map(len, token_ids[:_BASELINE_TEXTS]))
        for size in _BASELINE_BATCHES:
            encode = partial(theirs.encode, some, batch_size=size, show_progress_bar=False)
            rows[f"sentence-transformers, from texts, batch {size}"] = some_tokens / _median(encode, calls=2)
        rows["texts"], rows["tokens"] = MIXED_TEXTS, tokens
        return rows

    def _pass_all(self, dtype: str, token_ids: Sequence[Sequence[int]], budget: int) -> list[Float32Array]:
        """Encode texts in batches in their own order, as many in flight as the encoder takes."""
        futures: list[Future[Float32Array]] = []
        for batch in _in_order(token_ids, budget):
            if len(futures) >= 4:
                futures[-4].result()  # the batcher too has only a few batches ready
            futures.append(self.embedder(dtype).encoder.submit(batch))
        return [future.result() for future in futures]

    def steady(self) -> Figures:
        """Return whether vectors repeat to the last bit, and what happens when memory ends."""
        embedder, token_ids = self.embedder("bfloat16"), self.mixed()[1][:1500]
        batches = list(_in_order(token_ids, 1000))
        alone = [embedder.encoder.encode(batch) for batch in batches]
        again = [embedder.encoder.encode(batch) for batch in batches]
        futures = [embedder.encoder.submit(batch) for _ in range(5) for batch in batches]
        piped = [future.result() for future in futures]
        rows: Figures = {
            "same bytes again": all(map(np.array_equal, alone, again)),
            "same bytes with the next batch on its way": all(map(np.array_equal, alone * 5, piped)),
        }
        rows["bytes a token"] = {dtype: self._bytes_per_token(dtype) for dtype in ("bfloat16", "float16", "float32")}
        rows["out of memory"] = self._out_of_memory(embedder, token_ids)
        return rows

    def _bytes_per_token(self, dtype: str) -> int:
        """Return the memory that a forward pass takes beside the model, for long texts outside every graph."""
        embedder, token_ids = self.embedder(dtype), self.texts([2048] * 8)
        embedder.encoder.encode(token_ids)
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        embedder.encoder.encode(token_ids)
        return (torch.cuda.max_memory_allocated() - held) // (8 * 2048)

    def _out_of_memory(self, embedder: Embedder, token_ids: Sequence[Sequence[int]]) -> str:
        right = embedder.encode(token_ids)
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 200 * 2**20) / total)
        try:
            embedder.encoder.encode(token_ids)
        except BatchTooLargeError as error:
            halves = embedder.encode(token_ids)
            return f"{type(error).__name__}, then vectors within {np.abs(_units(halves) - _units(right)).max():.1e}"
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return "no error: the batch fitted"

    def fault(self) -> str:
        """Return what a kernel's illegal access leads to, in a process of its own, whose CUDA context it ends."""
        command = [sys.executable, "-m", "benchmarks.gpu_fault"]
        environment = {**os.environ, **self.variables}
        ended = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
        return ended.stdout.strip() or f"ended with {ended.returncode}: {ended.stderr[-200:]}"

    def start(self) -> Figures:
        """Return the seconds from process start to READY, without and with a kernel cache, and its parts."""
        rows: Figures = {}
        for name in ("no kernel cache", "warm", "warm 2", "warm 3"):
            changes = self.variables | {"TRITON_CACHE_DIR": str(self.folder / "start" / "triton")}
            log = self.folder / f"start-{name.replace(' ', '-')}.log"
            began = time.perf_counter()
            with running(changes, "predict.py:Predictor", log):
                rows[name] = {"ready": time.perf_counter() - began}
            for part, seconds in re.findall(r"(\w+): (?:\d+ in )?([\d.]+) s\b", log.read_text()):
                rows[name][part] = float(seconds)
        for module, code in (("torch", "import torch"), ("tokenizer", _TOKENIZER)):
            program = f"import time\nstarted = time.perf_counter()\n{code}\nprint(time.perf_counter() - started)"
            command = [sys.executable, "-c", program, str(self.model)]
            runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)]
            rows[module] = statistics.median(map(float, runs))
        return rows

    def http(self) -> Figures:
        """Return requests per second at several numbers of connections, of a trivial predict() and of ours."""
        rows: Figures = {}
        texts = mixed_texts(LARGE_REQUEST, self.dice)
        large = request_bytes({"texts": texts})
        for name, predictor in (("trivial", PREDICTORS["trivial"]), ("ours", "predict.py:Predictor")):
            with running(self.variables, predictor, self.folder / f"{name}.log") as port:
                rows[name] = {count: vars(raw_load(port, SHORT_REQUEST, count, _LOAD_SECONDS)) for count in CONNECTIONS}
                rows[f"{name}, {LARGE_REQUEST} texts a request"] = {
                    count: vars(raw_load(port, large, count, _LOAD_SECONDS)) for count in LARGE_CONNECTIONS
                }
        embedder = self.embedder("bfloat16")
        ids = [text.ids for text in embedder.tokenizer.tokenize(texts)] * 16
        rows["large texts by the encoder alone"] = len(ids) / _median(lambda: self._pass_all("bfloat16", ids, 8192))
        return rows


_TOKENIZER = """
import sys
from pathlib import Path
from embeddinggemma.tokenizer import Tokenizer
Tokenizer(Path(sys.argv[1]))"""


def measure(model: Path, folder: Path) -> Figures:
    """Measure every part; `folder` is for caches and logs."""
    gpu = Gpu(model, folder)
    for part in (gpu.right, gpu.latency, gpu.bulk, gpu.steady, gpu.http, gpu.start, gpu.fault):
        started = time.perf_counter()
        try:
            gpu.figures[part.__name__] = cast(Callable[[], Any], part)()
        except Exception as error:
            traceback.print_exc()
            gpu.figures[part.__name__] = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        print(f"{part.__name__}, {seconds:.1f} s: {json.dumps(gpu.figures[part.__name__])}", flush=True)
    return gpu.figures


def _in_order(token_ids: Sequence[Sequence[int]], budget: int) -> Iterator[list[Sequence[int]]]:
    """Yield the texts in their order, in batches of at most `budget` tokens."""
    batch: list[Sequence[int]] = []
    room = budget
    for ids in token_ids:
        if batch and len(ids) > room:
            yield batch
            batch, room = [], budget
        batch.append(ids)
        room -= len(ids)
    yield batch


def _units(raw: Float32Array) -> Float32Array:
    return finish(raw, raw.shape[1], True, "float32")


def _apart(ours: Float32Array, theirs: Float32Array) -> Figures:
    return {"worst cosine": float((ours * theirs).sum(axis=1).min()), "difference": float(np.abs(ours - theirs).max())}


def _median(call: Callable[[], object], calls: int = 5) -> float:
    """Return the median seconds of some calls, after one that does not count."""
    call()
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _median_ms(call: Callable[[], object], calls: int = 50) -> float:
    return round(_median(call, calls) * 1000, 3)
