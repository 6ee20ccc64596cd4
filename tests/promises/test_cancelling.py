"""Cancelling frees the slot at once, and no forward pass begins for a cancelled request."""

import http.client
import json
import socket
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import pytest

from predict import Predictor
from tests.support.servers import HeldServer
from tools.client import readable, request_bytes, wait_until
from tools.evidence import Evidence
from tools.observed_server import MARKER

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("held_unharmed")]

SLOTS = Predictor.predict.__cog_concurrent_max__
PROMISE = "Cancelling frees the slot at once, and no forward pass begins for a cancelled request"
TEXTS = 16
LONG = {"texts": [f"{MARKER} " + "word " * 1000] * TEXTS}
SHORT = {"texts": [f"{MARKER} " + "word " * 100] * 4}
REFUSED = "refused"


def _median_ms(held: HeldServer) -> float:
    """Return how long a short text takes on an idle server: the median of 200; for the table, not for an assertion."""
    wait_until(held.is_idle)
    took = []
    for number in range(200):
        began = time.perf_counter()
        held.embedding(text=f"{MARKER} {number}")
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def test_queued_requests_of_dropped_connections_are_never_computed(held: HeldServer, evidence: Evidence) -> None:
    before, passes = held.texts_encoded(), held.passes()
    with held.held():
        held.drop(held.fill_slots(SLOTS, request_bytes(LONG)))
    assert held.predict(text="the next request")["shape"] == [768]
    encoded = held.texts_encoded() - before - 1
    assert held.passes() - passes == 2, "more than the pass that had begun and that of the next request"
    assert 0 < encoded <= TEXTS, "texts outside the pass that had begun were computed"
    evidence.record(
        PROMISE,
        "all slots taken by requests of 16 long texts; their connections are closed while the first pass runs",
        f"of {SLOTS * TEXTS:,} texts {encoded} were computed, all in that pass; the next request was answered",
    )


def test_a_storm_of_cancels_leaves_every_slot_free(held: HeldServer, full: bool, evidence: Evidence) -> None:
    before = _median_ms(held)
    rounds, at_once = (5 if full else 1), 200
    outcomes: Counter[str] = Counter()
    for turn in range(rounds):
        names = [f"storm-{turn}-{number}" for number in range(at_once)]
        requests = [request_bytes(LONG, method="PUT", path=f"/predictions/{name}") for name in names]
        with held.held():
            connections = held.fill_slots(at_once, *requests)
            with ThreadPoolExecutor(32) as clients:
                pairs = zip(connections, names, strict=True)
                outcomes.update(clients.map(lambda pair: _cancel(held, *pair), pairs))
            wait_until(lambda: held.waiting() == 0)
    assert outcomes == {"canceled": rounds * at_once // 2, "hung up": rounds * at_once // 2}
    after = _median_ms(held)
    with held.held():
        taken = held.fill_slots(SLOTS, request_bytes(LONG))
        held.drop(taken)
    evidence.record(
        PROMISE,
        "a storm of cancels, half by POST /predictions/{id}/cancel, half by closing the connection",
        f"{outcomes.total():,} cancels, each ended its request; all {len(taken)} slots free; "
        f"median of a short text {before:.1f} ms before, {after:.1f} ms after",
    )


def _cancel(held: HeldServer, connection: socket.socket, name: str) -> str:
    """End a request that has begun: by its name if that ends in an even digit, else by closing its connection."""
    with connection:
        if int(name[-1]) % 2:
            return "hung up"
        assert held.send(path=f"/predictions/{name}/cancel").status == HTTPStatus.OK
        return _outcome(connection)


def test_a_cancel_in_the_first_instant_may_be_lost_but_no_answer_is(
    held: HeldServer, full: bool, evidence: Evidence
) -> None:
    """The server forgets a cancel that comes before its worker has begun, even if predict() only sleeps."""
    cancels = 1_000 if full else 200

    def cancel(number: int) -> str:
        path = f"/predictions/early-{number}"
        with held.open(request_bytes(SHORT, method="PUT", path=path)) as connection:
            wait_until(lambda: readable([connection], 0) or held.send(path=f"{path}/cancel").status == HTTPStatus.OK)
            return _outcome(connection)

    with ThreadPoolExecutor(32) as clients:
        outcomes = Counter(clients.map(cancel, range(cancels)))
    assert outcomes.total() == cancels
    assert outcomes.keys() <= {"canceled", "computed to its end", "failed"}
    wait_until(held.is_idle)
    with held.held():
        taken = held.fill_slots(SLOTS, request_bytes(LONG))
        held.drop(taken)
    evidence.record(
        PROMISE,
        "cancels in the first instant of a request, before the server's worker has begun it",
        f"of {cancels:,} the server lost {outcomes['computed to its end']:,}, which were computed to their end; "
        f"all {len(taken)} slots free after that",
    )


def test_an_unknown_prediction_cannot_be_cancelled(held: HeldServer) -> None:
    assert held.send(path="/predictions/unheard-of/cancel").status == HTTPStatus.NOT_FOUND


def _outcome(connection: socket.socket) -> str:
    """Return how a request ended."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    ended = json.loads(response.read())
    if response.status == HTTPStatus.CONFLICT:
        return REFUSED
    return "computed to its end" if "tokens" in ended["metrics"] else str(ended["status"])
