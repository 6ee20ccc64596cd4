"""Options of several scripts, checked when the command line is read: ports, URLs, counts, minutes."""

import argparse
import math
from urllib.parse import urlsplit

from tools.server import free_port

MAX_PORT = 65_535


def port_option(text: str) -> int:
    """Return the TCP port of a `--port`; 0 stands for any free port."""
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no TCP port; it must be 0 (any free port) to {MAX_PORT:,}")
    try:
        return free_port(int(text))
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"no server can listen on 127.0.0.1:{text}: {error.strerror}; choose another port, or 0 for any free one"
        ) from None


def url_option(text: str) -> str:
    """Return the URL of a `--container`."""
    try:
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no URL of a container; it must be like http://127.0.0.1:5000")


def count_option(text: str) -> int:
    """Return a whole number of things, at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; it must be a whole number of at least 1")
    return int(text)


def minutes_option(text: str) -> float:
    """Return a number of minutes above 0."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no length; it must be a number of minutes above 0")
    return minutes
