"""Downloads over HTTP: resumed where they were cut, large files over several connections, digests on the way."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from string import punctuation
from typing import BinaryIO
from urllib.parse import quote, urljoin, urlsplit

import requests

from embeddinggemma.weights.fetching import Download, DownloadError
from embeddinggemma.weights.http_errors import BrokenOffError, NoRangesError, StalledError, checked, explained
from embeddinggemma.weights.network import proxy_of
from embeddinggemma.weights.parts import Digest, Parts, write_all
from embeddinggemma.weights.urls import UnsafeUrlError, check_redirect, scrubbed, shown

log = logging.getLogger(__name__)
logging.getLogger("urllib3").setLevel(logging.ERROR)  # its lines show URLs with their secrets

_CONNECT_TIMEOUT = 10.0  # seconds
_WAITS = (0.0, 0.25, 0.5, 1.0, 2.0)  # seconds before each try of a file
_MAX_RETRY_AFTER = 60.0  # seconds that a server may ask to wait before a try; if it asks for more, it has refused
_CHUNK = 1 << 20  # bytes read at a time, at most
_MAX_REDIRECTS = 5
# Of a file that is fetched over several connections: many networks give each connection only a share of what all of
# them get. A part takes much longer than its request, and the last parts are soon over.
PART_SIZE = 8 << 20


class HttpFetcher:
    """HTTP through the library `requests`: digests on the way, resumed where cut off.

    Args:
        stall_seconds: how long no byte may arrive before the transfer is given up.
        token: sent as a bearer token to the downloads' own host, and to no other.
        connections: how many fetch a file of more than one part at once, if the server sends ranges of it.

    """

    name = "http"

    def __init__(self, stall_seconds: float, token: str | None = None, connections: int = 1) -> None:
        self._stall_seconds = stall_seconds
        self._token = token
        self._connections = connections

    def fetch(self, downloads: Sequence[Download]) -> Iterator[tuple[Download, str | None]]:
        """Fetch every file; see Fetcher. Small files come side by side, large ones one after the other, in parts."""
        small = [download for download in downloads if (download.size or PART_SIZE) <= PART_SIZE]
        with ThreadPoolExecutor(self._connections, "download") as pool:
            fetching = {download: pool.submit(self._fetch_file, download) for download in small}
            failures: list[DownloadError] = []
            try:
                for download in downloads:
                    if failures and (download not in fetching or fetching[download].cancel()):
                        continue  # it has not begun; what has begun beside the file that failed may be whole
                    try:
                        sha256 = fetching[download].result() if download in fetching else self._fetch_file(download)
                    except DownloadError as error:
                        failures.append(error)
                    else:
                        yield download, sha256
            finally:
                for fetched in fetching.values():
                    fetched.cancel()
        if failures:
            raise failures[0]

    def _fetch_file(self, download: Download) -> str:
        """Fetch a file, with a limited number of tries, and return its sha256."""
        with download.path.open("w+b") as file, requests.Session() as session:
            arrived = _Arrived(file)
            if self._connections > 1 and (download.size or 0) > PART_SIZE:
                self._receive_in_parts(download, arrived)
                if arrived.size == download.size:
                    return arrived.sha256.hexdigest()
            try:
                _try_again(lambda: self._receive(session, download, arrived))
            except BrokenOffError as error:
                raise DownloadError(str(error)) from None
            return arrived.sha256.hexdigest()

    def _receive(self, session: requests.Session, download: Download, arrived: "_Arrived") -> None:
        """Receive what has not arrived yet."""
        try:
            opened = self._open(session, download.url, start=arrived.size)
        except NoRangesError as error:
            arrived.start_again()
            raise BrokenOffError(str(error)) from None
        with opened as response:
            if response.status_code == HTTPStatus.OK:
                arrived.start_again()  # a server that ignores Range sends everything
            _check_length(response, download, arrived.size)
            while chunk := self._read(response, f"{shown(download.url)} after {arrived.size:,} bytes"):
                arrived.append(chunk)
                if download.size is not None and arrived.size > download.size:
                    raise DownloadError(f"{shown(download.url)} sends more than {download.size:,} bytes")
        if download.size is not None and arrived.size < download.size:
            raise BrokenOffError(f"{shown(download.url)} ended after {arrived.size:,} of {download.size:,} bytes")

    def _receive_in_parts(self, download: Download, arrived: "_Arrived") -> None:
        """Receive a large file over several connections: all of it, or its start, and one connection gets the rest.

        Raises:
            DownloadError: no byte came for too long, or the server refuses the file.

        """
        parts = Parts(download.size or 0, PART_SIZE)
        with ThreadPoolExecutor(self._connections, "download") as pool:
            # Others follow once the first has seen that the server sends ranges: else each would get the whole file.
            working = [pool.submit(self._fetch_parts, download, arrived.file, parts)]
            try:
                while any(not worker.done() for worker in working):
                    if parts.frontier() and len(working) == 1 and not parts.stopped:
                        more = self._connections - 1
                        working += [pool.submit(self._fetch_parts, download, arrived.file, parts) for _ in range(more)]
                    parts.wait(0.1)
                    arrived.read_on(parts.frontier())
            finally:
                parts.stop()
        arrived.read_on(parts.frontier())
        errors = [error for worker in working if (error := worker.exception())]
        for error in errors:
            refused = isinstance(error, DownloadError) and not arrived.size and not isinstance(error, NoRangesError)
            if refused or isinstance(error, StalledError) or not isinstance(error, DownloadError | BrokenOffError):
                raise error
        if errors:
            log.info("http: %s; the rest comes over one connection", errors[0])

    def _fetch_parts(self, download: Download, file: BinaryIO, parts: Parts) -> None:
        """Fetch one part after the other until none is left, or one cannot be fetched."""
        with requests.Session() as session:
            try:
                while (part := parts.claim()) is not None:
                    _try_again(partial(self._receive_part, session, download, file, parts, part), parts.pause)
            except BaseException as error:
                parts.stop()
                if isinstance(error, StalledError) and parts.silent_seconds() < self._stall_seconds:
                    raise BrokenOffError(f"{error}, while other connections brought some") from None
                raise

    def _receive_part(
        self, session: requests.Session, download: Download, file: BinaryIO, parts: Parts, part: int
    ) -> None:
        """Receive what has not arrived yet of a part."""
        start, end = parts.missing(part)
        with self._open(session, download.url, start, end) as response:
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                raise NoRangesError(f"{shown(download.url)} sends no ranges")
            total = response.headers["Content-Range"].rpartition("/")[2]
            if total not in (str(download.size), "*"):
                size = f"{int(total):,}" if total.isdecimal() else scrubbed(total)
                raise DownloadError(f"{shown(download.url)} has {size} bytes, not {download.size:,}")
            while chunk := self._read(response, f"{shown(download.url)} after {start:,} bytes"):
                if start + len(chunk) > end:
                    raise DownloadError(f"{shown(download.url)} sends more than was asked for")
                write_all(file, chunk, start)
                start += len(chunk)
                parts.append(part, len(chunk))
        if start < end:
            raise BrokenOffError(f"{shown(download.url)} ended after {start:,} of {end:,} bytes")

    def _open(self, session: requests.Session, url: str, start: int, end: int | None = None) -> requests.Response:
        """Follow redirects by hand: each must be as safe as the URL before, and another host never gets the token."""
        first_host = urlsplit(url).netloc
        for _ in range(_MAX_REDIRECTS + 1):
            token = self._token if urlsplit(url).netloc == first_host else None
            response = self._get(session, url, token, _range(start, end))
            if not response.is_redirect:
                return checked(response, start, has_token=bool(token))
            response.close()
            # Servers send bytes that should have been quoted; as text, which is Latin-1, they would be quoted twice.
            target = urljoin(url, quote(response.headers["Location"].encode("latin-1"), safe=punctuation))
            try:
                check_redirect(url, target)
            except UnsafeUrlError as error:
                raise DownloadError(f"{shown(url)} redirects, but {error}") from None
            url = target
        raise DownloadError(f"{shown(url)}: more than {_MAX_REDIRECTS} redirects")

    def _get(self, session: requests.Session, url: str, token: str | None, wanted: dict[str, str]) -> requests.Response:
        headers = {"Accept-Encoding": "identity"} | wanted
        proxy = proxy_of(url)
        try:
            return session.get(
                url,
                headers=headers,
                auth=_BearerToken(token) if token else None,
                proxies={"http": "", "https": proxy.url if proxy else ""},
                stream=True,
                allow_redirects=False,
                timeout=(_CONNECT_TIMEOUT, self._stall_seconds),
            )
        except Exception as error:  # of any kind: its text may hold the token, or a secret part of a URL
            raise explained(error, f"{urlsplit(url).hostname} cannot be reached", proxy, self._stall_seconds) from None

    def _read(self, response: requests.Response, what: str) -> bytes:
        """Return what has arrived, at least a byte unless it was all (iter_content loses bytes before a cut)."""
        try:
            return response.raw.read1(_CHUNK)
        except Exception as error:
            raise explained(error, what, proxy_of(response.url), self._stall_seconds) from None


def _try_again(receive: Callable[[], None], pause: Callable[[float], object] = time.sleep) -> None:
    """Call `receive`, which goes on where it was interrupted, a limited number of times.

    Args:
        receive: receives the rest.
        pause: waits for some seconds; returns a true value if nobody wants the rest any more, which ends the tries.

    Raises:
        BrokenOffError: it was interrupted each time, or the server asks to wait for too long.

    """
    asked = 0.0
    for wait in _WAITS:
        if pause(max(wait, asked)):
            return
        try:
            receive()
        except BrokenOffError as error:
            reason, asked = error, error.retry_after
        else:
            return
        log.info("http: %s%s", reason, f"; it asks to wait {asked:,.0f} s" if asked else "")
        if asked > _MAX_RETRY_AFTER:
            raise BrokenOffError(f"{reason}; it asks to wait {asked:,.0f} s")
    raise BrokenOffError(f"{reason} (tried {len(_WAITS)} times)")


class _Arrived(Digest):
    """The bytes of a file that have arrived without a gap: on disk, their number and their digest."""

    def start_again(self) -> None:
        """Forget what has arrived."""
        self.begin()
        self.file.truncate(0)

    def append(self, chunk: bytes) -> None:
        """Write what comes next."""
        write_all(self.file, chunk, self.size)
        self.sha256.update(chunk)
        self.size += len(chunk)


def _range(start: int, end: int | None) -> dict[str, str]:
    """Return the header that asks for the bytes from `start` on, or up to but without `end`."""
    if end is not None:
        return {"Range": f"bytes={start}-{end - 1}"}
    return {"Range": f"bytes={start}-"} if start else {}


class _BearerToken(requests.auth.AuthBase):
    """The token as an Authorization header (given this way, a .netrc entry does not replace it)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _check_length(response: requests.Response, download: Download, start: int) -> None:
    """Refuse a file of the wrong length before its bytes arrive."""
    announced = response.headers.get("Content-Length")
    if announced is None or not announced.isdecimal() or download.size is None:
        return
    total = start + int(announced)
    if total != download.size:
        raise DownloadError(f"{shown(download.url)} has {total:,} bytes, not {download.size:,}")
