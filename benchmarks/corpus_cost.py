"""What a billion texts cost and how much they fill, by the recorded rates; docs/corpus.md has the tables.

`python -m benchmarks.corpus_cost` prints them; it measures nothing.
"""

import json

import numpy as np

from benchmarks.corpus_stages import REACH, measured_gpu
from embeddinggemma.vectors import DIMENSIONS, OUTPUT_DTYPES, finish
from tools import PROJECT

TEXTS, TOKENS = 10**9, 100
CARD_DOLLARS, CORES_DOLLARS = 4.0, 0.1
"""Assumed prices of an hour: of one H200, and of two cores."""

_RESULTS = PROJECT / "benchmarks" / "results"
_CARDS = (1, 4, 8)


def main() -> None:
    """Print the tables."""
    print(costs())
    print(sizes())


def costs() -> str:
    """Return hours and dollars as Markdown: of GPUs that are kept busy for the share that is aimed at, and of cores."""
    gpu, cpu = json.loads((_RESULTS / "gpu.json").read_text()), json.loads((_RESULTS / "speed.json").read_text())
    float32 = gpu["bulk"]["float32"]
    cores = cpu["mixed_tokens"] / cpu["engines"]["native-bfloat16"]["d"]
    card = f"{gpu['card'].removeprefix('NVIDIA ')}, bfloat16"
    rows = [
        *((f"{count} {card}", count * measured_gpu() * REACH / 100, count * CARD_DOLLARS) for count in _CARDS),
        ("the same card in float32", float32 * REACH / 100, CARD_DOLLARS),
        ("2 cores of an AMD EPYC, bfloat16", cores, CORES_DOLLARS),
    ]
    lines = ["| on | tokens/s | hours | dollars |", "| --- | --- | --- | --- |"]
    for name, rate, dollars in rows:
        hours = TEXTS * TOKENS / rate / 3600
        shown_hours = f"{hours:,.1f}" if hours < 100 else f"{hours:,.0f}"
        lines.append(f"| {name} | {rate:,.0f} | {shown_hours} | {hours * dollars:,.0f} |")
    return "\n".join([*lines, ""])


def sizes() -> str:
    """Return the bytes of the vectors as Markdown."""
    raw = np.ones((1, DIMENSIONS[0]), np.float32)
    lines = [f"| numbers | {' | '.join(OUTPUT_DTYPES)} |", f"| --- |{' --- |' * len(OUTPUT_DTYPES)}"]
    for dimension in DIMENSIONS:
        filled = [finish(raw, dimension, True, dtype).nbytes * TEXTS / 1e9 for dtype in OUTPUT_DTYPES]
        lines.append(f"| {dimension} | {' | '.join(f'{gigabytes:,.0f} GB' for gigabytes in filled)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
