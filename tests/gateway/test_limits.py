"""What the gateway takes: sizes, queues, slow senders, heads, and bodies that are not JSON by the letter."""

import http.client
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import protocol
from gateway.doors import predictions
from predict import Predictor
from tests.support.doors import PATHS, body_of, message_of
from tests.support.gateways import RunningGateway, gateway_process, gateway_to, served
from tests.support.servers import HeldServer, RunningServer
from tools.client import JSON, Answer, Client, readable, request_bytes, wait_until

MAX_BODY, MAX_TEXTS = 100_000, 3
MAX_HEAD = 65_536
SITE = "https://chat.example"
SLOTS = Predictor.predict.__cog_concurrent_max__
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=9), children, max_size=4),
    max_leaves=20,
)
FIELDS = {
    "openai": ["model", "input", "dimensions", "encoding_format", "task", "input_type", "title", "truncate", "user"],
    "tei": ["inputs", "normalize", "truncate", "prompt_name", "dimensions", "truncation_direction"],
    "ollama": ["model", "input", "truncate", "dimensions", "options", "keep_alive", "name", "prompt"],
    "replicate": ["input", "version", "webhook", "webhook_events_filter", "stream"],
    "cog": ["input", "id", "webhook", "webhook_events_filter", "context", "created_at"],
}
NOT_JSON = {
    "nothing": b"",
    "half": b'{"input": "a"',
    "more behind it": b'{"input": "a"} {}',
    "a comma at the end": b'{"input": "a",}',
    "NaN": b'{"input": NaN}',
    "Infinity": b'{"input": -Infinity}',
    "1e999": b'{"input": 1e999}',
    "a comment": b'{"input": "a"} // b',
    "single quotes": b"{'input': 'a'}",
    "a byte order mark": b'\xef\xbb\xbf{"input": "a"}',
    "UTF-16": '{"input": "a"}'.encode("utf-16"),
    "bytes that are not UTF-8": b'{"input": "\xff\xfe"}',
    "a control character": b'{"input": "a\nb"}',
    "1,500 lists": b'{"input": ' + b"[" * 1500 + b"]" * 1500 + b"}",
}


@pytest.fixture(scope="module")
def gateway(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with small limits."""
    options = ["--container", server.url, "--max-body", str(MAX_BODY), "--max-texts", str(MAX_TEXTS)]
    with gateway_process(tmp_path_factory.mktemp("limits"), *options) as started:
        yield started


def post(gateway: Client, door: str, body: Any) -> Answer:
    return gateway.send(body if isinstance(body, bytes) else json.dumps(body).encode(), path=PATHS[door])


def is_answered(gateway: Client, door: str = "openai") -> bool:
    return post(gateway, door, body_of(door, "a")).status in (200, 201)


def head(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode()


def answer_of(connection: socket.socket) -> tuple[int, bytes]:
    """Return the status and the body of the next answer."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


@pytest.mark.parametrize("door", PATHS)
def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(gateway: RunningGateway, door: str) -> None:
    with gateway.open(head(PATHS[door], f"Content-Length: {MAX_BODY + 1}")) as connection:
        status, body = answer_of(connection)
    assert status == 413
    message = "the body has more than 100,000 bytes, the limit; send several requests"
    assert message_of(door, json.loads(body)) == message


@pytest.mark.parametrize("door", PATHS)
def test_a_body_in_chunks_is_refused_once_it_is_too_large(gateway: RunningGateway, door: str) -> None:
    chunk = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    with gateway.open(head(PATHS[door], "Transfer-Encoding: chunked"), *[chunk] * 10) as connection:
        assert not readable([connection], 0.1)
        connection.sendall(chunk)
        assert answer_of(connection)[0] == 413


def test_a_client_that_sends_all_of_a_large_body_sees_why_it_is_refused(gateway: RunningGateway) -> None:
    answer = post(gateway, "openai", b" " * 30_000_000)
    assert (answer.status, answer.json()["error"]["type"]) == (413, "invalid_request_error")
    assert is_answered(gateway)


def test_a_body_of_the_largest_size_is_taken(gateway: RunningGateway) -> None:
    body = json.dumps(body_of("openai", "a")).encode()
    assert post(gateway, "openai", body + b" " * (MAX_BODY - len(body))).status == 200


@pytest.mark.parametrize("door", ["openai", "tei", "ollama"])
def test_too_many_texts_are_refused(gateway: RunningGateway, door: str) -> None:
    assert post(gateway, door, body_of(door, ["a"] * MAX_TEXTS)).status == 200
    refused = post(gateway, door, body_of(door, ["a"] * (MAX_TEXTS + 1)))
    assert refused.status == 413
    field = "inputs" if door == "tei" else "input"
    message = f"{field} has 4 texts; the limit is 3, so send several requests"
    assert message_of(door, refused.json()) == message


def test_beyond_the_places_requests_wait_and_beyond_the_queue_they_are_refused(held: HeldServer) -> None:
    limits = {"max_at_once": 1, "max_waiting": 1}
    with served(gateway_to(held.url, hosts=("127.0.0.1",), origins=(SITE,), **limits)) as gateway:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(post(gateway, "tei", body_of("tei", "a")).status))
            for _ in range(2)
        ]
        with held.held():
            threads[0].start()
            wait_until(lambda: held.waiting() == 1)
            threads[1].start()
            wait_until(lambda: "gateway_requests_waiting 1.0" in gateway.send(method="GET", path="/metrics").text)
            for door, path in PATHS.items():
                with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=600)) as connection:
                    connection.request("POST", path, json.dumps(body_of(door, "a")), JSON | {"Origin": SITE})
                    refused = connection.getresponse()
                    assert (refused.status, refused.headers["Retry-After"]) == (429, "1"), door
                    assert refused.headers["Access-Control-Allow-Origin"] == SITE
                    message = message_of(door, json.loads(refused.read()))
                    assert message == "1 requests are waiting; the limit is reached"
            for path in ("/health", "/health-check", "/openapi.json", "/v1/models", "/metrics"):
                assert gateway.send(method="GET", path=path).status == 200, path
        for thread in threads:
            thread.join()
    assert statuses == [200, 200]


def test_slots_that_others_have_taken_are_429_and_never_409(held: HeldServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "QUEUE_SECONDS", 0.1)
    with served(gateway_to(held.url, hosts=("127.0.0.1",))) as gateway:
        with held.held():
            taken = held.fill_slots(SLOTS, request_bytes({"text": "a"}))
            for door in ("openai", "replicate"):
                body = json.dumps(body_of(door, "a")).encode()
                refused = gateway.send(body, JSON | {"Prefer": "wait"}, path=PATHS[door])
                assert refused.status == 429, refused.text
                message = "every slot of the containers is taken; ask again later"
                assert message_of(door, refused.json()) == message
            held.drop(taken)
        assert is_answered(gateway)


def test_slow_senders_take_no_place(server: RunningServer) -> None:
    body = json.dumps(body_of("openai", "a byte at a time")).encode()
    whole = head(PATHS["openai"], f"Content-Length: {len(body)}") + body
    with served(gateway_to(server.url, hosts=("127.0.0.1",), max_at_once=1)) as gateway:
        slow = [gateway.open(whole[:20]) for _ in range(20)]
        for position in range(20, len(whole)):
            for connection in slow:
                connection.sendall(whole[position : position + 1])
            if position % 50 == 0:
                assert is_answered(gateway)
        for connection in slow:
            assert answer_of(connection)[0] == 200
            connection.close()


def test_a_request_that_does_not_arrive_is_cut(held: HeldServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "ARRIVAL_SECONDS", 0.5)
    with served(gateway_to(held.url, hosts=("127.0.0.1",))) as gateway:
        stuck = [
            gateway.open(),
            gateway.open(b"POST /v1/emb"),
            gateway.open(head(PATHS["openai"], "Content-Length: 100")),
            gateway.open(head(PATHS["openai"], "Transfer-Encoding: chunked"), b"1\r\n{\r\n"),
            gateway.open(head(PATHS["openai"], "Content-Length: 40000000"), b"{"),
        ]
        assert answer_of(stuck[4])[0] == 413
        for connection in stuck:
            assert connection.recv(1) == b""
            connection.close()
        with held.held():
            body = json.dumps(body_of("openai", "a")).encode()
            waiting = gateway.open(head(PATHS["openai"], f"Content-Length: {len(body)}") + body)
            late = gateway.open()
            assert late.recv(1) == b""  # by then the other one has waited as long for its answer
            late.close()
        assert answer_of(waiting)[0] == 200
        waiting.close()


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /" + b"a" * MAX_HEAD * 40,
        b"GET / HTTP/1.1\r\nX-Long: " + b"a" * MAX_HEAD * 40,
        b"GET / HTTP/1.1\r\n" + b"X-Short: a\r\n" * MAX_HEAD,
        head("/embed", "Transfer-Encoding: chunked") + b"0\r\n" + b"X-Trailer: a\r\n" * MAX_HEAD,
    ],
)
def test_a_head_of_any_length_is_refused(gateway: RunningGateway, endless: bytes) -> None:
    with gateway.open() as connection:
        received = b""
        try:
            connection.sendall(endless)
            received = connection.recv(1000)
        except ConnectionError:
            pass  # it was closed with a part of the head unread
        assert not received or b"HTTP/1.1 400" in received
    assert is_answered(gateway)


def test_a_long_url_is_taken_below_the_limit(gateway: RunningGateway) -> None:
    assert gateway.send(method="GET", path="/v1/models?" + "a" * 30_000).status == 200
    assert gateway.send(method="GET", path="/v1/models/" + "a" * 30_000).status == 404


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_an_offer_of_another_protocol_is_declined_and_the_body_kept(gateway: RunningGateway, step: int) -> None:
    """Java's HTTP client offers HTTP/2 with its first request on a connection."""
    body = json.dumps(body_of("openai", "a")).encode()
    offer = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA"]
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    requests = [
        head(PATHS["openai"], *offer, f"Content-Length: {len(body)}") + body,
        head(PATHS["openai"], *offer, "Transfer-Encoding: chunked") + chunked,
        head(PATHS["openai"], f"Content-Length: {len(body)}") + body,
    ]
    with gateway.open() as connection:
        answers = []
        for sent in requests:
            for start in range(0, len(sent), step):
                connection.sendall(sent[start : start + step])
            answers.append(answer_of(connection))
    assert [status for status, _ in answers] == [200] * 3
    assert len({body for _, body in answers}) == 1


def test_a_websocket_and_a_tunnel_are_refused(gateway: RunningGateway) -> None:
    websocket = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: AAAA", "Sec-WebSocket-Version: 13"]
    with gateway.open(head("/secret", *websocket, "Content-Length: 0")) as connection:
        assert answer_of(connection)[0] == 404
    with gateway.open(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n") as connection:
        assert answer_of(connection)[0] == 400
    assert "secret" not in gateway.log


@pytest.mark.parametrize("door", PATHS)
@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_not_json_by_the_letter_is_refused(gateway: RunningGateway, door: str, name: str) -> None:
    refused = post(gateway, door, NOT_JSON[name])
    assert refused.status == 400
    assert message_of(door, refused.json()).startswith("the body is not JSON: ")


SURROGATES = {
    "an encoded surrogate": b'{"input": "\xed\xa0\x80"}',
    "a high surrogate alone": b'{"input": "\\ud800"}',
    "surrogates in the wrong order": b'{"input": "\\ude00\\ud83d"}',
}


@pytest.mark.parametrize("door", PATHS)
@pytest.mark.parametrize("name", SURROGATES)
def test_a_lone_surrogate_is_refused_with_its_field(gateway: RunningGateway, door: str, name: str) -> None:
    refused = post(gateway, door, SURROGATES[name])
    assert refused.status == 400
    assert message_of(door, refused.json()) == "input has a lone surrogate; send valid Unicode"


@pytest.mark.parametrize("door", PATHS)
def test_a_body_must_be_an_object_of_few_levels(gateway: RunningGateway, door: str) -> None:
    for body in (b"[]", b'"a"', b"null", b"5"):
        refused = post(gateway, door, body)
        assert (refused.status, message_of(door, refused.json())) == (400, "the body is not a JSON object")
    for levels in (100, 300, 1000):
        for field in FIELDS[door]:
            body = b'{"%b": %b}' % (field.encode(), b"[" * levels + b"]" * levels)
            refused = post(gateway, door, body)
            assert refused.status == 400
            message = "the body has more than 100 levels of lists and objects, the limit"
            assert message_of(door, refused.json()) == message


@pytest.mark.parametrize("door", ["openai", "tei", "ollama"])
def test_of_a_key_that_comes_twice_the_last_one_counts(gateway: RunningGateway, door: str) -> None:
    field = "inputs" if door == "tei" else "input"
    body = json.dumps(body_of(door, "one")).replace(f'"{field}"', f'"{field}": "two", "{field}"')
    one, twice = (post(gateway, door, sent) for sent in (body_of(door, "one"), body.encode()))
    assert [answer.status for answer in (one, twice)] == [200, 200]
    assert vectors_of(one) == vectors_of(twice)


def vectors_of(answer: Answer) -> Any:
    found = answer.json()
    return found if isinstance(found, list) else found.get("data") or found["embeddings"]


@pytest.mark.parametrize("door", PATHS)
def test_any_json_gets_an_answer_or_a_reason(gateway: RunningGateway, door: str, full: bool) -> None:
    fields = st.dictionaries(st.sampled_from(FIELDS[door]), ANY_JSON, max_size=5)
    near = fields.map(lambda others: {**body_of(door, "a"), **others})
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=1000 if full else 100,
        derandomize=not full,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(body=near | fields | ANY_JSON)
    def ask(body: Any) -> None:
        answer = post(gateway, door, body)
        statuses[answer.status] += 1
        assert answer.status in (200, 201, 400, 404, 413, 422), answer.text
        if answer.status >= 400 and answer.body.startswith(b"{"):
            message_of(door, answer.json())

    ask()
    assert statuses[400]
    assert statuses[200] + statuses[201]


@pytest.mark.parametrize("wait", ["wait=" + "9" * 5000, "wait=-1", "wait=0", "wait=", "wait=\xb2", "waiting"])
def test_any_preference_is_understood_or_left_out(gateway: RunningGateway, wait: str) -> None:
    body = json.dumps(body_of("replicate", "a")).encode()
    assert gateway.send(body, {"Prefer": wait}, path=PATHS["replicate"]).status == 201
