"""How requests become batches. The encoder is a stand-in that records its batches, because the queue is tested here."""

import asyncio
import ctypes
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from embeddinggemma.batching import Batcher, token_batches
from embeddinggemma.engine.contract import BatchTooLargeError, BrokenEncoderError, Float32Array

Texts = Sequence[Sequence[int]]
POISON = 666
FATAL = 667


class RecordingEncoder:
    """Gives each text its first token id as its vector, and waits while the test holds it."""

    def __init__(self, memory: int = 1_000_000) -> None:
        """Have memory for this many tokens at a time."""
        self.memory = memory
        self.batches: list[list[list[int]]] = []
        self.entered = threading.Semaphore(0)
        self.may_continue = threading.Event()
        self.may_continue.set()
        self.thread = ThreadPoolExecutor(max_workers=4)

    def submit(self, token_ids: Texts) -> Future[Float32Array]:
        return self.thread.submit(self._encode, token_ids)

    def _encode(self, token_ids: Texts) -> Float32Array:
        self.batches.append([list(ids) for ids in token_ids])
        self.entered.release()
        self.may_continue.wait(600)
        if sum(map(len, token_ids)) > self.memory:
            raise BatchTooLargeError(f"there is memory for {self.memory} tokens")
        if any(FATAL in ids for ids in token_ids):
            raise BrokenEncoderError("the card fell off the bus")
        if any(POISON in ids for ids in token_ids):
            raise RuntimeError("poisoned")
        return np.array([[ids[0]] for ids in token_ids], dtype=np.float32)


def _text(first: int, length: int) -> list[int]:
    return [first, *[0] * (length - 1)]


def _run(
    test: Callable[[RecordingEncoder, Batcher], Coroutine[Any, Any, None]],
    budget: int = 100,
    *,
    memory: int = 1_000_000,
    in_flight: int = 1,
) -> RecordingEncoder:
    encoder = RecordingEncoder(memory)

    async def main() -> None:
        await asyncio.wait_for(test(encoder, Batcher(encoder.submit, budget, in_flight=in_flight)), 600)

    asyncio.run(main())
    return encoder


async def _vectors(batcher: Batcher, *texts: list[int]) -> list[float]:
    encoded = await batcher.encode(texts)
    return [float(value) for value in encoded.vectors[:, 0]]


async def _hold(encoder: RecordingEncoder, batcher: Batcher) -> asyncio.Task[list[float]]:
    """Start a request whose forward pass waits until `encoder.may_continue` is set."""
    encoder.may_continue.clear()
    held = asyncio.create_task(_vectors(batcher, _text(99, 1)))
    await asyncio.to_thread(encoder.entered.acquire)
    return held


async def _waiting(*requests: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Queue requests in this order, behind the request that is held."""
    tasks = [asyncio.create_task(request) for request in requests]
    await asyncio.sleep(0)
    return tasks


def test_a_lone_request_is_encoded_at_once() -> None:
    async def test(_: RecordingEncoder, batcher: Batcher) -> None:
        assert await _vectors(batcher, _text(5, 3)) == [5]

    assert _run(test).batches == [[_text(5, 3)]]


def test_requests_during_a_forward_pass_share_the_next() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        waiting = await _waiting(*(_vectors(batcher, _text(i, 10)) for i in range(8)))
        encoder.may_continue.set()
        assert await asyncio.gather(*waiting) == [[float(i)] for i in range(8)]
        await held

    encoder = _run(test)
    assert [len(batch) for batch in encoder.batches] == [1, 8]


def test_every_text_gets_its_own_vector_in_the_callers_order() -> None:
    async def test(_: RecordingEncoder, batcher: Batcher) -> None:
        texts = [_text(i, 1 + i * 37 % 60) for i in range(50)]
        assert await _vectors(batcher, *texts) == list(range(50))

    _run(test)


def test_a_batch_keeps_to_its_token_budget() -> None:
    async def test(_: RecordingEncoder, batcher: Batcher) -> None:
        await _vectors(batcher, *(_text(i, 1 + i * 37 % 60) for i in range(50)))

    batches = _run(test).batches
    assert sum(map(len, batches)) == 50
    assert all(sum(map(len, batch)) <= 100 for batch in batches)


def test_a_text_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    async def test(_: RecordingEncoder, batcher: Batcher) -> None:
        assert await _vectors(batcher, _text(1, 150), _text(2, 3), _text(3, 150)) == [1, 2, 3]

    assert [[len(ids) for ids in batch] for batch in _run(test).batches] == [[3], [150], [150]]


def test_a_giant_request_does_not_starve_a_small_one() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        giant, small = await _waiting(_vectors(batcher, *([_text(1, 100)] * 30)), _vectors(batcher, _text(2, 5)))
        encoder.may_continue.set()
        assert await small == [2]
        assert not giant.done()
        assert len(await giant) == 30
        await held

    encoder = _run(test)
    assert _text(2, 5) in [ids for batch in encoder.batches[:3] for ids in batch]


def test_small_texts_do_not_keep_a_large_text_waiting_forever() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        waiting = await _waiting(
            _vectors(batcher, _text(1, 60)),
            _vectors(batcher, _text(2, 90)),
            *(_vectors(batcher, *[_text(3, 30)] * 10) for _ in range(5)),
        )
        encoder.may_continue.set()
        await asyncio.gather(held, *waiting)

    encoder = _run(test)
    assert _text(2, 90) in [ids for batch in encoder.batches[:4] for ids in batch]


def test_a_cancelled_request_costs_no_forward_pass() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        cancelled, kept = await _waiting(_vectors(batcher, *[_text(7, 10)] * 40), _vectors(batcher, _text(8, 10)))
        cancelled.cancel()
        await asyncio.sleep(0)
        encoder.may_continue.set()
        assert await kept == [8]
        await held
        assert cancelled.cancelled()

    assert _run(test).batches[1:] == [[_text(8, 10)]]


def test_cancelling_half_way_leaves_the_rest_unencoded() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        encoder.may_continue.clear()
        [giant] = await _waiting(_vectors(batcher, *[_text(7, 100)] * 40))
        await asyncio.to_thread(encoder.entered.acquire)
        giant.cancel()
        await asyncio.sleep(0)
        encoder.may_continue.set()
        assert await _vectors(batcher, _text(8, 10)) == [8]

    assert len(_run(test).batches) == 2


def test_a_poisoned_text_fails_only_its_own_request() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        waiting = await _waiting(
            _vectors(batcher, _text(1, 5), _text(2, 5)),
            _vectors(batcher, _text(3, 5), [POISON], *[_text(3, 100)] * 5),
            _vectors(batcher, _text(4, 5)),
        )
        encoder.may_continue.set()
        answers = await asyncio.gather(held, *waiting, return_exceptions=True)
        assert answers[1] == [1, 2]
        assert isinstance(answers[2], RuntimeError)
        assert answers[3] == [4]
        assert await _vectors(batcher, _text(5, 5)) == [5]

    encoder = _run(test)
    assert not any(_text(3, 100) in batch for batch in encoder.batches)


def test_a_batch_too_large_for_the_memory_is_tried_in_halves() -> None:
    async def test(_: RecordingEncoder, batcher: Batcher) -> None:
        assert await _vectors(batcher, *(_text(i, 10) for i in range(10))) == list(range(10))

    assert [len(batch) for batch in _run(test, memory=30).batches] == [10, 5, 2, 3, 5, 2, 3]


def test_a_text_too_large_for_the_memory_fails_only_its_own_request_and_says_why() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        waiting = await _waiting(
            _vectors(batcher, _text(1, 10), _text(2, 10)),
            _vectors(batcher, _text(3, 10), _text(3, 50), *[_text(3, 90)] * 5),
            _vectors(batcher, _text(4, 10)),
        )
        encoder.may_continue.set()
        answers = await asyncio.gather(held, *waiting, return_exceptions=True)
        assert [answers[0], answers[1], answers[3]] == [[99], [1, 2], [4]]
        assert isinstance(answers[2], BatchTooLargeError)
        assert str(answers[2]) == "texts[1] has 50 tokens, for which memory is short: there is memory for 30 tokens"
        batcher.check()

    encoder = _run(test, memory=30)
    assert not any(_text(3, 90) in batch for batch in encoder.batches)


def test_a_cancelled_request_is_not_tried_again() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        encoder.may_continue.clear()
        cancelled, kept = await _waiting(_vectors(batcher, *[_text(7, 10)] * 4), _vectors(batcher, _text(8, 10)))
        await asyncio.to_thread(encoder.entered.acquire)
        cancelled.cancel()
        await asyncio.sleep(0)
        encoder.may_continue.set()
        assert await kept == [8]

    assert _run(test, memory=30).batches[1:] == [[_text(8, 10)]]


def test_a_broken_encoder_fails_waiting_requests_and_later_requests_and_the_check() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        batcher.check()
        held = await _hold(encoder, batcher)
        waiting = await _waiting(
            _vectors(batcher, _text(1, 10), *[_text(1, 90)] * 5),
            _vectors(batcher, [FATAL]),
            *(_vectors(batcher, _text(2, 90)) for _ in range(5)),
        )
        encoder.may_continue.set()
        assert await held == [99]
        for answer in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(answer, BrokenEncoderError)
            assert str(answer) == "the card fell off the bus"
        for after in (_vectors(batcher, _text(3, 1)), asyncio.to_thread(batcher.check)):
            with pytest.raises(BrokenEncoderError, match="the card fell off the bus"):
                await after

    assert len(_run(test).batches) == 2


def test_a_batcher_that_ended_leaves_no_request_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async def test(_: RecordingEncoder, batcher: Batcher) -> None:
        def fewer_vectors(token_ids: Texts) -> Future[Float32Array]:
            future: Future[Float32Array] = Future()
            future.set_result(np.zeros((len(token_ids) - 1, 1), dtype=np.float32))
            return future

        batcher = Batcher(fewer_vectors, 20)
        waiting = await _waiting(*(_vectors(batcher, _text(i, 10)) for i in range(5)))
        for answer in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(answer, BrokenEncoderError)
            assert "the encoder gave 1 vectors for 2 texts" in str(answer)
        with pytest.raises(BrokenEncoderError):
            batcher.check()

    with caplog.at_level(logging.ERROR):
        _run(test)
    assert "unhealthy: the batcher has ended" in caplog.text


def test_a_batcher_whose_loop_closes_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def test(_: RecordingEncoder, batcher: Batcher) -> None:
        assert await _vectors(batcher, _text(1, 1)) == [1]

    _run(test)
    assert caplog.messages == []


def test_with_two_in_flight_a_second_batch_is_handed_over_and_no_third() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        second = await _waiting(_vectors(batcher, _text(1, 10)))
        await asyncio.to_thread(encoder.entered.acquire)
        third = [*await _waiting(_vectors(batcher, _text(2, 10))), *await _waiting(_vectors(batcher, _text(3, 10)))]
        await asyncio.sleep(0.05)
        assert len(encoder.batches) == 2
        encoder.may_continue.set()
        assert await asyncio.gather(held, *second, *third) == [[99], [1], [2], [3]]

    batches = _run(test, in_flight=2).batches
    assert [len(batch) for batch in batches] == [1, 1, 2]


def test_with_two_in_flight_a_cancelled_request_costs_no_pass() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = [await _hold(encoder, batcher) for _ in range(2)]
        [cancelled, kept] = await _waiting(_vectors(batcher, _text(1, 10)), _vectors(batcher, _text(2, 10)))
        cancelled.cancel()
        encoder.may_continue.set()
        assert await kept == [2]
        await asyncio.gather(*held)

    assert [ids[0] for batch in _run(test, in_flight=2).batches for ids in batch] == [99, 99, 2]


def test_with_two_in_flight_short_memory_halves_the_batch_that_was_too_large() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        texts = [_text(i, 10) for i in range(8)]
        waiting = await _waiting(_vectors(batcher, *texts))
        encoder.may_continue.set()
        assert await asyncio.gather(held, *waiting) == [[99], list(range(8))]

    _run(test, memory=40, in_flight=2)


def test_with_two_in_flight_a_broken_encoder_fails_both_batches() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held, hold = await _hold(encoder, batcher), encoder.may_continue
        encoder.may_continue = threading.Event()  # of later batches; the first waits for its own
        encoder.may_continue.set()
        broken = await _waiting(_vectors(batcher, _text(FATAL, 10)))
        answers = await asyncio.gather(held, *broken, return_exceptions=True)
        assert [type(answer) for answer in answers] == [BrokenEncoderError] * 2
        hold.set()
        with pytest.raises(BrokenEncoderError, match="the card fell off the bus"):
            batcher.check()

    _run(test, in_flight=2)


def test_a_pass_that_the_encoder_gives_up_leaves_no_request_waiting() -> None:
    async def test(*_: object) -> None:
        def given_up(_: Texts) -> Future[Float32Array]:
            future: Future[Float32Array] = Future()
            future.cancel()
            return future

        with pytest.raises(BrokenEncoderError, match="the encoder gave up a forward pass"):
            await _vectors(Batcher(given_up, 100), _text(1, 1))

    _run(test)


def test_an_encoder_thread_that_died_leaves_no_request_waiting() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        assert await _vectors(batcher, _text(1, 1)) == [1]
        encoder.thread = ThreadPoolExecutor(max_workers=1)
        thread = await asyncio.wrap_future(encoder.thread.submit(threading.current_thread))
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        with pytest.raises(BrokenEncoderError, match=r"gave no answer for 0\.2 s"):
            await _vectors(Batcher(encoder.submit, 100, pass_timeout=0.2), _text(2, 1))
        assert not thread.is_alive()

    _run(test)


def test_the_result_says_how_its_time_was_spent() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        first, _second = await _waiting(batcher.encode([_text(1, 5)] * 3), batcher.encode([_text(2, 5)]))
        encoder.may_continue.set()
        encoded = await first
        await held
        assert encoded.queue_ms > 0
        assert encoded.encode_ms > 0
        assert encoded.batch_texts == 4

    _run(test)


def test_batches_hold_similar_lengths_up_to_the_budget() -> None:
    lengths = [5, 900, 3, 2048, 4, 500, 700]
    batches = token_batches(lengths, 1000)
    assert [[lengths[position] for position in batch] for batch in batches] == [[3, 4, 5, 500], [700], [900], [2048]]
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
