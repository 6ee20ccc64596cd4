"""Is this machine right, and how fast is it? `python -m embeddinggemma.check`, with the image's packages alone.

It prints what runs. It compares the vectors with sentence-transformers on the same weights and, if the weights are
Google's, with published figures. It measures the speed of the encoder, and of its matrix products alone. It fails if
the vectors are wrong.
"""

import argparse
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from embeddinggemma import Embedder
from embeddinggemma.engine.contract import Float32Array
from embeddinggemma.prompts import TASKS, add_prompt
from embeddinggemma.settings import Settings
from embeddinggemma.vectors import finish
from embeddinggemma.weights.cache import WeightsError

if TYPE_CHECKING:
    from embeddinggemma.engine.model import EmbeddingGemma

TEXTS = [
    "Machine learning helps computers understand data.",
    "El aprendizaje automático ayuda a los ordenadores a entender los datos.",
    "機械学習はコンピュータがデータを理解するのを助けます。",
    "机器学习帮助计算机理解数据。",
    "يساعد التعلم الآلي أجهزة الكمبيوتر على فهم البيانات.",
    "मशीन लर्निंग कंप्यूटर को डेटा समझने में मदद करती है।",
    "Машинное обучение помогает компьютерам понимать данные.",
    "การเรียนรู้ของเครื่องช่วยให้คอมพิวเตอร์เข้าใจข้อมูล",
    "for (let i = 0; i < texts.length; i += 1) {\n  vectors.push(embed(texts[i]));\n}",
    "👩‍🚀🚀🪐",
    "x",
    "Attention reaches 256 tokens to either side in most layers. " * 60,
    "A text of more than 2,048 tokens loses its end. " * 300,
]
# Measured on random weights: native 1, 0.9998 and 0.999998; sentence-transformers, with all of it in bfloat16, 0.997.
MIN_COSINE = {
    ("native", "float32"): 0.99999,
    ("native", "bfloat16"): 0.9995,
    ("native", "float16"): 0.9999,
    ("sentence-transformers", "float32"): 0.99999,
    ("sentence-transformers", "bfloat16"): 0.99,
}

GOOGLES = "google/embeddinggemma-300m"
# The example of https://ai.google.dev/gemma/docs/embeddinggemma/model_card, and the similarities that it prints.
QUERY = "Which planet is known as the Red Planet?"
DOCUMENTS = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
]
SIMILARITIES = [0.3011, 0.6359, 0.4930, 0.4889]
SIMILARITY_TOLERANCE = 0.005
# Two whole vectors by text-embeddings-inference (Candle) with Google's weights, from its own regression test.
KNOWN_VECTORS = Path(__file__).with_name("known_vectors.json")
_KNOWN_TOLERANCE = 1e-4  # of the cosine, besides MIN_COSINE: another implementation computed the known vectors

_SEED = 300
_MIXED_TEXTS = {"cpu": 64, "cuda": 4096}
_MIN_CALLS, _MAX_CALLS, _MAX_SECONDS = 3, 15, 3.0  # for each workload


def main() -> None:
    """Check the model that the environment variables choose, on this machine."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = Settings.from_environment()
        embedder = Embedder.load(settings)
    except (ValueError, WeightsError) as error:
        sys.exit(str(error))
    print(f"running: {json.dumps(embedder.runtime())}", flush=True)
    wrong = [*_compared(embedder, settings.store.cache / embedder.manifest.folder_name)]
    if embedder.manifest.model == GOOGLES:
        wrong += [*similarities_off(embedder), *known_vectors_off(embedder)]
    else:
        print("the model card's similarities and the known vectors: not checked, these weights are not Google's")
    print("\n".join(speed_lines(embedder)), flush=True)
    sys.exit("the vectors are wrong:\n" + "\n".join(wrong) if wrong else 0)


def _compared(embedder: Embedder, folder: Path) -> Iterator[str]:
    """Compare with the reference in float32 on the CPU; on a GPU the reference itself is off by 1e-3 (measured)."""
    prompted = [add_prompt(text, TASKS[position % len(TASKS)]) for position, text in enumerate(TEXTS)]
    token_ids = [text.ids for text in embedder.tokenizer.tokenize(prompted)]
    thread = embedder.encoder.thread  # a second thread that computes would halve the speed of both
    try:
        from embeddinggemma.engine.reference import load_on_cpu

        reference = thread.submit(load_on_cpu, folder).result()
    except ImportError as error:
        sys.exit(f"the comparison needs sentence-transformers and transformers, as in requirements.txt: {error}")
    theirs = _units(np.concatenate([thread.submit(reference.encode, [ids]).result().numpy() for ids in token_ids]))
    together = embedder.encode(token_ids)
    alone = np.concatenate([embedder.encode([ids]) for ids in token_ids])
    for company, ours in (("together", together), ("alone", alone)):
        yield from differences(company, _units(ours), theirs, _min_cosine(embedder))


def differences(company: str, ours: Float32Array, theirs: Float32Array, min_cosine: float) -> Iterator[str]:
    """Print how much unit vectors, [texts, 768], differ; yield a line if it is too much."""
    cosine, difference = float((ours * theirs).sum(axis=1).min()), np.abs(ours - theirs).max()
    print(f"texts {company}: at most {difference:.2e} from sentence-transformers in float32 on the CPU")
    line = f"texts {company}: worst cosine: {cosine:.6f}, at least {min_cosine} needed"
    print(line, flush=True)
    if not cosine >= min_cosine:
        yield line


def similarities_off(embedder: Embedder) -> Iterator[str]:
    """Print the similarities of the model card's example; yield the lines that differ from the card."""
    query = embedder.embed([QUERY], task="retrieval_query")[0]
    similarities = embedder.embed(DOCUMENTS, task="retrieval_document") @ query
    for similarity, card in zip(similarities, SIMILARITIES, strict=True):
        line = f"similarity {similarity:.4f}, model card {card:.4f} ± {SIMILARITY_TOLERANCE}"
        print(line)
        if not abs(similarity - card) <= SIMILARITY_TOLERANCE:
            yield line


def known_vectors_off(embedder: Embedder) -> Iterator[str]:
    """Print the cosines to the known vectors; yield the lines whose cosine is too low."""
    known = json.loads(KNOWN_VECTORS.read_text())
    needed = _min_cosine(embedder) - _KNOWN_TOLERANCE
    ours = _units(embedder.encode([text.ids for text in embedder.tokenizer.tokenize(known["texts"])]))
    theirs = _units(np.array(known["vectors"], np.float32))
    for text, cosine in zip(known["texts"], (ours * theirs).sum(axis=1), strict=True):
        line = f"cosine {cosine:.6f} to the known vector of {text!r}, at least {needed:.5f} needed"
        print(line)
        if not cosine >= needed:
            yield line


@dataclass(frozen=True)
class Workload:
    """Texts that are embedded together."""

    name: str
    lengths: tuple[int, ...]
    """Tokens of each text."""


def workloads(device: str) -> list[Workload]:
    """Return what is measured: the mixed texts have log-normal lengths, median 60, at most 1,000 tokens."""
    dice = random.Random(_SEED)  # noqa: S311 - nothing here is secret
    mixed = [min(1000, max(8, round(dice.lognormvariate(4.09, 0.9)))) for _ in range(_MIXED_TEXTS[device])]
    return [
        Workload("one text of 12 tokens", (12,)),
        Workload("eight texts of 32 tokens", (32,) * 8),
        Workload("one text of 2,048 tokens", (2048,)),
        Workload(f"{len(mixed):,} mixed texts", tuple(mixed)),
    ]


def speed_lines(embedder: Embedder) -> Iterator[str]:
    """Measure each workload with the encoder and with its matrix products alone, in turns; yield a table.

    On a GPU the products of few tokens take the time of their launches, which says nothing about the card.
    """
    native, device = embedder.engine == "native", embedder.encoder.device.type
    yield "| encoder | median | tokens/s |" + (" of what its matrix products alone reach |" if native else "")
    yield "| --- | --- | --- |" + (" --- |" if native else "")
    for workload in workloads(device):
        token_ids = _token_ids(workload.lengths)
        tokens = sum(workload.lengths)
        calls: list[Callable[[], object]] = [lambda ids=token_ids: embedder.encode(ids)]  # type: ignore[misc]
        bounded = native and (device == "cpu" or tokens > embedder.tokens_per_batch)
        if bounded:
            calls.append(lambda count=tokens: multiply(embedder, count))  # type: ignore[misc]
        seconds = _medians(calls)
        share = f" {seconds[1] / seconds[0]:.0%} |" if bounded else " |" if native else ""
        yield f"| {workload.name} | {seconds[0] * 1000:,.2f} ms | {tokens / seconds[0]:,.0f} |{share}"


def multiply(embedder: Embedder, tokens: int) -> None:
    """Compute only the matrix products of forward passes over `tokens` tokens, in batches."""
    import torch

    model = cast("EmbeddingGemma", embedder.encoder.model)

    def products(rows: int) -> None:
        with torch.inference_mode():
            model.products(rows)[:1].cpu()  # waits for a GPU

    for start in range(0, tokens, embedder.tokens_per_batch):
        embedder.encoder.thread.submit(products, min(embedder.tokens_per_batch, tokens - start)).result()


def _medians(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median seconds of each call; the calls take turns, after a first turn that is not measured."""
    seconds: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    began = time.perf_counter()
    for turn in range(_MAX_CALLS):
        for call, times in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        if turn + 1 >= _MIN_CALLS and time.perf_counter() - began > _MAX_SECONDS:
            break
    return [statistics.median(times) for times in seconds]


def _token_ids(lengths: Sequence[int]) -> list[list[int]]:
    """Return texts of random tokens, between <bos> and <eos>; the speed does not depend on the tokens."""
    dice = random.Random(_SEED)  # noqa: S311
    return [[2, *(dice.randrange(3, 262_144) for _ in range(length - 2)), 1] for length in lengths]


def _units(raw: Float32Array) -> Float32Array:
    return finish(raw, raw.shape[1], True, "float32")


def _min_cosine(embedder: Embedder) -> float:
    return MIN_COSINE[embedder.engine, str(embedder.encoder.dtype).removeprefix("torch.")]


if __name__ == "__main__":
    main()
