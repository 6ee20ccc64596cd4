"""examples/client.py: vectors for lists of any length, or errors with the reason."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests
from replicate.exceptions import ModelError

import client
from client import MAX_TEXTS, embed
from tests.support.answers import PROXYS_PAGE, answering
from tests.support.servers import RunningServer
from tools.server import free_port

TEXTS = ["Mars is red.", "Venus is hot."]


def test_the_client_gives_the_containers_vectors(server: RunningServer) -> None:
    vectors = embed(TEXTS, "clustering", f"{server.url}/")
    listed = server.predict(texts=TEXTS, task="clustering", output_format="array")["embedding"]
    assert vectors.dtype == np.float32
    assert np.abs(vectors - listed).max() < 1e-5


def test_a_smaller_dimension_can_be_chosen(server: RunningServer) -> None:
    vectors = embed(TEXTS, "clustering", server.url, embedding_dim=128)
    assert vectors.shape == (2, 128)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5


def test_more_texts_than_a_request_may_hold_come_back_in_order(server: RunningServer) -> None:
    texts = [f"text {number}" for number in range(MAX_TEXTS + 3)]
    vectors = embed(texts, "clustering", server.url)
    assert vectors.shape == (MAX_TEXTS + 3, 768)
    for position in (0, MAX_TEXTS - 1, MAX_TEXTS, MAX_TEXTS + 2):
        [alone] = embed([texts[position]], "clustering", server.url)
        assert np.abs(vectors[position] - alone).max() < 1e-5


def test_no_texts_give_no_vectors(server: RunningServer) -> None:
    assert embed([], "clustering", server.url).shape == (0, 768)


def test_the_containers_refusal_is_raised_with_its_words(server: RunningServer) -> None:
    with pytest.raises(RuntimeError, match=r"texts\[1\] is empty; every text needs"):
        embed(["one", " "], "clustering", server.url)
    with pytest.raises(RuntimeError, match="task"):
        embed(["one"], "no such task", server.url)


def test_a_refusal_says_where_its_request_began(server: RunningServer) -> None:
    with pytest.raises(RuntimeError, match=r"texts\[2\] is empty") as refused:
        embed(["one"] * (MAX_TEXTS + 2) + [" "], "clustering", server.url)
    assert refused.value.__notes__ == ["This request began with texts[1024]."]


def test_without_a_container_the_error_names_the_variable() -> None:
    with pytest.raises(ConnectionError, match=r"no container answers at .*EMBEDDINGGEMMA_URL"):
        embed(["one"], "clustering", f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (PROXYS_PAGE, "HTTP 502: <html><h1>Bad gateway</h1></html>"),
        ((200, "text/html", b"<html>Welcome</html>"), "HTTP 200: <html>Welcome</html>"),
        ((404, "text/plain", b""), "HTTP 404: "),
        ((404, "application/json", b'{"message": "no such page"}'), 'HTTP 404: {"message": "no such page"}'),
    ],
)
def test_another_answer_is_raised_with_its_status_and_its_words(answer: tuple[int, str, bytes], message: str) -> None:
    with answering(*answer) as url, pytest.raises(RuntimeError, match=f"^{url} answers {message}"):
        embed(["one"], "clustering", url)


def test_a_container_that_stays_busy_is_an_error_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_RETRIES", client._RETRIES.new(total=2))
    busy = (409, "application/json", b'{"error": "no slot is free"}')
    with answering(*busy) as url, pytest.raises(RuntimeError, match="HTTP 409: no slot is free"):
        embed(["one"], "clustering", url)


def test_a_text_that_is_not_unicode_is_refused_in_the_containers_words(server: RunningServer) -> None:
    with pytest.raises(RuntimeError, match=r"answers HTTP 400: .*input\.texts\[1\]"):
        embed(["one", "\ud800"], "clustering", server.url)


@pytest.mark.parametrize("where", ["localhost:5000", "127.0.0.1:5000", "localhost:5000/x", "example.com/x", "one", ""])
def test_a_place_that_is_no_url_is_not_taken_for_a_models_name(where: str) -> None:
    with pytest.raises(ValueError, match=r" is no URL \(http://\.\.\.\) and no model's name on Replicate"):
        embed(["one"], "clustering", where)


def test_no_proxy_is_asked_for_this_machine(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(*PROXYS_PAGE) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        assert embed(["one"], "clustering", server.url).shape == (1, 768)
        assert embed(["one"], "clustering", server.url.replace("127.0.0.1", "localhost")).shape == (1, 768)
        with pytest.raises(RuntimeError, match="HTTP 502: <html>"):
            embed(["one"], "clustering", "http://container.example:5000")


def _ask(url: str, body: bytes) -> bytes:
    return requests.post(url, body, headers={"Content-Type": "application/json"}, timeout=60).content


@pytest.fixture
def busy_at_first(server: RunningServer) -> Iterator[str]:
    """The URL of a server that answers its first two requests with 409, and sends the others on to the container."""
    refusals = iter([409, 409])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = next(refusals, 200)
            answer = b"{}" if status == 409 else _ask(server.url + self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as busy:
        threading.Thread(target=busy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{busy.server_port}"
        busy.shutdown()
        assert next(refusals, None) is None


def test_a_busy_container_is_asked_again(server: RunningServer, busy_at_first: str) -> None:
    assert np.array_equal(embed(TEXTS, "clustering", busy_at_first), embed(TEXTS, "clustering", server.url))


def test_a_models_name_goes_to_replicate(server: RunningServer, replicate_model: str) -> None:
    vectors = embed(TEXTS, "clustering", replicate_model, embedding_dim=256)
    assert np.abs(vectors - embed(TEXTS, "clustering", server.url, embedding_dim=256)).max() < 1e-5
    with pytest.raises(ModelError, match=r"texts\[1\] is empty"):
        embed(["one", " "], "clustering", replicate_model)
