import pytest

from benchmarks.raw_load import raw_load
from tests.support.servers import RunningServer
from tools.client import request_bytes


def test_every_connection_sends_one_request_after_the_other(server: RunningServer) -> None:
    load = raw_load(server.port, request_bytes({"text": "short"}), connections=3, seconds=1)
    assert load.requests_per_second > 0
    assert 0 < load.p50_ms <= load.p99_ms


def test_refused_requests_are_not_counted_as_answered(server: RunningServer) -> None:
    with pytest.raises(RuntimeError, match="2 connections got 0 answers"):
        raw_load(server.port, request_bytes({"text": " "}), connections=2, seconds=1)
