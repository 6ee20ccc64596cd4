"""Overload is answered with a reason, and does not harm the requests that were taken."""

import http.client
import json
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http import HTTPStatus
from pathlib import Path

import numpy as np
import pytest

from benchmarks.raw_load import raw_load
from embeddinggemma.leftovers import FOLDER
from embeddinggemma.request import MAX_NUMBERS
from predict import Predictor
from tests.support.servers import HeldServer
from tools.client import exchange, request_bytes, wait_until
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


def test_no_request_is_refused_while_slots_are_free(held: HeldServer, full: bool, evidence: Evidence) -> None:
    """With two of its threads, Cog's server refused one request in a hundred or a thousand."""
    clients, requests = 64, 25_600 if full else 2_560
    body = {"text": f"{MARKER} short"}

    def ask(_: int) -> Counter[int]:
        connection = http.client.HTTPConnection("127.0.0.1", held.port, timeout=600)
        with closing(connection):
            return Counter(exchange(connection, body)[0] for _ in range(requests // clients))

    with ThreadPoolExecutor(clients) as threads:
        statuses = sum(threads.map(ask, range(clients)), Counter())
    assert statuses == {HTTPStatus.OK: requests}
    evidence.record(PROMISE, f"{clients} clients, {SLOTS} slots", f"{requests:,} requests, not one answer of 409")


def test_short_texts_are_answered_beside_array_answers(held: HeldServer, full: bool, evidence: Evidence) -> None:
    """The times are for the table: that its rows are written one by one, and how many, are tests of their own."""
    arrays = {"texts": [f"{MARKER} {number}" for number in range(MAX_NUMBERS // 768)], "output_format": "array"}
    numbers = held.predict(**arrays)["embedding"]
    assert np.array_equal(np.array(numbers, np.float32), held.vectors(texts=arrays["texts"]))
    times: list[float] = []
    with ThreadPoolExecutor(1) as thread:
        beside = thread.submit(
            raw_load, held.port, request_bytes(arrays), 1, 20.0 if full else 3.0
        )  # in a process of its own
        while not beside.done():
            began = time.perf_counter()
            held.embedding(text=MARKER)
            times.append((time.perf_counter() - began) * 1000)
    assert beside.result().refused == 0
    p50, p99 = np.percentile(times, (50, 99))
    how = f"a short text beside answers of {len(numbers)} vectors as array, one after the other"
    evidence.record(PROMISE, how, f"the same numbers as in base64; p50 {p50:.0f} ms, p99 {p99:.0f} ms")


def test_the_disk_stays_flat(held: HeldServer, evidence: Evidence) -> None:
    names = [f"disk-{number}" for number in range(200)]
    for name in names:
        answer = held.send(json.dumps({"input": {"text": MARKER}}).encode(), method="PUT", path=f"/predictions/{name}")
        assert answer.status == HTTPStatus.OK
    with held.held():
        [waiting] = held.fill_slots(1, request_bytes(LONG, method="PUT", path="/predictions/disk-waits"))
        wait_until(lambda: not any((FOLDER / name).exists() for name in names))
        assert (FOLDER / "disk-waits").is_dir()
    assert waiting.recv(15) == b"HTTP/1.1 200 OK"
    waiting.close()
    wait_until(lambda: not (FOLDER / "disk-waits").exists())
    how = f"{len(names)} predictions, then one that is held: the folders that Cog's server makes for them"
    evidence.record(PROMISE, how, "each gone some seconds after its prediction, and none before")


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
