"""The wiring, with stand-ins for tokenizer and encoder that a test can hold or break."""

import asyncio
import threading
from array import array
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from embeddinggemma.batching import Batcher
from embeddinggemma.engine.contract import BrokenEncoderError, Float32Array
from embeddinggemma.leftovers import Leftovers
from embeddinggemma.tokenizer import TokenizedText
from embeddinggemma.traffic_log import TrafficLog
from predict import Predictor
from tests.support.inputs import DEFAULTS


class HeldTokenizer:
    """Gives every text three tokens, and waits while the test holds it."""

    def __init__(self) -> None:
        self.turns: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.may_continue = threading.Event()

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        self.turns.append(list(texts))
        self.entered.release()
        self.may_continue.wait(600)
        return [TokenizedText(array("i", [2, 5, 1]), 3) for _ in texts]


def _vectors(token_ids: Sequence[Sequence[int]]) -> Future[Float32Array]:
    future: Future[Float32Array] = Future()
    future.set_result(np.ones((len(token_ids), 768), dtype=np.float32))
    return future


def _broken(_: Sequence[Sequence[int]]) -> Future[Float32Array]:
    future: Future[Float32Array] = Future()
    future.set_exception(BrokenEncoderError("the card fell off the bus"))
    return future


def _predictor(tokenizer: Any, submit: Any = _vectors) -> Predictor:
    predictor = Predictor()
    predictor.tokenizer, predictor.batcher, predictor.traffic_log = tokenizer, Batcher(submit, 100), TrafficLog(0)
    predictor.leftovers = Leftovers()
    return predictor


def test_a_giant_request_is_tokenized_in_turns_and_answered_whole() -> None:
    tokenizer = HeldTokenizer()
    tokenizer.may_continue.set()
    texts = ["word " * 12_000, *["short"] * 10, "word " * 12_000]
    output = asyncio.run(_predictor(tokenizer).predict(**DEFAULTS | {"texts": texts}))
    assert output.shape == [12, 768]
    assert output.tokens == [3] * 12
    assert [len(turn) for turn in tokenizer.turns] == [11, 1]


def test_a_cancelled_giant_request_leaves_its_other_texts_untokenized() -> None:
    async def test() -> None:
        tokenizer = HeldTokenizer()
        giant = asyncio.create_task(_predictor(tokenizer).predict(**DEFAULTS | {"texts": ["word " * 100_000] * 20}))
        await asyncio.to_thread(tokenizer.entered.acquire)
        giant.cancel()
        with pytest.raises(asyncio.CancelledError):
            await giant
        tokenizer.may_continue.set()
        await asyncio.get_running_loop().shutdown_default_executor()
        assert len(tokenizer.turns) == 1

    asyncio.run(test())


def test_the_health_check_fails_once_the_encoder_is_broken() -> None:
    async def test() -> None:
        tokenizer = HeldTokenizer()
        tokenizer.may_continue.set()
        predictor = _predictor(tokenizer, _broken)
        await predictor.healthcheck()
        with pytest.raises(BrokenEncoderError, match="the card fell off the bus"):
            await predictor.predict(**DEFAULTS | {"text": "good"})
        with pytest.raises(BrokenEncoderError, match="the card fell off the bus"):
            await predictor.healthcheck()

    asyncio.run(test())


def test_a_text_that_is_too_long_is_an_error_if_asked_and_computes_nothing() -> None:
    class LongTokenizer:
        def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
            return [TokenizedText(array("i", [2, 1]), 2 if text.endswith("short") else 2300) for text in texts]

    def computed(_: Sequence[Sequence[int]]) -> Future[Float32Array]:
        pytest.fail("something was computed")

    inputs = DEFAULTS | {"texts": ["short", "long"], "truncate": False}
    with pytest.raises(ValueError, match=r"texts\[1\] has 2,300 tokens, prompt included; the limit is 2,048"):
        asyncio.run(_predictor(LongTokenizer(), computed).predict(**inputs))
    with pytest.raises(ValueError, match=r"^text has 2,300 tokens"):
        asyncio.run(_predictor(LongTokenizer(), computed).predict(**DEFAULTS | {"text": "long", "truncate": False}))
