"""Downloads over HTTP: one connection, resumed where it was cut, with digests computed on the way."""

import hashlib
import logging
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from embeddinggemma.weights.fetching import Download, DownloadError
from embeddinggemma.weights.urls import UnsafeUrlError, check_redirect, scrubbed, shown

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 10.0  # seconds
_WAITS = (0.0, 0.25, 0.5, 1.0, 2.0)  # seconds before each try of a file
_CHUNK = 1 << 20  # bytes read at a time, at most
_MAX_REDIRECTS = 5


class _InterruptedError(Exception):
    """The transfer broke off, and another try may bring the rest."""


class HttpFetcher:
    """HTTP through the library `requests`: one file after the other, digests on the way, resumed where cut off.

    Args:
        stall_seconds: how long no byte may arrive before the transfer is given up.
        token: sent as a bearer token to the downloads' own host, and to no other.

    """

    name = "http"

    def __init__(self, stall_seconds: float, token: str | None = None) -> None:
        self._stall_seconds = stall_seconds
        self._token = token

    def fetch(self, downloads: Sequence[Download]) -> Iterator[tuple[Download, str | None]]:
        """Fetch every file; see Fetcher."""
        with requests.Session() as session:
            for download in downloads:
                yield download, self._fetch_file(session, download)

    def _fetch_file(self, session: requests.Session, download: Download) -> str:
        """Fetch a file, with a limited number of tries, and return its sha256."""
        with download.path.open("wb") as file:
            arrived = _Arrived(file)
            for wait in _WAITS:
                time.sleep(wait)
                try:
                    self._receive(session, download, arrived)
                except _InterruptedError as error:
                    reason = error
                    log.info("http: %s", reason)
                else:
                    return arrived.sha256.hexdigest()
        raise DownloadError(f"{reason} (tried {len(_WAITS)} times)")

    def _receive(self, session: requests.Session, download: Download, arrived: "_Arrived") -> None:
        """Receive what has not arrived yet."""
        with self._open(session, download.url, start=arrived.size) as response:
            if response.status_code == HTTPStatus.OK:
                arrived.start_again()  # a server that ignores Range sends everything
            _check_length(response, download, arrived.size)
            try:
                while chunk := response.raw.read1(_CHUNK):  # not iter_content, which loses bytes that came before a cut
                    arrived.append(chunk)
                    if download.size is not None and arrived.size > download.size:
                        raise DownloadError(f"{shown(download.url)} sends more than {download.size:,} bytes")
            except urllib3.exceptions.HTTPError as error:
                raise self._explained(error, f"{shown(download.url)} after {arrived.size:,} bytes") from None
        if download.size is not None and arrived.size < download.size:
            raise _InterruptedError(f"{shown(download.url)} ended after {arrived.size:,} of {download.size:,} bytes")

    def _open(self, session: requests.Session, url: str, start: int) -> requests.Response:
        """Follow redirects by hand: each must be as safe as the URL before, and another host never gets the token."""
        first_host = urlsplit(url).netloc
        for _ in range(_MAX_REDIRECTS + 1):
            token = self._token if urlsplit(url).netloc == first_host else None
            response = self._get(session, url, token, start)
            if not response.is_redirect:
                return _checked(response, token, start)
            response.close()
            target = urljoin(url, response.headers["Location"])
            try:
                check_redirect(url, target)
            except UnsafeUrlError as error:
                raise DownloadError(f"{shown(url)} redirects, but {error}") from None
            url = target
        raise DownloadError(f"{shown(url)}: more than {_MAX_REDIRECTS} redirects")

    def _get(self, session: requests.Session, url: str, token: str | None, start: int) -> requests.Response:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            return session.get(
                url,
                headers=headers,
                auth=_BearerToken(token) if token else None,
                stream=True,
                allow_redirects=False,
                timeout=(_CONNECT_TIMEOUT, self._stall_seconds),
            )
        except requests.RequestException as error:
            raise self._explained(error, f"{urlsplit(url).hostname} cannot be reached") from None

    def _explained(self, error: Exception, what: str) -> DownloadError | _InterruptedError:
        """Return the error to raise: _InterruptedError if another try may help, otherwise DownloadError."""
        cause: BaseException = error
        while following := cause.__cause__ or cause.__context__:
            cause = following
        if isinstance(error, requests.ConnectTimeout):
            return DownloadError(f"{what}: no connection within {_CONNECT_TIMEOUT:g} s")
        if isinstance(cause, TimeoutError):
            return DownloadError(f"{what}: no byte for {self._stall_seconds:g} s")
        if isinstance(cause, socket.gaierror):
            reason = f"{what}: name not resolved"
            return DownloadError(reason) if cause.errno == socket.EAI_NONAME else _InterruptedError(reason)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DownloadError(f"{what}: certificate not trusted: {cause.verify_message}")
        if isinstance(cause, urllib3.exceptions.IncompleteRead):
            return _InterruptedError(f"{what}: connection closed")
        if isinstance(cause, OSError) and cause.strerror:
            return _InterruptedError(f"{what}: {cause.strerror.lower()}")
        return _InterruptedError(f"{what}: {scrubbed(str(cause))}")


class _Arrived:
    """The bytes of a file that have arrived: on disk, their number and their digest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.start_again()

    def start_again(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.size = 0
        self.sha256 = hashlib.sha256()

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self.sha256.update(chunk)
        self.size += len(chunk)


class _BearerToken(requests.auth.AuthBase):
    """The token as an Authorization header (given this way, a .netrc entry does not replace it)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _checked(response: requests.Response, token: str | None, start: int) -> requests.Response:
    """Return a response that brings the file's bytes from `start` on, or all of them."""
    status, url = response.status_code, shown(response.url)
    if status == HTTPStatus.PARTIAL_CONTENT and response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        return response
    if status == HTTPStatus.OK:
        return response
    response.close()
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _InterruptedError(f"{url}: HTTP {status}")
    hint = ""
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        asks = "has the account of HF_TOKEN accepted the licence?" if token else "is the source gated and HF_TOKEN set?"
        hint = f"; {asks}"
    raise DownloadError(f"{url}: HTTP {status}{hint}")


def _check_length(response: requests.Response, download: Download, start: int) -> None:
    """Refuse a file of the wrong length before its bytes arrive."""
    announced = response.headers.get("Content-Length")
    if announced is None or download.size is None:
        return
    total = start + int(announced)
    if total != download.size:
        raise DownloadError(f"{shown(download.url)} has {total:,} bytes, not {download.size:,}")
