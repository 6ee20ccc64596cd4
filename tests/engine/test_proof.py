"""Kernels that cannot be used cost no start: the plain operators take over, and the log says why."""

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch

from embeddinggemma.engine import proof
from embeddinggemma.engine.checkpoint import Config
from embeddinggemma.engine.operators import Operators
from embeddinggemma.engine.proof import proved_operators

CUDA = torch.device("cuda")


@pytest.fixture
def config(small_model: Path) -> Config:
    proof._proved_operators.cache_clear()
    return Config.load(small_model / "config.json")


def test_without_triton_the_operators_are_plain(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    imported = builtins.__import__

    def without_kernels(name: str, *rest: Any) -> Any:
        if name == "embeddinggemma.engine.kernels":
            raise ImportError("No module named 'triton'")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_kernels)
    assert proved_operators(config, CUDA, torch.float32).name == "plain"
    assert "kernels: none, plain operators instead: No module named 'triton'" in caplog.messages


def test_kernels_that_do_not_run_are_not_used(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    """They do not run here: this machine has no card."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    assert proved_operators(config, CUDA, torch.float32).name == "plain"
    assert any(line.startswith("kernels: none, plain operators instead: ") for line in caplog.messages)


def test_kernels_that_are_wrong_are_not_used(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {proof.norms: "a norm is wrong, off by 0.5", proof.heads: "the key is wrong, off by 0.1"}
    monkeypatch.setattr(proof, "failure", lambda _, compute: wrong.get(compute))
    assert proved_operators(config, CUDA, torch.float32).name == "plain"
    expected = "kernels: none, plain operators instead: a norm is wrong, off by 0.5; the key is wrong, off by 0.1"
    assert expected in caplog.messages


@pytest.mark.parametrize(("capability", "name"), [((8, 0), "triton"), ((7, 5), "triton, attention plain")])
def test_kernels_that_prove_right_are_used_and_attention_by_tiles_where_a_card_has_matrix_units(
    config: Config, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str
) -> None:
    monkeypatch.setattr(proof, "failure", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert proved_operators(config, CUDA, torch.float16).name == name


def test_attention_that_is_wrong_stays_plain_and_the_other_kernels_are_used(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(proof, "failure", lambda _, compute: "off by 1" if compute is proof.attention else None)
    assert proved_operators(config, CUDA, torch.bfloat16).name == "triton, attention plain"
    assert caplog.messages.count("kernels: attention: off by 1") == 2


def test_a_cpu_has_plain_operators(config: Config) -> None:
    assert type(proved_operators(config, torch.device("cpu"), torch.float32)) is Operators
