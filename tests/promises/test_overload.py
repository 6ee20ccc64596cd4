"""Overload is told, not suffered."""

import json
import re
from pathlib import Path

import pytest

from predict import Predictor
from tests.promises.container import MARKER, Container, fill_slots, readable, request_bytes, seconds_until
from tests.promises.evidence import Evidence

pytestmark = pytest.mark.usefixtures("unharmed")

SLOTS = Predictor.predict.__cog_concurrent_max__
PROMISE = "Overload is told, not suffered"
LONG = {"texts": [f"{MARKER} " + "word " * 1000] * 16}
TOKENS = 16 * 1_012
BYTES_PER_QUEUED_TOKEN = 100  # its characters, and a Python integer in a list: about 45
ACTIVATIONS = 400e6  # of one forward pass, and what the allocator keeps of it


def test_beyond_the_slots_requests_get_409_and_the_others_are_answered(
    container: Container, evidence: Evidence
) -> None:
    taken = fill_slots(container, SLOTS, request_bytes(LONG))
    refused = [container.send(json.dumps({"input": {"text": MARKER}}).encode()) for _ in range(10)]
    assert [answer.status for answer in refused] == [409] * 10
    assert "At capacity" in refused[0].json()["error"]
    for connection in taken[8:]:
        connection.close()
    statuses = [connection.recv(15) for connection in taken[:8]]
    for connection in taken[:8]:
        connection.close()
    assert statuses == [b"HTTP/1.1 200 OK"] * 8
    evidence.record(PROMISE, f"all {SLOTS} slots taken, then ten requests more", "409 ten times; those in slots go on")


def test_memory_is_bounded_whatever_is_queued(container: Container, evidence: Evidence) -> None:
    container.embedding(**LONG)
    before = container.worker.memory_info().rss
    rests = []
    for _ in range(3):
        taken = fill_slots(container, SLOTS, request_bytes(LONG))
        readable(taken, 10)  # all is tokenized and waits
        for connection in taken:
            connection.close()
        seconds_until(container.is_idle, limit=60)
        rests.append(container.worker.memory_info().rss)
    queued = SLOTS * TOKENS
    peak = _peak_memory(container)
    assert peak - before < queued * BYTES_PER_QUEUED_TOKEN + ACTIVATIONS
    assert rests[2] < 1.05 * rests[0], "what was queued is not given back"
    evidence.record(
        PROMISE,
        f"all slots taken by {TOKENS:,} tokens each, three times: the worker's memory",
        f"{queued:,} tokens queued; {before / 1e6:,.0f} MB before, {peak / 1e6:,.0f} MB at most, "
        f"{', '.join(f'{rest / 1e6:,.0f}' for rest in rests)} MB after each",
    )


def _peak_memory(container: Container) -> int:
    """Return the most memory that the worker ever had, in bytes."""
    status = Path(f"/proc/{container.worker.pid}/status").read_text()
    [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) * 1024
