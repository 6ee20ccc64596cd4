"""Fetchers: each moves files from URLs to paths, and promises nothing about what the bytes are."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import requests

from embeddinggemma.manifest import ManifestError, check_url

_CONNECT_TIMEOUT = 10.0  # seconds
_READ_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20  # bytes read at a time
_MAX_REDIRECTS = 5


class DownloadError(Exception):
    """A file could not be fetched; the message names the URL and the reason, and never a token."""


@dataclass(frozen=True)
class Download:
    """One file to fetch: from where, to where, and how many bytes it has to have."""

    url: str
    path: Path
    size: int


class Fetcher(Protocol):
    """A way to download."""

    name: str

    def fetch(self, downloads: Sequence[Download], token: str | None) -> None:
        """Fetch every file to its path, whose folder exists.

        Args:
            downloads: the files.
            token: sent as a bearer token to the downloads' own host, and to no other.

        Raises:
            DownloadError: a file could not be fetched; others may have been.

        """


class PgetFetcher:
    """Replicate's parallel downloader, the program `pget`."""

    name = "pget"

    def __init__(self, program: str) -> None:
        self._program = program

    def fetch(self, downloads: Sequence[Download], token: str | None) -> None:
        """Fetch every file with one `pget multifile`; see Fetcher. A token is refused: redirects could carry it on."""
        if token is not None:
            raise DownloadError("pget is not trusted with a token")
        listing = "".join(f"{download.url} {download.path}\n" for download in downloads)
        pid_file = downloads[0].path.with_name(".pget.pid")  # its default, in /run, is not writable for all
        finished = subprocess.run(
            [self._program, "multifile", "--force", "-"],
            input=listing.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PGET_PID_FILE": str(pid_file)},
            check=False,
        )
        if finished.returncode != 0:
            last_lines = finished.stderr.decode(errors="replace").strip()[-400:]
            raise DownloadError(f"pget ended with exit code {finished.returncode}: {last_lines}")


class HttpFetcher:
    """Plain HTTP through the library `requests`, one file after the other."""

    name = "http"

    def fetch(self, downloads: Sequence[Download], token: str | None) -> None:
        """Fetch every file; see Fetcher."""
        with requests.Session() as session:
            for download in downloads:
                try:
                    _fetch_one(session, download, token)
                except (requests.RequestException, OSError) as error:
                    raise DownloadError(f"{download.url}: {error}") from None


class _BearerToken(requests.auth.AuthBase):
    """The token as an Authorization header (given this way, a .netrc entry does not replace it)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _fetch_one(session: requests.Session, download: Download, token: str | None) -> None:
    with _open(session, download.url, token) as response, download.path.open("wb") as file:
        received = 0
        for chunk in response.iter_content(_CHUNK):
            received += len(chunk)
            if received > download.size:
                raise DownloadError(f"{download.url} sends more than the {download.size:,} bytes it should have")
            file.write(chunk)


def _open(session: requests.Session, url: str, token: str | None) -> requests.Response:
    """Follow redirects by hand: each must be as safe as the first URL, and another host never gets the token."""
    first_host = urlsplit(url).netloc
    for _ in range(_MAX_REDIRECTS + 1):
        auth = _BearerToken(token) if token is not None and urlsplit(url).netloc == first_host else None
        response = session.get(
            url, auth=auth, stream=True, allow_redirects=False, timeout=(_CONNECT_TIMEOUT, _READ_TIMEOUT)
        )
        if not response.is_redirect:
            break
        url = urljoin(url, response.headers["Location"])
        response.close()
        try:
            check_url(url)
        except ManifestError as error:
            raise DownloadError(f"redirected, but {error}") from None
    if response.is_redirect:
        raise DownloadError(f"{url}: more than {_MAX_REDIRECTS} redirects")
    if response.status_code in (401, 403) and token is None:
        raise DownloadError(f"{url}: HTTP {response.status_code}; is the source gated, and HF_TOKEN set?")
    if response.status_code != requests.codes.ok:
        raise DownloadError(f"{url}: HTTP {response.status_code}")
    return response


def fetchers(*, gated: bool) -> list[Fetcher]:
    """Return the fetchers to try, best first: pget where it is on PATH and no token has to be sent, then plain HTTP."""
    program = shutil.which("pget")
    if program is None or gated:
        return [HttpFetcher()]
    return [PgetFetcher(program), HttpFetcher()]
