"""How requests become batches. The encoder here is a stand-in that records its batches: what is tested is the queue."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from embeddinggemma.batching import Batcher
from embeddinggemma.vectors import Float32Array

Texts = Sequence[Sequence[int]]
POISON = 666


class RecordingEncoder:
    """Gives each text its first token id as its vector, and can be held up until the test lets it go on."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.entered = threading.Semaphore(0)
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._thread = ThreadPoolExecutor(max_workers=1)

    def submit(self, token_ids: Texts) -> Future[Float32Array]:
        return self._thread.submit(self._encode, token_ids)

    def _encode(self, token_ids: Texts) -> Float32Array:
        self.batches.append([list(ids) for ids in token_ids])
        self.entered.release()
        self.may_go_on.wait(30)
        if any(POISON in ids for ids in token_ids):
            raise RuntimeError("poisoned")
        return np.array([[ids[0]] for ids in token_ids], dtype=np.float32)


def _text(first: int, length: int) -> list[int]:
    return [first, *[0] * (length - 1)]


def _run(test: Callable[[RecordingEncoder, Batcher], Coroutine[Any, Any, None]], budget: int = 100) -> RecordingEncoder:
    encoder = RecordingEncoder()

    async def main() -> None:
        await asyncio.wait_for(test(encoder, Batcher(encoder.submit, budget)), 30)

    asyncio.run(main())
    return encoder


async def _vectors(batcher: Batcher, *texts: list[int]) -> list[float]:
    job = await batcher.encode(texts)
    return [float(value) for value in job.vectors.result()[:, 0]]


async def _hold(encoder: RecordingEncoder, batcher: Batcher) -> asyncio.Task[list[float]]:
    """Start a request whose forward pass goes on until `encoder.may_go_on` is set."""
    encoder.may_go_on.clear()
    held = asyncio.create_task(_vectors(batcher, _text(99, 1)))
    await asyncio.to_thread(encoder.entered.acquire)
    return held


async def _waiting(*requests: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Queue requests in this order, behind the one that is held up."""
    tasks = [asyncio.create_task(request) for request in requests]
    await asyncio.sleep(0)
    return tasks


def test_a_lone_request_is_encoded_at_once() -> None:
    async def test(_: RecordingEncoder, batcher: Batcher) -> None:
        assert await _vectors(batcher, _text(5, 3)) == [5]

    assert _run(test).batches == [[_text(5, 3)]]


def test_what_arrives_during_a_forward_pass_shares_the_next() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        waiting = await _waiting(*(_vectors(batcher, _text(i, 10)) for i in range(8)))
        encoder.may_go_on.set()
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
        encoder.may_go_on.set()
        assert await small == [2]
        assert not giant.done()
        assert len(await giant) == 30
        await held

    encoder = _run(test)
    assert _text(2, 5) in [ids for batch in encoder.batches[:3] for ids in batch]


def test_a_large_text_is_not_passed_over_for_ever_by_small_ones() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        waiting = await _waiting(
            _vectors(batcher, _text(1, 60)),
            _vectors(batcher, _text(2, 90)),
            *(_vectors(batcher, *[_text(3, 30)] * 10) for _ in range(5)),
        )
        encoder.may_go_on.set()
        await asyncio.gather(held, *waiting)

    encoder = _run(test)
    assert _text(2, 90) in [ids for batch in encoder.batches[:4] for ids in batch]


def test_a_cancelled_request_costs_no_forward_pass() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        cancelled, kept = await _waiting(_vectors(batcher, *[_text(7, 10)] * 40), _vectors(batcher, _text(8, 10)))
        cancelled.cancel()
        await asyncio.sleep(0)
        encoder.may_go_on.set()
        assert await kept == [8]
        await held
        assert cancelled.cancelled()

    assert _run(test).batches[1:] == [[_text(8, 10)]]


def test_cancelling_half_way_leaves_the_rest_unencoded() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        encoder.may_go_on.clear()
        [giant] = await _waiting(_vectors(batcher, *[_text(7, 100)] * 40))
        await asyncio.to_thread(encoder.entered.acquire)
        giant.cancel()
        await asyncio.sleep(0)
        encoder.may_go_on.set()
        assert await _vectors(batcher, _text(8, 10)) == [8]

    assert len(_run(test).batches) == 2


def test_a_poisoned_text_fails_its_own_request_alone() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        waiting = await _waiting(
            _vectors(batcher, _text(1, 5), _text(2, 5)),
            _vectors(batcher, _text(3, 5), [POISON], *[_text(3, 100)] * 5),
            _vectors(batcher, _text(4, 5)),
        )
        encoder.may_go_on.set()
        answers = await asyncio.gather(held, *waiting, return_exceptions=True)
        assert answers[1] == [1, 2]
        assert isinstance(answers[2], RuntimeError)
        assert answers[3] == [4]
        assert await _vectors(batcher, _text(5, 5)) == [5]

    encoder = _run(test)
    assert not any(_text(3, 100) in batch for batch in encoder.batches)


def test_the_job_says_where_its_time_went() -> None:
    async def test(encoder: RecordingEncoder, batcher: Batcher) -> None:
        held = await _hold(encoder, batcher)
        first, _second = await _waiting(batcher.encode([_text(1, 5)] * 3), batcher.encode([_text(2, 5)]))
        encoder.may_go_on.set()
        job = await first
        await held
        assert job.queue_ms > 0
        assert job.encode_ms > 0
        assert job.batch_texts == 4

    _run(test)
