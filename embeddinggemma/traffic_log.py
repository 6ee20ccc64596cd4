"""How many requests the container gets and how fast it answers: a log line every minute, while there are requests."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field

import numpy as np

log = logging.getLogger(__name__)


@dataclass
class Served:
    """What a request held; filled in before the request ends."""

    texts: int = 0
    tokens: int = 0


@dataclass
class _Period:
    """The requests that ended between two lines."""

    failed: int = 0
    cancelled: int = 0
    texts: int = 0
    tokens: int = 0
    most_at_once: int = 0
    milliseconds: list[float] = field(default_factory=list)
    """The time of each request that was answered."""


class TrafficLog:
    """Counts requests on an event loop; while there are any, writes a log line at regular intervals."""

    def __init__(self, seconds: float, computed_again: Callable[[], int] = lambda: 0) -> None:
        """Write a line every `seconds` seconds; never, if it is 0.

        computed_again: returns how many texts so far float32 had to compute again, because float16 could not hold them.
        """
        self._seconds = seconds
        self._computed_again, self._again_before = computed_again, 0
        self._at_once = 0
        self._period = _Period()
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def request(self) -> Iterator[Served]:
        """Count the context as one request: answered, failed if it raises, or cancelled."""
        served, started = Served(), time.perf_counter()
        if not self._seconds:
            yield served
            return
        self._begin()
        try:
            yield served
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self._period.cancelled += 1
            else:
                self._period.failed += 1
            raise
        else:
            self._period.milliseconds.append((time.perf_counter() - started) * 1000)
            self._period.texts += served.texts
            self._period.tokens += served.tokens
        finally:
            self._at_once -= 1

    def _begin(self) -> None:
        self._at_once += 1
        self._period.most_at_once = max(self._period.most_at_once, self._at_once)
        if not self._timer:
            self._set_timer()

    def _set_timer(self) -> None:
        # In an empty context: otherwise the server would take the line for a log line of the current request.
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, self._write, context=Context())

    def _write(self) -> None:
        again = self._computed_again()
        log.info("served: %s", json.dumps(self._line(self._period, again - self._again_before)))
        self._again_before = again
        self._period, self._timer = _Period(most_at_once=self._at_once), None
        if self._at_once:
            self._set_timer()

    def _line(self, period: _Period, computed_again: int) -> dict[str, float | None]:
        answered = len(period.milliseconds)
        p50, p99 = np.percentile(period.milliseconds, (50, 99)).round(1).tolist() if answered else (None, None)
        return {
            "seconds": self._seconds,
            "requests": answered + period.failed + period.cancelled,
            "failed": period.failed,
            "cancelled": period.cancelled,
            "texts": period.texts,
            "computed_again": computed_again,
            "tokens_per_s": round(period.tokens / self._seconds, 1),
            "p50_ms": p50,
            "p99_ms": p99,
            "most_at_once": period.most_at_once,
            "unanswered": self._at_once,
        }
