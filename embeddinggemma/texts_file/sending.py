"""The file of vectors to its caller: within the answer, or to a URL that the caller has named."""

import base64
import threading
from http import HTTPStatus
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import requests

MAX_INLINE = 32_000_000
"""Bytes of a file within an answer. Cog's server reads it there several times: a file of this size keeps a short text
waiting for some 0.2 s and takes 0.3 GB in each of its two processes; of four times the size, 0.6 s and up to 1 GB."""
_TIMEOUT = 60.0  # seconds without a byte
_PAUSES = (1.0, 5.0, 0.0)  # seconds after each try that failed
_TEMPORARY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)  # besides those from 500 on


class UploadError(Exception):
    """The file could not be stored where the caller wants it; the message shows no secret part of the URL."""


def data_uri(path: Path) -> str:
    """Return a file as a data URI.

    Cog's server would make one of a path, too, but with Python's lock in its hands for twice as long.
    """
    return f"data:application/octet-stream;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def upload(path: Path, url: str, stopped: threading.Event) -> None:
    """Store a file by PUT.

    Args:
        path: the file, which is read piece by piece.
        url: often signed, so only its host is ever shown.
        stopped: ends the upload when it is set.

    Raises:
        UploadError: the server refuses it, or cannot be reached, three times; or it was stopped.

    """
    reason = ""
    for pause in _PAUSES:
        try:
            with path.open("rb") as file:
                status = _put(url, _Body(file, path.stat().st_size, stopped))
        except requests.RequestException as error:  # its text may hold the URL
            reason = f"cannot be reached ({type(error).__name__})"
        else:
            if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
                return
            reason = f"answered HTTP {status}"
            if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _TEMPORARY:
                break
        stopped.wait(pause)
    raise UploadError(f"upload_url: {urlsplit(url).hostname} {reason}, so the vectors are not stored")


def _put(url: str, body: "_Body") -> int:
    headers = {"Content-Type": "application/octet-stream"}
    answer = requests.put(url, data=body, headers=headers, allow_redirects=False, timeout=_TIMEOUT, stream=True)
    answer.close()
    return answer.status_code


class _Body:
    """A file whose reading can be stopped."""

    def __init__(self, file: IO[bytes], size: int, stopped: threading.Event) -> None:
        self._file, self._size, self._stopped = file, size, stopped

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        if self._stopped.is_set():
            raise UploadError("upload_url: the upload was stopped")
        return self._file.read(size)
