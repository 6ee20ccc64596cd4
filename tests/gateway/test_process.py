"""The gateway as a process: how it ends, several of them on one port, and what Prometheus reads."""

import json
import mmap
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.support.doors import PATHS, body_of
from tests.support.gateways import RunningGateway, gateway_process
from tests.support.servers import HeldServer, RunningServer
from tools.client import Client, wait_until

_LARGE_BYTES = 1024 * 768 * 4
"""Less than an answer of 1,024 vectors has in base64."""


def post(gateway: Client, door: str, text: Any, **changes: Any) -> requests.Response:
    return requests.post(f"{gateway.url}{PATHS[door]}", json={**body_of(door, text), **changes}, timeout=600)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_under_way_is_ended_at_a_signal(
    held: HeldServer, tmp_path: Path, number: signal.Signals, processes: int
) -> None:
    options = ["--container", held.url, "--max-at-once", "2", "--processes", str(processes)]
    with gateway_process(tmp_path, *options) as gateway:
        statuses: list[int] = []

        def ask(door: str) -> None:
            statuses.append(post(gateway, door, "a").status_code)

        def waiting() -> float:
            return gateway.figures().of("gateway_requests_waiting")

        threads = [threading.Thread(target=ask, args=(door,)) for door in ("openai", "tei", "ollama", "cog")]
        idle = gateway.open()
        with held.held():
            for thread in threads:
                thread.start()
            wait_until(lambda: held.waiting() > 0 and held.waiting() + waiting() == len(threads))
            gateway.process.send_signal(number)
            wait_until(gateway.refuses_connections)
            assert not statuses
        for thread in threads:
            thread.join()
        assert statuses == [200] * 4
        assert gateway.process.wait(timeout=600) == 0
        assert "Traceback" not in gateway.log
        idle.close()


@pytest.mark.skipif(sys.platform != "linux", reason="its C library keeps freed memory only if it is told to")
def test_large_answers_use_the_same_memory_again(server: RunningServer, tmp_path: Path) -> None:
    with gateway_process(tmp_path, "--container", server.url) as gateway:

        def ask(times: int) -> None:
            for _ in range(times):
                answer = post(gateway, "openai", ["a"] * 1024, encoding_format="base64")
                assert len(answer.content) > _LARGE_BYTES

        ask(3)
        before = _page_faults(gateway)
        ask(10)
        assert (_page_faults(gateway) - before) * mmap.PAGESIZE < 10 * _LARGE_BYTES  # not even one copy of each


def _page_faults(gateway: RunningGateway) -> int:
    """Return how many pages Linux has handed to the gateway."""
    return int(Path(f"/proc/{gateway.process.pid}/stat").read_text().rpartition(")")[2].split()[7])


@pytest.fixture(scope="module")
def two_processes(held: HeldServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway of two processes."""
    with gateway_process(tmp_path_factory.mktemp("two"), "--container", held.url, "--processes", "2") as started:
        wait_until(lambda: started.log.count("Application startup complete") == 2)
        yield started


def workers(gateway: RunningGateway) -> list[psutil.Process]:
    """Return the processes that serve, of a gateway of several."""
    children = psutil.Process(gateway.process.pid).children()
    return [child for child in children if "multiprocessing.spawn" in " ".join(child.cmdline())]


def test_processes_share_the_port_and_add_up_their_figures(two_processes: RunningGateway, held: HeldServer) -> None:
    assert len(workers(two_processes)) == 2
    before = two_processes.figures()
    for number in range(40):
        assert post(two_processes, "openai", ["a"] * (number % 3 + 1)).status_code == 200
    figures = two_processes.figures()
    sent = {"gateway_requests_total": 40, "gateway_texts_total": 79, "gateway_request_seconds_count": 40}
    for name, count in sent.items():
        assert figures.of(name, door="openai") - before.of(name, door="openai") == count
    assert figures.of("gateway_container_up", container=held.url) == 1
    assert figures.of("gateway_requests_in_containers") == figures.of("gateway_requests_waiting") == 0


def test_processes_say_what_they_cannot_do_for_replicates_clients(two_processes: RunningGateway) -> None:
    keeps_none = "this gateway has several processes and keeps no predictions"
    polled = post(two_processes, "replicate", "a")
    assert (polled.status_code, polled.json()["detail"]) == (400, f"{keeps_none}; send Prefer: wait")
    url = f"{two_processes.url}{PATHS['replicate']}"
    waited = requests.post(url, json=body_of("replicate", "a"), headers={"Prefer": "wait"}, timeout=600).json()
    assert waited["status"] == "succeeded"
    for path in ("/v1/predictions", *[f"/v1/predictions/{waited['id']}"] * 8):  # whichever process answers
        answer = requests.get(f"{two_processes.url}{path}", timeout=600)
        assert (answer.status_code, answer.json()["detail"]) == (404, keeps_none)


def test_a_process_that_dies_is_replaced_and_its_figures_forgotten(
    two_processes: RunningGateway, held: HeldServer
) -> None:
    body = json.dumps(body_of("tei", "a")).encode()
    head = f"POST /embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with held.held():
        left = [two_processes.open(head + body) for _ in range(8)]
        wait_until(lambda: held.waiting() == 8)
        assert two_processes.figures().of("gateway_requests_in_containers") == 8
        dying = workers(two_processes)
        for process in dying:
            process.kill()
        wait_until(lambda: held.waiting() == 0)
    for connection in left:
        connection.close()
    wait_until(lambda: two_processes.log.count("Application startup complete") == 4)
    assert not {process.pid for process in dying} & {process.pid for process in workers(two_processes)}
    assert two_processes.figures().of("gateway_requests_in_containers") == 0
    assert post(two_processes, "openai", "a").status_code == 200


def test_prometheus_reads_what_was_sent(server: RunningServer, tmp_path: Path) -> None:
    with gateway_process(tmp_path, "--container", server.url, "--max-texts", "5") as gateway:
        tokens = 0
        for count in range(1, 4):
            answer = post(gateway, "openai", ["a text"] * count, model="embeddinggemma-300m:clustering")
            tokens += answer.json()["usage"]["prompt_tokens"]
        sent: list[tuple[str, Any, dict[str, Any], int]] = [
            ("openai", "a", {"model": "another"}, 404),
            ("openai", ["a"] * 6, {}, 413),
            ("tei", ["a", "b"], {}, 200),
            ("tei", " ", {}, 400),
            ("tei", "word " * 3000, {}, 413),
            ("ollama", "a", {"model": "embeddinggemma:classification"}, 200),
            ("cog", "a", {}, 200),
            ("cog", "a", {"id": ".."}, 422),
            ("replicate", "a", {}, 201),
        ]
        for door, text, changes, status in sent:
            assert post(gateway, door, text, **changes).status_code == status, (door, changes)
        assert requests.get(f"{gateway.url}/nowhere", timeout=600).status_code == 404
        figures = gateway.figures()
    statuses = [("openai", 200), ("openai", 200), ("openai", 200), ("cog", 404)]
    statuses += [(door, status) for door, _, _, status in sent]
    expected = {(door, str(status)): statuses.count((door, status)) for door, status in statuses}
    labels = {key: dict(key[1]) for key in figures if key[0] == "gateway_requests_total"}
    assert {(its["door"], its["status"]): figures[key] for key, its in labels.items()} == expected
    for door in PATHS:
        requests_of_door = sum(1 for its, _ in statuses if its == door)
        assert figures.of("gateway_request_seconds_count", door=door) == requests_of_door
        assert figures.of("gateway_request_seconds_bucket", door=door, le="+Inf") == requests_of_door
    assert figures.of("gateway_texts_total", door="openai", task="clustering") == 6
    assert figures.of("gateway_tokens_total", door="openai", task="clustering") == tokens
    assert figures.of("gateway_texts_total", door="tei", task="none") == 2
    assert figures.of("gateway_texts_total", door="ollama", task="classification") == 1
    assert figures.of("gateway_texts_total") == 9
    assert figures.of("gateway_container_up", container=server.url) == 1
    assert figures.of("gateway_requests_in_containers") == figures.of("gateway_requests_waiting") == 0
