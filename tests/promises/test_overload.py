"""Overload is answered with a reason, and does not harm the requests that were taken."""

import json
import re
from http import HTTPStatus
from pathlib import Path

import pytest

from predict import Predictor
from tests.support.servers import HeldServer
from tools.client import request_bytes, wait_until
from tools.evidence import Evidence
from tools.observed_server import MARKER

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("held_unharmed")]

SLOTS = Predictor.predict.__cog_concurrent_max__
PROMISE = "Overload is answered with a reason, and does not harm the requests that were taken"
LONG = {"texts": [f"{MARKER} " + "word " * 1000] * 16}
TOKENS = 16 * 1_012
BYTES_PER_QUEUED_TOKEN = 100  # its characters, and a Python integer in a list: about 45
ACTIVATIONS = 400e6  # of one forward pass, and what the allocator keeps of it


def test_beyond_the_slots_requests_get_409_and_the_others_are_answered(held: HeldServer, evidence: Evidence) -> None:
    with held.held():
        taken = held.fill_slots(SLOTS, request_bytes(LONG))
        refused = [held.send(json.dumps({"input": {"text": MARKER}}).encode()) for _ in range(10)]
        assert [answer.status for answer in refused] == [HTTPStatus.CONFLICT] * 10
        assert "At capacity" in refused[0].json()["error"]
        held.drop(taken[8:])
    statuses = [connection.recv(15) for connection in taken[:8]]
    for connection in taken[:8]:
        connection.close()
    assert statuses == [b"HTTP/1.1 200 OK"] * 8
    how = f"all {SLOTS} slots taken, then ten more requests"
    evidence.record(PROMISE, how, "409 ten times; the requests in the slots are answered")


def test_memory_is_bounded_with_every_slot_full(held: HeldServer, evidence: Evidence) -> None:
    held.embedding(**LONG)
    before = held.worker.memory_info().rss
    rests = []
    for _ in range(3):
        with held.held():
            held.drop(held.fill_slots(SLOTS, request_bytes(LONG)))  # once all are tokenized and wait
        wait_until(held.is_idle)
        rests.append(held.worker.memory_info().rss)
    queued = SLOTS * TOKENS
    peak = _peak_memory(held)
    assert peak - before < queued * BYTES_PER_QUEUED_TOKEN + ACTIVATIONS
    assert rests[2] < 1.05 * rests[0], "the memory of queued requests is not given back"
    evidence.record(
        PROMISE,
        f"all slots taken by {TOKENS:,} tokens each, three times: the worker's memory",
        f"{queued:,} tokens queued; {before / 1e6:,.0f} MB before, {peak / 1e6:,.0f} MB at most, "
        f"{', '.join(f'{rest / 1e6:,.0f}' for rest in rests)} MB after each",
    )


def _peak_memory(held: HeldServer) -> int:
    """Return the most memory that the worker ever had, in bytes."""
    status = Path(f"/proc/{held.worker.pid}/status").read_text()
    [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) * 1024
