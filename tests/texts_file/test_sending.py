"""A file of vectors to where its caller wants it."""

import base64
import threading
from pathlib import Path

import pytest

from embeddinggemma.texts_file import sending
from embeddinggemma.texts_file.sending import UploadError, data_uri, upload
from tests.support.upload_store import upload_store
from tools.server import free_port

CONTENT = bytes(range(256)) * 5000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "vectors").write_bytes(CONTENT)
    return tmp_path / "vectors"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing between two tries."""
    monkeypatch.setattr(sending, "_PAUSES", (0.0, 0.0, 0.0))


def test_a_data_uri_holds_the_file(path: Path) -> None:
    head, _, encoded = data_uri(path).partition(",")
    assert head == "data:application/octet-stream;base64"
    assert base64.b64decode(encoded) == CONTENT


def test_an_upload_is_one_put_of_the_whole_file(path: Path) -> None:
    with upload_store(201) as (url, taken):
        upload(path, f"{url}/vectors.npy?signature=abc", threading.Event())
    assert taken == [("PUT", "/vectors.npy?signature=abc", CONTENT)]


@pytest.mark.parametrize("statuses", [(503, 200), (429, 500, 204)])
def test_a_server_that_is_ill_for_a_moment_is_asked_again(path: Path, statuses: tuple[int, ...]) -> None:
    with upload_store(*statuses) as (url, taken):
        upload(path, url, threading.Event())
    assert [body for _, _, body in taken] == [CONTENT] * len(statuses)


@pytest.mark.parametrize(("status", "tries"), [(403, 1), (307, 1), (500, 3)])
def test_a_refusal_is_an_error_that_does_not_show_the_signature(path: Path, status: int, tries: int) -> None:
    with (
        upload_store(status, location="http://127.0.0.1:1/elsewhere") as (url, taken),
        pytest.raises(UploadError) as refused,
    ):
        upload(path, f"{url}/vectors.npy?signature=abc", threading.Event())
    assert str(refused.value) == f"upload_url: 127.0.0.1 answered HTTP {status}, so the vectors are not stored"
    assert len(taken) == tries


def test_a_server_that_is_not_there_is_an_error_that_does_not_show_the_signature(path: Path) -> None:
    with pytest.raises(UploadError) as failed:
        upload(path, f"http://127.0.0.1:{free_port()}/a?signature=abc", threading.Event())
    assert str(failed.value) == (
        "upload_url: 127.0.0.1 cannot be reached (ConnectionError), so the vectors are not stored"
    )


def test_an_upload_can_be_stopped(path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    with upload_store(200) as (url, taken), pytest.raises(UploadError, match="the upload was stopped"):
        upload(path, url, stopped)
    assert CONTENT not in [body for _, _, body in taken]
