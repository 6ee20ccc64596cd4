"""A stand-in for `pget multifile -f -`: it fetches files, and fails, as pget 0.11.0 does (seen by running that).

- It writes a chunk when it has all of it, and asks for the rest of a chunk by itself where a connection was closed: at
  once, and for ever, with a message each time.
- 5xx and 429: six tries, then exit 1 (pget waits between them, 15 s in all); 501 and other 4xx: exit 1 at once.
- 429 with Retry-After: it does not wait for that.
- A reset, or an answer to the rest of a chunk that is not 206: exit 1.
- Where Range is ignored: right if the file fits into a chunk, else a panic and exit 2.
- It has no digest and no timeout, and follows redirects for ever.
"""

import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

MAX_TRIES = 6
CHUNK = int(os.environ.get("PGET_CHUNK_SIZE", "125000000"))


class Closed(Exception):
    """The server closed the connection too early."""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leave redirects to the loop below: urllib gives up after ten."""

    def redirect_request(self, *_: object) -> None:
        return None


OPENER = urllib.request.build_opener(NoRedirect)


def main() -> None:
    for line in sys.stdin:
        url, path = line.split()
        Path(path).write_bytes(b"")
        start, total = 0, None
        while total is None or start < total:
            chunk, total = _chunk(url, start, total)
            with Path(path).open("ab") as file:
                file.write(chunk)
            start += len(chunk)


def _chunk(url: str, start: int, total: int | None) -> tuple[bytes, int]:
    """Return a chunk, and the size of the file."""
    got = bytearray()
    while not got or len(got) < min(CHUNK, (total or 0) - start):
        end = min(start + CHUNK, total or start + CHUNK)
        response = _open(url, start + len(got), end, resumed=bool(got or start))
        found = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not found and (got or start):
            _end(1, f"expected status code 206, got {response.status}")
        total = int(found[1]) if found else int(response.headers["Content-Length"])
        if not found and total > CHUNK:
            _end(2, f"panic: runtime error: slice bounds out of range [:{total}] with capacity {CHUNK}\n\ngoroutine 1:")
        try:
            while piece := response.read1(1 << 16):
                got += piece
            if response.length:
                raise Closed
        except (Closed, http.client.IncompleteRead):
            sys.stderr.write(f"WRN unexpected EOF while reading {url}, retrying: {' ' * 60}\n")
        except OSError:
            _end(1, f"error reading response for {url}: read: connection reset by peer")
        if found and not got and not response.length:
            sys.stderr.write(f"WRN no bytes from {url}, retrying: {' ' * 60}\n")
        if not found or len(got) >= total - start:
            break
    return bytes(got), total or 0


def _open(url: str, first: int, end: int, *, resumed: bool) -> http.client.HTTPResponse:
    tries = 0
    while True:
        request = urllib.request.Request(url, headers={"Range": f"bytes={first}-{end - 1}"})  # noqa: S310
        try:
            return OPENER.open(request)  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            if error.code in (301, 302, 303, 307, 308):
                url = _redirected(url, error.headers["Location"])
                sys.stderr.write(f"INF redirect to {url}{' ' * 60}\n")
                continue
            tries += 1
            if error.code == 501 or (error.code < 500 and error.code != 429):
                unexpected = f"unexpected http status downloading {url}: {error.code}"
                _end(1, f"expected status code 206, got {error.code}" if resumed else unexpected)
            if tries == MAX_TRIES:
                _end(1, f"GET {url} giving up after {tries} attempt(s)")
        except (ConnectionResetError, http.client.RemoteDisconnected, urllib.error.URLError) as error:
            if "reset" in str(error):
                _end(1, f"Get {url}: read: connection reset by peer")
            if not isinstance(error, http.client.RemoteDisconnected):
                _end(1, f"Get {url}: {error}")
            sys.stderr.write(f"WRN EOF from {url}, retrying: {' ' * 60}\n")


def _redirected(url: str, target: str) -> str:
    if url.startswith("https:") and target.startswith("http:"):
        _end(1, f"redirect from {url} to {target} is refused")
    return urllib.request.urljoin(url, target)  # type: ignore[attr-defined, no-any-return]


def _end(code: int, message: str) -> None:
    sys.stderr.write(message + "\n" if code == 2 else f"Error: error downloading files: {message}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
