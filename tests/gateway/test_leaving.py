"""A client that hangs up gives its place back, and the container drops its texts."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.doors import PATHS, body_of
from tests.support.gateways import Figures, figures, gateway_to, served
from tests.support.servers import HeldServer
from tools.client import Client, wait_until


def request_to(door: str, text: Any, *headers: str) -> bytes:
    body = json.dumps(body_of(door, text)).encode()
    lines = [f"POST {PATHS[door]} HTTP/1.1", "Host: 127.0.0.1", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def figures_of(gateway: Client) -> Figures:
    return figures(gateway.send(method="GET", path="/metrics").text)


@pytest.fixture
def gateway(held: HeldServer) -> Iterator[Client]:
    """A gateway that has one place."""
    with served(gateway_to(held.url, hosts=("127.0.0.1",), max_at_once=1)) as client:
        yield client
        wait_until(lambda: figures_of(client).of("gateway_requests_in_containers") == 0)
        assert figures_of(client).of("gateway_requests_waiting") == 0


@pytest.mark.parametrize("door", ["openai", "tei", "ollama", "cog"])
def test_a_client_that_hangs_up_frees_its_place(gateway: Client, held: HeldServer, door: str) -> None:
    before = figures_of(gateway)
    with held.held():
        leaving = gateway.open(request_to(door, "a"))
        wait_until(lambda: held.waiting() == 1)
        leaving.close()
        wait_until(lambda: held.waiting() == 0)
    assert gateway.send(json.dumps(body_of(door, "a")).encode(), path=PATHS[door]).status == 200
    left = {"door": door, "status": "499"}
    assert figures_of(gateway).of("gateway_requests_total", **left) == before.of("gateway_requests_total", **left) + 1


@pytest.mark.parametrize("door", ["openai", "tei", "ollama", "cog"])
def test_a_client_that_hangs_up_while_it_waits_leaves_the_queue(gateway: Client, held: HeldServer, door: str) -> None:
    with held.held():
        first = gateway.open(request_to("tei", "a"))
        wait_until(lambda: held.waiting() == 1)
        leaving, staying = gateway.open(request_to(door, "left")), gateway.open(request_to(door, "stays"))
        wait_until(lambda: figures_of(gateway).of("gateway_requests_waiting") == 2)
        begun = held.begun()
        leaving.close()
        wait_until(lambda: figures_of(gateway).of("gateway_requests_waiting") == 1)
    for connection in (first, staying):
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        connection.close()
    assert held.begun() == begun + 1


def test_every_part_of_a_large_request_is_dropped(held: HeldServer) -> None:
    with served(gateway_to(held.url, hosts=("127.0.0.1",), max_at_once=2)) as gateway:
        with held.held():
            leaving = gateway.open(request_to("openai", ["a"] * 2048))
            wait_until(lambda: held.waiting() == 2)
            leaving.close()
            wait_until(lambda: held.waiting() == 0)
        wait_until(lambda: figures_of(gateway).of("gateway_requests_in_containers") == 0)


def test_a_client_that_hangs_up_before_its_body_is_there_takes_no_place(gateway: Client, held: HeldServer) -> None:
    before, begun = figures_of(gateway), held.begun()
    leaving = gateway.open(request_to("openai", "a")[:-5])
    leaving.close()
    left = {"door": "openai", "status": "499"}
    wait_until(
        lambda: figures_of(gateway).of("gateway_requests_total", **left) > before.of("gateway_requests_total", **left)
    )
    assert held.begun() == begun


def test_replicates_predictions_go_on_without_their_client(gateway: Client, held: HeldServer) -> None:
    with held.held():
        leaving = gateway.open(request_to("replicate", "a", "Prefer: wait"))
        wait_until(lambda: held.waiting() == 1)
        leaving.close()
        [prediction] = gateway.send(method="GET", path="/v1/predictions").json()["results"]
        assert prediction["status"] == "processing"
    path = f"/v1/predictions/{prediction['id']}"
    wait_until(lambda: gateway.send(method="GET", path=path).json()["status"] == "succeeded")


def test_a_prediction_that_nobody_can_ask_for_ends_with_its_client(held: HeldServer) -> None:
    with served(gateway_to(held.url, hosts=("127.0.0.1",), keeps_predictions=False)) as gateway:
        with held.held():
            leaving = gateway.open(request_to("replicate", "a", "Prefer: wait"))
            wait_until(lambda: held.waiting() == 1)
            leaving.close()
            wait_until(lambda: held.waiting() == 0)
            late = gateway.send(
                json.dumps(body_of("replicate", "a")).encode(), {"Prefer": "wait=1"}, path=PATHS["replicate"]
            )
            wait_until(lambda: held.waiting() == 0)
        detail = "the prediction did not end within 1 s; this gateway has several processes and keeps no predictions"
        assert (late.status, late.json()["detail"]) == (504, detail)
