"""`python -m embeddinggemma.check` accepts right vectors and refuses wrong vectors, by its exit status too."""

import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from embeddinggemma import Embedder, check
from embeddinggemma.engine import reference
from embeddinggemma.engine.linear import Gated, Linear
from embeddinggemma.engine.reference import SentenceTransformersModel


@pytest.fixture(scope="module")
def loaded_reference(small_model: Path) -> SentenceTransformersModel:
    return reference.load_on_cpu(small_model)


@pytest.fixture
def as_a_program(
    loaded_reference: SentenceTransformersModel, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give main() the small model and no arguments; load the reference once, and measure each speed once."""
    monkeypatch.setattr(reference, "load_on_cpu", lambda _: loaded_reference)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["check"])
    monkeypatch.setattr(check, "_MIN_CALLS", 1)
    monkeypatch.setattr(check, "_MAX_CALLS", 1)


@pytest.mark.usefixtures("as_a_program")
def test_it_prints_the_runtime_the_comparison_and_the_speed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith('running: {"model": "reference/embeddinggemma-small"')
    assert printed.count("worst cosine: 1.000000, at least 0.99999 needed") == 2
    assert "not checked, these weights are not Google's" in printed
    rows = re.findall(r"^\| (\w[^|]*) \| [\d,.]+ ms \| [\d,]+ \| \d+% \|$", printed, re.MULTILINE)
    assert rows == [workload.name for workload in check.workloads("cpu")]


@pytest.mark.usefixtures("as_a_program")
def test_wrong_vectors_are_an_error_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Embedder.encode
    monkeypatch.setattr(Embedder, "encode", lambda embedder, ids: encode(embedder, ids) + 1)
    monkeypatch.setattr(check, "speed_lines", lambda _: [])
    with pytest.raises(SystemExit, match="texts alone: worst cosine: "):
        check.main()


def test_a_cosine_that_is_not_a_number_is_wrong() -> None:
    bad = np.full((1, 768), np.nan, np.float32)
    assert list(check.differences("alone", bad, bad, 0.99))


def test_on_googles_weights_the_published_figures_are_compared(embedder: Embedder) -> None:
    """The reference model's vectors mean nothing, so every published figure must be missed."""
    assert len(list(check.similarities_off(embedder))) >= 3
    assert len(list(check.known_vectors_off(embedder))) == 2


def test_a_right_similarity_is_accepted(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    query = embedder.embed([check.QUERY], task="retrieval_query")[0]
    monkeypatch.setattr(check, "SIMILARITIES", (embedder.embed(check.DOCUMENTS) @ query).tolist())
    assert list(check.similarities_off(embedder)) == []


def test_the_limit_computes_each_product_of_the_forward_pass_once(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    multiply, products = Linear.__call__, Gated.products

    def counted(layer: Linear, x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return multiply(layer, x)

    def counted_gated(layer: Gated, x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return products(layer, x)

    monkeypatch.setattr(Linear, "__call__", counted)
    monkeypatch.setattr(Gated, "products", counted_gated)
    check.multiply(embedder, 5_000)
    assert Counter(rows) == {2_048: 2 * 6 * 4, 904: 6 * 4}  # 6 layers: queries, keys and values; output; gated; down
