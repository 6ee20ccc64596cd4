"""A stand-in for `pget multifile -f -`: it fetches files, and fails, in the same ways as far as the tests can tell.

It has no digest, no resumption and no timeout: exit 1 at once on 4xx, five tries on 5xx, a partial file and exit 1 if a
connection breaks, a panic and exit 2 if Range is ignored, and it waits forever for a silent server.
"""

import http.client
import sys
import urllib.error
import urllib.request
from pathlib import Path

MAX_TRIES = 5


def main() -> None:
    for line in sys.stdin:
        url, path = line.split()
        for left in reversed(range(MAX_TRIES)):
            try:
                _fetch(url, Path(path))
            except urllib.error.HTTPError as error:
                if error.code < 500 or not left:
                    _end(1, f"ERR unexpected http status downloading {url}: {error.code}")
            except (OSError, http.client.HTTPException) as error:
                _end(1, f'ERR error reading response for "{url}": {error}')
            else:
                break


def _fetch(url: str, path: Path) -> None:
    request = urllib.request.Request(url, headers={"Range": "bytes=0-124999999"})  # noqa: S310
    with urllib.request.urlopen(request) as response:  # noqa: S310
        if response.status != 206:
            _end(2, "panic: runtime error: index out of range [1] with length 1\n\ngoroutine 1 [running]:\nmain.main()")
        with path.open("wb") as file:
            while chunk := response.read1(1 << 16):
                file.write(chunk)
                file.flush()
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)


def _end(code: int, message: str) -> None:
    sys.stderr.write(message + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
