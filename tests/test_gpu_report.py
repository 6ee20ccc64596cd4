"""The GPU's page is made from its figures, and a part that failed hides no other."""

import json

import pytest

from benchmarks.gpu_report import table
from tools import PROJECT

RESULTS = PROJECT / "benchmarks" / "results"
FIGURES = json.loads((RESULTS / "gpu.json").read_text())


def test_the_page_is_what_the_figures_give() -> None:
    assert table(FIGURES) == (RESULTS / "gpu.md").read_text()


@pytest.mark.parametrize("part", ["right", "latency", "bulk", "steady", "http", "start"])
def test_a_part_that_failed_is_not_measured_and_the_others_are(part: str) -> None:
    failed = table(FIGURES | {part: "RuntimeError: the card fell off the bus"})
    assert failed.count("not measured") == 1
    assert len(failed.splitlines()) > len(table(FIGURES).splitlines()) / 2


def test_the_performance_page_has_the_same_figures() -> None:
    latency, bulk = FIGURES["latency"], FIGURES["bulk"]
    best = max(speed for name, speed in bulk.items() if name.startswith("sentence-transformers"))
    ours, short = bulk["bfloat16, 8,192 tokens a batch"], latency["1 × 12"]
    whole, theirs = bulk["from texts, by the library"], latency["sentence-transformers, 1 × 12"]
    page = (PROJECT / "docs" / "performance.md").read_text()
    assert f"| one text of 12 tokens | {short:.2f} ms | {theirs / short:.0f}× as fast as sentence-transformers" in page
    assert f"| {ours / 1e6:.2f} million tokens/s | {100 * ours / bulk['products alone']:.0f} % of what" in page
    assert f"{ours / best:.0f}× sentence-transformers at its best batch size, its tokenizing included" in page
    assert f"| {whole / 1e6:.2f} million tokens/s | {whole / best:.0f}× |" in page
