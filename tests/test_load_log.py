"""The line about the load: a period of milliseconds stands for the minute."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from embeddinggemma.load_log import LoadLog


class Lines(logging.Handler):
    """What was logged, for a test to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        name, line = record.getMessage().split(": ", 1)
        assert name == "served"
        self.queue.put_nowait(json.loads(line))

    async def next(self) -> dict[str, Any]:
        return await asyncio.wait_for(self.queue.get(), 10)


def _run(test: Callable[[Lines], Coroutine[Any, Any, None]]) -> None:
    logger = logging.getLogger("embeddinggemma.load_log")

    async def main() -> None:
        lines = Lines()
        logger.addHandler(lines)
        logger.setLevel(logging.INFO)
        try:
            await test(lines)
        finally:
            logger.removeHandler(lines)
            logger.setLevel(logging.NOTSET)

    asyncio.run(main())


async def _cancel_one(load: LoadLog) -> None:
    async def wait() -> None:
        with load.request():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_period_with_requests_has_one_line_that_sums_them_up() -> None:
    async def test(lines: Lines) -> None:
        load = LoadLog(0.05)
        for _ in range(3):
            with load.request() as served:
                served.texts, served.tokens = 2, 10
        with pytest.raises(ValueError, match="refused"), load.request():
            raise ValueError("refused")
        await _cancel_one(load)
        line = await lines.next()
        assert 0 <= line.pop("p50_ms") <= line.pop("p99_ms")
        assert line == {
            "seconds": 0.05,
            "requests": 5,
            "failed": 1,
            "cancelled": 1,
            "texts": 6,
            "tokens_per_s": 600.0,
            "most_at_once": 1,
            "unanswered": 0,
        }

    _run(test)


def test_a_period_without_load_has_none_and_the_next_with_load_has_again() -> None:
    async def test(lines: Lines) -> None:
        load = LoadLog(0.02)
        for _ in range(2):
            with load.request():
                pass
            assert (await lines.next())["requests"] == 1
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(lines.queue.get(), 0.1)

    _run(test)


def test_a_long_request_is_told_of_while_it_goes_on() -> None:
    async def test(lines: Lines) -> None:
        load = LoadLog(0.02)
        with load.request(), load.request():
            for _ in range(2):
                line = await lines.next()
                assert (line["requests"], line["p50_ms"], line["most_at_once"], line["unanswered"]) == (0, None, 2, 2)

        answered = 0
        while answered < 2:
            answered += (await lines.next())["requests"]

    _run(test)


def test_turned_off_it_says_nothing_and_keeps_nothing() -> None:
    async def test(lines: Lines) -> None:
        load = LoadLog(0)
        before = str(vars(load))
        with load.request() as served:
            served.texts = 1
        assert str(vars(load)) == before
        assert lines.queue.empty()

    _run(test)
