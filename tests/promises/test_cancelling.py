"""Cancelling frees the slot at once, and costs no forward pass that has not begun."""

import http.client
import json
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus

import pytest

from predict import Predictor
from tests.promises.container import (
    MARKER,
    SETTLED,
    Container,
    fill_slots,
    readable,
    request_bytes,
    seconds_until,
    until_taken,
)
from tests.promises.evidence import Evidence

pytestmark = pytest.mark.usefixtures("unharmed")

SLOTS = Predictor.predict.__cog_concurrent_max__
PROMISE = "Cancelling frees the slot at once and costs no forward pass that has not begun"
LONG = {"texts": [f"{MARKER} " + "word " * 1000] * 16}  # about 16,000 tokens, half a second of forward passes
SHORTER = {"texts": [f"{MARKER} " + "word " * 100] * 4}
REFUSED = "refused"
SLOWER = 1.5  # times as long, and 5 ms: what a median may have grown by, other work on the machine included


def _median_ms(container: Container) -> float:
    """Return how long a short text takes on an idle server: the median of 200."""
    seconds_until(container.is_idle, limit=60)
    took = []
    for number in range(200):
        began = time.perf_counter()
        container.embedding(text=f"{MARKER} {number}")
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def test_what_was_queued_by_dropped_connections_is_never_computed(container: Container, evidence: Evidence) -> None:
    began = time.perf_counter()
    container.embedding(**LONG)
    alone = time.perf_counter() - began
    for connection in fill_slots(container, SLOTS, request_bytes(LONG)):
        connection.close()
    began = time.perf_counter()
    container.embedding(text="the next one")
    waited = time.perf_counter() - began
    assert waited < 0.1 * alone * SLOTS
    evidence.record(
        PROMISE,
        "all slots taken by long requests, whose connections are dropped",
        f"the next answer after {waited:.1f} s; computing what was dropped would take {alone * SLOTS:.0f} s",
    )


def test_a_storm_of_cancels_leaves_the_server_as_fast_as_before(
    container: Container, full: bool, evidence: Evidence
) -> None:
    cancels = 1_000 if full else 200
    before = _median_ms(container)

    def cancel(number: int) -> str:
        """Ask for something long and think better of it: every other one by name, the rest by hanging up."""
        with container.open(request_bytes(LONG, method="PUT", path=f"/predictions/storm-{number}")) as connection:
            if readable([connection], SETTLED):
                assert _outcome(connection) == REFUSED, "answered before it could be cancelled"
                return REFUSED
            return _cancel_by_name(container, connection, f"storm-{number}") if number % 2 else "canceled"

    with ThreadPoolExecutor(32) as clients:
        outcomes = Counter(clients.map(partial(_until_taken, cancel), range(cancels)))
    assert outcomes == {"canceled": cancels}
    seconds_until(container.is_idle, limit=10)
    after = _median_ms(container)
    assert after < before * SLOWER + 5
    taken = fill_slots(container, SLOTS, request_bytes(LONG))
    for connection in taken:
        connection.close()
    evidence.record(
        PROMISE,
        "a storm of cancels, every other one by POST /predictions/{id}/cancel, the rest by hanging up",
        f"{cancels:,} cancels; median of a short text {before:.1f} ms before, {after:.1f} ms after; "
        f"all {len(taken)} slots free",
    )


def test_a_cancel_in_the_first_instant_may_be_lost_but_no_answer_is(
    container: Container, full: bool, evidence: Evidence
) -> None:
    """The server forgets a cancel that comes before its worker has begun; with a predict() that only sleeps, too."""
    cancels = 1_000 if full else 200

    def cancel(number: int) -> str:
        with container.open(request_bytes(SHORTER, method="PUT", path=f"/predictions/early-{number}")) as connection:
            return _cancel_by_name(container, connection, f"early-{number}")

    with ThreadPoolExecutor(32) as clients:
        outcomes = Counter(clients.map(partial(_until_taken, cancel), range(cancels)))
    assert outcomes.total() == cancels
    assert outcomes.keys() <= {"canceled", "computed to its end", "failed"}
    seconds_until(container.is_idle, limit=60)
    taken = fill_slots(container, SLOTS, request_bytes(LONG))
    for connection in taken:
        connection.close()
    evidence.record(
        PROMISE,
        "cancels in the first instant of a request, before the server's worker has begun it",
        f"of {cancels:,} the server lost {outcomes['computed to its end']:,}, which were computed to their end; "
        f"all {len(taken)} slots free once they were",
    )


def test_what_is_not_there_cannot_be_cancelled(container: Container) -> None:
    assert container.send(b"", path="/predictions/unheard-of/cancel").status == 404


def _cancel_by_name(container: Container, connection: socket.socket, name: str) -> str:
    """Cancel a request, once the server knows it, and return how it ended."""
    path = f"/predictions/{name}/cancel"
    seconds_until(lambda: readable([connection], 0) or container.send(b"", path=path).status == 200, limit=30)
    return _outcome(connection)


def _outcome(connection: socket.socket) -> str:
    """Return how a request ended."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    ended = json.loads(response.read())
    if response.status == HTTPStatus.CONFLICT:
        return REFUSED
    return "computed to its end" if "tokens" in ended["metrics"] else str(ended["status"])


def _until_taken(cancel: Callable[[int], str], number: int) -> str:
    """Return how a request that was cancelled ended; one that the server has refused by a stray 409 is asked again."""
    return until_taken(lambda: cancel(number), lambda outcome: HTTPStatus.CONFLICT if outcome == REFUSED else 200)
