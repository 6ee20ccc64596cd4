"""The line about the traffic. The tests move the event loop's clock forward, so a minute takes no time."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from embeddinggemma.traffic_log import TrafficLog


class Minutes:
    """The loop's clock, which stands still until a test moves it forward, and the lines that were logged."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[dict[str, Any]] = []

    async def pass_by(self, seconds: float) -> list[dict[str, Any]]:
        """Move the clock forward, let the loop do everything that is due, and return the lines that were logged."""
        self.lines.clear()
        self.now += seconds
        for _ in range(3):
            await asyncio.sleep(0)
        return list(self.lines)


class Handler(logging.Handler):
    """Keeps the lines that are logged."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        name, line = record.getMessage().split(": ", 1)
        assert name == "served"
        self._lines.append(json.loads(line))


@pytest.fixture
def minutes() -> Iterator[Minutes]:
    logger, minutes = logging.getLogger("embeddinggemma.traffic_log"), Minutes()
    handler = Handler(minutes.lines)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield minutes
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def _run(minutes: Minutes, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        asyncio.get_running_loop().time = lambda: minutes.now  # type: ignore[method-assign]
        await test()

    asyncio.run(main())


async def _cancel_a_request(traffic: TrafficLog) -> None:
    async def wait() -> None:
        with traffic.request():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_period_with_requests_has_one_line_that_sums_them_up(minutes: Minutes) -> None:
    async def test() -> None:
        traffic = TrafficLog(60)
        for _ in range(3):
            with traffic.request() as served:
                served.texts, served.tokens = 2, 10
        with pytest.raises(ValueError, match="refused"), traffic.request():
            raise ValueError("refused")
        await _cancel_a_request(traffic)
        assert await minutes.pass_by(59) == []
        [line] = await minutes.pass_by(1)
        assert 0 <= line.pop("p50_ms") <= line.pop("p99_ms")
        assert line == {
            "seconds": 60,
            "requests": 5,
            "failed": 1,
            "cancelled": 1,
            "texts": 6,
            "computed_again": 0,
            "tokens_per_s": 0.5,
            "most_at_once": 1,
            "unanswered": 0,
        }

    _run(minutes, test)


def test_a_period_without_requests_has_no_line_and_the_next_with_requests_has_a_line(minutes: Minutes) -> None:
    async def test() -> None:
        traffic = TrafficLog(60)
        for _ in range(2):
            with traffic.request():
                pass
            [line] = await minutes.pass_by(60)
            assert line["requests"] == 1
            assert await minutes.pass_by(60) == []
            assert await minutes.pass_by(3600) == []

    _run(minutes, test)


def test_a_long_request_is_in_every_line_while_it_lasts(minutes: Minutes) -> None:
    async def test() -> None:
        traffic = TrafficLog(60)
        with traffic.request(), traffic.request():
            for _ in range(2):
                [line] = await minutes.pass_by(60)
                assert (line["requests"], line["p50_ms"], line["most_at_once"], line["unanswered"]) == (0, None, 2, 2)
        [line] = await minutes.pass_by(60)
        assert line["requests"] == 2

    _run(minutes, test)


def test_turned_off_it_logs_nothing_and_keeps_nothing(minutes: Minutes) -> None:
    async def test() -> None:
        traffic = TrafficLog(0)
        before = str(vars(traffic))
        with traffic.request() as served:
            served.texts = 1
        assert str(vars(traffic)) == before
        assert await minutes.pass_by(3600) == []

    _run(minutes, test)


def test_texts_that_were_computed_again_are_counted_since_the_last_line(minutes: Minutes) -> None:
    async def test() -> None:
        total = 5
        traffic = TrafficLog(60, lambda: total)
        for again in (5, 0, 2):
            with traffic.request():
                pass
            total += 2 if again == 2 else 0
            [line] = await minutes.pass_by(60)
            assert line["computed_again"] == again

    _run(minutes, test)
