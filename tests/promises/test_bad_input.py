"""Bad input never crashes the worker, changes another answer, or gets into a log."""

import base64
import json
import re
import socket
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok

from tests.support.texts import HOSTILE
from tools.client import JSON, readable, request_bytes
from tools.evidence import Evidence
from tools.observed_server import MARKER, ObservedServer

PROMISE = "Bad input never crashes the worker, changes another answer, or gets into a log"
CHOICES = {
    "task": st.sampled_from(["retrieval_document", "retrieval_query", "clustering"]),
    "embedding_dim": st.sampled_from([768, 512, 256, 128]),
}
"""Inputs that are sent with every hostile text."""
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=9), children, max_size=4),
    max_leaves=20,
)
FIELDS = ["text", "texts", "task", "title", "embedding_dim", "normalize", "output_format", "output_dtype", "other"]

# JSON that no JSON writer writes, and the status of each answer. If it is 200, the prediction must fail, except for
# the bodies in ANSWERED.
ODD_BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "half an object": (b'{"input": {"text": "MARKER"', 400),
    "something behind it": (b'{"input": {"text": "MARKER"}} {}', 400),
    "NaN": (b'{"input": {"text": "MARKER", "embedding_dim": NaN}}', 400),
    "-Infinity": (b'{"input": {"text": "MARKER", "embedding_dim": -Infinity}}', 400),
    "1e999": (b'{"input": {"text": "MARKER", "embedding_dim": 1e999}}', 400),
    "a number of 400 digits": (b'{"input": {"text": "MARKER", "embedding_dim": ' + b"9" * 400 + b"}}", 400),
    "2 to the power of 63": (b'{"input": {"text": "MARKER", "embedding_dim": 9223372036854775808}}', 422),
    "a fraction": (b'{"input": {"text": "MARKER", "embedding_dim": 128.5}}', 422),
    "a boolean as a number": (b'{"input": {"text": "MARKER", "embedding_dim": true}}', 422),
    "a high surrogate alone": (b'{"input": {"text": "MARKER \\ud800"}}', 400),
    "a low surrogate alone": (b'{"input": {"text": "MARKER \\udfff"}}', 400),
    "surrogates in the wrong order": (b'{"input": {"text": "MARKER \\ude00\\ud83d"}}', 400),
    "bytes that are not UTF-8": (b'{"input": {"text": "MARKER \xff\xfe"}}', 400),
    "UTF-16": ('{"input": {"text": "MARKER"}}'.encode("utf-16"), 400),
    "a byte order mark": (b'\xef\xbb\xbf{"input": {"text": "MARKER"}}', 400),
    "200 arrays deep": (b'{"input": {"text": ' + b"[" * 200 + b'"MARKER"' + b"]" * 200 + b"}}", 400),
    "100,000 objects deep": (b'{"input": ' + b'{"MARKER":' * 100_000 + b"1" + b"}" * 100_000 + b"}", 400),
    "an array for an input": (b'{"input": ["MARKER"]}', 422),
    "an array for a body": (b'["MARKER"]', 422),
    "null for a text": (b'{"input": {"text": null, "title": "MARKER"}}', 422),
    "a key twice": (b'{"input": {"text": "MARKER one", "text": "MARKER two"}}', 200),
    "an unknown key": (b'{"input": {"text": "MARKER", "other": "MARKER"}}', 200),
    "128.0 for 128": (b'{"input": {"text": "MARKER", "embedding_dim": 128.0}}', 200),
    "NUL": (b'{"input": {"text": "MARKER \\u0000 MARKER"}}', 200),
    "100,000 tiny texts": (json.dumps({"input": {"texts": ["MARKER"] * 100_000}}).encode(), 200),
}
ANSWERED = {"a key twice", "an unknown key", "128.0 for 128", "NUL"}


WRONG_BEGINNINGS = [
    b"\x00\x01\x02\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /predictions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nX-Long: " + MARKER.encode() * 50_000 + b"\r\n\r\n",
]


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _unharmed(unharmed: None) -> None:
    """Check the server after each test of this file."""


def _fuzz(full: bool, examples: int) -> settings:
    """Return hypothesis's settings: the same examples in each sampled run; new ones, and ten times as many, in full."""
    return settings(
        max_examples=examples * 10 if full else examples,
        derandomize=not full,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def _is_unit_vector(output: dict[str, Any]) -> bool:
    vectors = np.frombuffer(base64.b64decode(output["embedding"]), "<f4").reshape(output["shape"])
    return bool(np.abs(np.linalg.norm(vectors, axis=-1) - 1).max() < 1e-5)


def _first_words(container: ObservedServer, sent: bytes) -> bytes:
    """Return the beginning of the answer, or nothing if the server closes the connection before all is sent."""
    try:
        with container.open(sent) as connection:
            return connection.recv(100)
    except ConnectionError:
        return b""


def test_requests_made_from_the_schema(container: ObservedServer, full: bool, evidence: Evidence) -> None:
    api = schemathesis.openapi.from_url(f"{container.url}/openapi.json")
    sent: list[int] = []

    @api.hook
    def map_body(_context: Any, body: Any) -> Any:
        """Put the marker into the texts."""
        inputs = body.get("input") if isinstance(body, dict) else None
        if isinstance(inputs, dict):
            for name in ("text", "title"):
                if isinstance(inputs.get(name), str):
                    inputs[name] += MARKER
        return body

    operations = [found.ok() for found in api.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == 4
    for operation in operations:
        for mode in GenerationMode if operation.body else [GenerationMode.POSITIVE]:

            @_fuzz(full, 60)
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case[Any]) -> None:
                response = case.call(timeout=60)
                sent.append(response.status_code)
                case.validate_response(response, checks=[not_a_server_error])
                if response.status_code == 200 and case.path == "/predictions":
                    assert response.json()["status"] in ("succeeded", "failed")

            ask()
    assert {200, 422} <= set(sent)
    figure = f"{len(sent):,} requests, no answer of 500 or above"
    evidence.record(PROMISE, "schemathesis, valid and invalid requests from the server's own /openapi.json", figure)


def test_hostile_texts_get_a_vector(container: ObservedServer, full: bool, evidence: Evidence) -> None:
    sent = 0

    @_fuzz(full, 150)
    @given(
        texts=st.lists(HOSTILE, min_size=1, max_size=4), others=st.fixed_dictionaries(CHOICES), ascii_only=st.booleans()
    )
    def ask(texts: list[str], others: dict[str, Any], ascii_only: bool) -> None:
        nonlocal sent
        sent += 1
        inputs = {"texts": [MARKER + text for text in texts], **others}
        answer = container.send(json.dumps({"input": inputs}, ensure_ascii=ascii_only).encode())
        assert answer.json()["status"] == "succeeded"
        output = answer.json()["output"]
        assert output["shape"] == [len(texts), others["embedding_dim"]]
        assert _is_unit_vector(output)

    ask()
    how = "hypothesis: control characters, NUL, every plane of Unicode, right-to-left and combining runs"
    evidence.record(PROMISE, how, f"{sent:,} requests, each answered with unit vectors")


def test_inputs_of_any_shape(container: ObservedServer, full: bool, evidence: Evidence) -> None:
    statuses: list[int] = []

    @_fuzz(full, 150)
    @given(inputs=st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=4) | ANY_JSON)
    def ask(inputs: Any) -> None:
        statuses.append(container.send(json.dumps({"input": inputs, "id": "any"}).encode()).status)
        assert statuses[-1] in (200, 400, 422)

    ask()
    evidence.record(
        PROMISE,
        "hypothesis: any JSON instead of an input",
        f"{len(statuses):,} requests, each answered with a reason",
    )


def test_bodies_of_any_bytes(container: ObservedServer, full: bool, evidence: Evidence) -> None:
    statuses: list[int] = []

    @_fuzz(full, 150)
    @given(body=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
    def ask(body: bytes) -> None:
        statuses.append(container.send(body).status)
        assert statuses[-1] in (400, 422)

    ask()
    evidence.record(PROMISE, "hypothesis: any bytes as the body", f"{len(statuses):,} requests, each refused")


def test_odd_json_is_refused_or_has_one_meaning(container: ObservedServer, evidence: Evidence) -> None:
    for name, (body, status) in ODD_BODIES.items():
        marked = body.replace(b"MARKER", MARKER.encode()).replace(
            "MARKER".encode("utf-16-le"), MARKER.encode("utf-16-le")
        )
        answer = container.send(marked)
        assert answer.status == status, (name, answer.status, answer.body[:300])
        if status == 200:
            assert answer.json()["status"] == ("succeeded" if name in ANSWERED else "failed"), name
        container.check_unharmed()
    refused = container.post(texts=[MARKER] * 100_000).json()
    assert "texts has 100,000 texts; the limit is 1,024" in refused["error"]
    how = "odd JSON: NaN, huge numbers, repeated keys, lone surrogates, 100,000 levels, 100,000 texts, …"
    evidence.record(PROMISE, how, f"{len(ODD_BODIES)} bodies, each answered with the right status")


def test_wrong_methods_types_and_headers(container: ObservedServer, evidence: Evidence) -> None:
    body = json.dumps({"input": {"text": MARKER}}).encode()
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"):
        assert container.send(body, method=method).status == 405, method
    for kind in (
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ):
        assert container.send(body, {"Content-Type": kind}).status == 415, kind
    assert container.send(body, path=f"/{MARKER}").status == 404
    assert container.send(body, JSON | {"X-Long": MARKER * 5_000}).status == 200
    assert container.send(body, JSON | {f"X-{number}": MARKER for number in range(90)}).status == 200
    too_large = request_bytes({"text": MARKER + "x" * 120_000_000})
    for line in [*WRONG_BEGINNINGS, too_large]:
        assert re.match(rb"HTTP/1.[01] 4\d\d|$", _first_words(container, line)), line[:100]
    evidence.record(
        PROMISE,
        "wrong methods, types, paths, request lines, a header of 700 kB, a body of 120 MB",
        "19 requests, each answered with a reason",
    )


def test_texts_of_ten_megabytes(container: ObservedServer, evidence: Evidence) -> None:
    texts = [
        MARKER + " word" * 2_000_000,
        MARKER + "ab" * 5_000_000,
        MARKER + "\u4e00" * 3_400_000,
        MARKER + "\n" * 10_000_000,
    ]
    for text in texts:
        output = container.predict(text=text)
        assert output["truncated"] == [True]
        assert output["tokens"] == [2048]
        assert _is_unit_vector(output)
    evidence.record(
        PROMISE, "texts of 10 MB: words, one word, Chinese, newlines", f"{len(texts)} requests, each answered"
    )


def test_the_largest_request_is_answered(container: ObservedServer, full: bool, evidence: Evidence) -> None:
    count = 1024 if full else 32
    texts = [f"{number} {MARKER} " + "word " * 2100 for number in range(count)]
    answer = container.send(json.dumps({"input": {"texts": texts}}).encode(), timeout=7200)
    output = answer.json()["output"]
    assert output["tokens"] == [2048] * count
    assert output["shape"] == [count, 768]
    assert _is_unit_vector(output)
    seconds = answer.json()["metrics"]["predict_time"]
    evidence.record(PROMISE, "texts of 2,048 tokens in one request, up to 1,024", f"{count:,} texts in {seconds:.0f} s")


def test_half_sent_bodies_take_no_slot(container: ObservedServer, evidence: Evidence) -> None:
    whole = request_bytes({"text": f"{MARKER} " * 100})
    half_sent = [container.open(whole[: len(whole) // 2]) for _ in range(300)]
    assert container.post(text="a whole request").status == 200
    assert not readable(half_sent, 0)
    for number, connection in enumerate(half_sent):
        if number % 2:
            connection.shutdown(socket.SHUT_WR)
        connection.close()
    evidence.record(
        PROMISE, "bodies that are half sent, then left open, then cut", "300 connections, no slot taken by them"
    )


def test_slow_senders_do_not_delay_other_requests(container: ObservedServer, evidence: Evidence) -> None:
    whole = request_bytes({"text": f"{MARKER}, a byte at a time", "embedding_dim": 128})
    slow = [container.open(whole[:-100]) for _ in range(64)]
    for position in range(len(whole) - 100, len(whole)):
        for connection in slow:
            connection.sendall(whole[position : position + 1])
        assert container.post(text="a quick request").status == 200
    for connection in slow:
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        connection.close()
    evidence.record(PROMISE, "slow senders, a byte at a time", "64 senders, 100 other requests answered meanwhile")
