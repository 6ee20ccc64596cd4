"""Several containers behind one gateway: who gets a request, and what if one starts, breaks, freezes or dies."""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.core import containers
from tests.support.breaking_predictor import BREAKS_AT
from tests.support.doors import PATHS, body_of, message_of
from tests.support.gateways import Figures, figures, gateway_to, served
from tests.support.servers import HeldServer, RunningServer, held_server, running_server
from tools.client import Answer, Client, request_bytes, wait_until
from tools.reference_model import warm_cache
from tools.server import start_server, wait_until_ready

SLOTS = 64


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the containers more often than in use."""
    monkeypatch.setattr(containers, "_CHECK_SECONDS", 0.1)


@pytest.fixture(scope="module")
def new_container(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], HeldServer]]:
    """Start a container that a test may harm."""
    with ExitStack() as stack:

        def start() -> HeldServer:
            folder = tmp_path_factory.mktemp("container")
            return stack.enter_context(held_server(folder, warm_cache(small_model, folder / "cache"), slots=SLOTS))

        yield start


@pytest.fixture(scope="module")
def second(new_container: Callable[[], HeldServer]) -> HeldServer:
    """A container besides `held`; no test of this file ends it."""
    return new_container()


def gateway_before(*urls: str, **changes: Any) -> Any:
    return served(gateway_to(*urls, hosts=("127.0.0.1",), **changes))


def embed(gateway: Client, text: str = "a") -> Answer:
    return gateway.send(json.dumps(body_of("tei", text)).encode(), path="/embed")


def figures_of(gateway: Client) -> Figures:
    return figures(gateway.send(method="GET", path="/metrics").text)


def is_waiting(gateway: Client, count: int) -> bool:
    """Return whether this many requests wait for a place."""
    return figures_of(gateway).of("gateway_requests_waiting") == count


def is_up(gateway: Client, container: str) -> bool:
    return figures_of(gateway).of("gateway_container_up", container=container) == 1


def check_vectors(answers: Sequence[Answer], texts: Sequence[str], container: Client) -> None:
    """Check that each answer is the vector of its text, as a container gives it."""
    assert [answer.status for answer in answers] == [200] * len(texts), [answer.text[:200] for answer in answers]
    given = np.array([answer.json()[0] for answer in answers], np.float32)
    alone = [base64.b64decode(container.embedding(text=text, task="none")) for text in texts]
    expected = np.array([np.frombuffer(vector, "<f4") for vector in alone])
    assert np.abs(given - expected).max() < 1e-5  # its last bits depend on the batch


@contextmanager
def sent(gateway: Client, texts: Sequence[str]) -> Iterator[list["Future[Answer]"]]:
    """Send the texts at once, one a request."""
    with ThreadPoolExecutor(len(texts)) as threads:
        yield [threads.submit(embed, gateway, text) for text in texts]


def test_a_request_goes_where_the_fewest_tokens_are(held: HeldServer, second: HeldServer) -> None:
    with gateway_before(held.url, second.url) as gateway, held.held(), second.held(), ExitStack() as stack:
        before = held.begun(), second.begun()

        def begun() -> tuple[int, int]:
            return held.begun() - before[0], second.begun() - before[1]

        stack.enter_context(sent(gateway, ["word " * 400]))
        wait_until(lambda: begun() == (1, 0))
        for _ in range(10):
            all_before = sum(begun())
            stack.enter_context(sent(gateway, ["word " * 30]))
            wait_until(lambda: sum(begun()) > all_before)  # noqa: B023 - it ends within the turn
        assert begun() == (1, 10)
        stack.enter_context(sent(gateway, ["word " * 400]))
        wait_until(lambda: begun() == (1, 11))
        stack.enter_context(sent(gateway, ["a"]))
        wait_until(lambda: begun() == (2, 11))
        held.release()
        second.release()


def test_a_request_goes_elsewhere_if_others_have_taken_every_slot(held: HeldServer, second: HeldServer) -> None:
    with gateway_before(second.url, held.url) as gateway, second.held():
        taken = second.fill_slots(SLOTS, request_bytes({"text": "a"}))
        assert [embed(gateway).status for _ in range(3)] == [200] * 3
        second.drop(taken)


def test_requests_that_wait_have_their_turn_in_order(held: HeldServer) -> None:
    texts = [f"text {number}" for number in range(8)]
    with gateway_before(held.url, max_at_once=1) as gateway, ExitStack() as stack:
        answered: list[str] = []

        def note(text: str, _: "Future[Answer]") -> None:
            answered.append(text)

        with held.held():
            for count, text in enumerate(texts):
                [asked] = stack.enter_context(sent(gateway, [text]))
                asked.add_done_callback(partial(note, text))
                wait_until(partial(is_waiting, gateway, count))
        stack.close()
    assert answered == texts


def test_what_a_killed_container_had_is_answered_by_another(
    held: HeldServer, new_container: Callable[[], HeldServer]
) -> None:
    dying = new_container()
    texts = [f"text {number}" for number in range(30)]
    half = len(texts) // 2
    with gateway_before(dying.url, held.url, max_at_once=half, max_waiting=0) as gateway:
        begun = held.begun()
        with held.held(), dying.held(), sent(gateway, texts) as asked:
            wait_until(lambda: (dying.waiting(), held.waiting()) == (half, half))
            dying.kill()
            wait_until(lambda: is_waiting(gateway, half))  # beyond the queue's limit
            assert not is_up(gateway, dying.url)
            held.release()
            answers = [request.result() for request in asked]
        assert held.begun() == begun + len(texts)  # each once
        check_vectors(answers, texts, held)


def test_what_a_container_had_that_lost_its_worker_is_answered_by_another(
    held: HeldServer, new_container: Callable[[], HeldServer]
) -> None:
    dying = new_container()
    with gateway_before(dying.url, held.url) as gateway:
        with dying.held(), sent(gateway, ["one"]) as [asked]:
            wait_until(lambda: dying.waiting() == 1)
            dying.worker.kill()
            check_vectors([asked.result()], ["one"], held)
        assert not is_up(gateway, dying.url)
        assert embed(gateway).status == 200


def test_what_a_frozen_container_had_is_answered_by_another(
    held: HeldServer, second: HeldServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "_SILENT_SECONDS", 1.0)
    with gateway_before(second.url, held.url) as gateway:
        with second.held(), sent(gateway, ["one"]) as [asked]:
            wait_until(lambda: second.waiting() == 1)
            with second.frozen():
                check_vectors([asked.result()], ["one"], held)
                assert not is_up(gateway, second.url)
        wait_until(lambda: is_up(gateway, second.url))
        wait_until(lambda: second.waiting() == 0)


def test_what_a_frozen_container_had_is_answered_by_another_even_if_it_was_taken_out(
    held: HeldServer, second: HeldServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "_SILENT_SECONDS", 1.0)
    file = tmp_path / "containers"
    file.write_text(second.url)
    with gateway_before(containers_file=str(file)) as gateway, second.held(), sent(gateway, ["one"]) as [asked]:
        wait_until(lambda: second.waiting() == 1)
        with second.frozen():
            file.write_text(held.url)
            check_vectors([asked.result()], ["one"], held)
    wait_until(lambda: second.waiting() == 0)


def test_a_broken_container_is_left_out_until_it_is_started_anew(
    server: RunningServer, variables: dict[str, str], tmp_path: Path
) -> None:
    breaks = " ".join(["word"] * (BREAKS_AT - 2))
    assert server.predict(text=breaks, task="none")["tokens"] == [BREAKS_AT]
    changes, predictor = variables | {"BREAKS": "not finite"}, "tests/support/breaking_predictor.py:Predictor"
    with running_server(changes, tmp_path / "log", slots=16, predictor=predictor) as (process, url):
        wait_until_ready(process, url)
        port = Client(url).port
        with gateway_before(url, server.url) as gateway:
            assert is_up(gateway, url)
            answers = [embed(gateway, breaks + " word" * more) for more in range(3)]
            check_vectors(answers, [breaks + " word" * more for more in range(3)], server)
            assert not is_up(gateway, url)
            assert embed(gateway).status == 200
            process.terminate()
            process.wait()
            with (tmp_path / "new log").open("wb") as log:
                anew = start_server(port, variables, slots=16, log=log)
            try:
                wait_until(lambda: is_up(gateway, url))
                assert embed(gateway).status == 200
            finally:
                anew.terminate()
                anew.wait()


def test_a_container_that_starts_gets_nothing_until_it_is_ready(tmp_path: Path, variables: dict[str, str]) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    changes = variables | {"HELD_GATE": str(gate), "HELD_EVENTS": str(tmp_path / "events")}
    predictor = "tests/support/held_predictor.py:Predictor"
    with (
        running_server(changes, tmp_path / "log", slots=4, predictor=predictor) as (_, url),
        gateway_before(url) as gateway,
    ):
        wait_until(lambda: "STARTING" in embed(gateway).text)
        refused = embed(gateway)
        assert (refused.status, refused.json()["error"]) == (503, f"no container can answer: {url} (STARTING)")
        health = gateway.send(method="GET", path="/health")
        assert (health.status, message_of("tei", health.json())) == (503, "no container can answer")
        gate.unlink()
        wait_until(lambda: gateway.send(method="GET", path="/health").status == 200)
        assert embed(gateway).status == 200


@pytest.mark.parametrize("door", PATHS)
def test_without_a_container_every_door_says_why(door: str) -> None:
    urls = ["http://127.0.0.1:9", "http://127.0.0.1:10"]
    with gateway_before(*urls) as gateway:
        refused = gateway.send(json.dumps(body_of(door, "a")).encode(), path=PATHS[door])
        reasons = ", ".join(f"{url} (it does not answer: ClientConnectorError)" for url in urls)
        assert refused.status == 503
        assert message_of(door, refused.json()) == f"no container can answer: {reasons}"
        with gateway.open(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n") as connection:
            head = connection.recv(1000)
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 2\r\n" in head


def test_requests_that_wait_for_a_container_that_dies_are_told(new_container: Callable[[], HeldServer]) -> None:
    dying = new_container()
    with gateway_before(dying.url, max_at_once=1) as gateway, dying.held():
        with sent(gateway, ["one", "two", "three"]) as asked:
            wait_until(lambda: dying.waiting() == 1)
            wait_until(lambda: is_waiting(gateway, 2))
            dying.kill()
            answers = [request.result() for request in asked]
        assert [answer.status for answer in answers] == [503] * 3
        assert all("no container can answer" in answer.json()["error"] for answer in answers)
        assert is_waiting(gateway, 0)
        assert figures_of(gateway).of("gateway_requests_in_containers") == 0


def test_containers_come_and_go_by_the_file(
    held: HeldServer, second: HeldServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "containers"

    def write(content: str) -> None:
        new = tmp_path / "new"
        new.write_text(content)
        new.rename(file)

    def known(gateway: Client) -> set[str]:
        return {dict(labels)["container"] for name, labels in figures_of(gateway) if name == "gateway_container_up"}

    def is_in(log: pytest.LogCaptureFixture, words: str) -> bool:
        return words in log.text

    write(f"# the first one\n{held.url}/  # here\n\n")
    with gateway_before(containers_file=str(file)) as gateway:
        assert known(gateway) == {held.url}
        with held.held(), sent(gateway, ["one"]) as [asked]:
            wait_until(lambda: held.waiting() == 1)
            write(second.url)
            wait_until(lambda: known(gateway) == {second.url})
            assert embed(gateway).status == 200  # while the other one is held
            assert not asked.done()
            held.release()
            assert asked.result().status == 200  # what it had is ended
        for content, words in (
            (f"{held.url}\nnonsense", "line 2: a container is 'nonsense'"),
            ("# none", "names none"),
            (None, "No such file"),
        ):
            if content is None:
                file.unlink()
            else:
                write(content)
            wait_until(partial(is_in, caplog, words))
            assert known(gateway) == {second.url}
            assert embed(gateway).status == 200
        assert caplog.text.count("No such file") == 1
        write(f"{held.url}\n{second.url}\n{held.url}\n")
        wait_until(lambda: is_up(gateway, held.url) and is_up(gateway, second.url))
