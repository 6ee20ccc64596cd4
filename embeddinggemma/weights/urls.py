"""URLs: which URLs are safe to download from, how one is put together, and how it is shown without its secrets."""

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


class UnsafeUrlError(ValueError):
    """The URL cannot be read, or bytes or a token could be read on the way; the message shows the URL."""


def check_url(url: str) -> None:
    """Refuse a URL whose bytes or token could be read on the way, or of which a part would be lost.

    Raises:
        UnsafeUrlError: the scheme is not https, nor http to this machine itself; or it has a fragment.

    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise UnsafeUrlError("a source's URL cannot be read") from None
    if re.search(r"\s", url) or not host:
        raise UnsafeUrlError(f"{shown(url)} is not a URL with a host and without white space")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise UnsafeUrlError(f"{shown(url)} is not an https address (http is allowed to this machine only)")
    _check_no_fragment(url)


def check_file_url(url: str) -> None:
    """Refuse a file URL that does not name a path on this machine.

    Raises:
        UnsafeUrlError: it names a host, or has a query or a fragment.

    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UnsafeUrlError("a source's URL cannot be read") from None
    if parts.netloc not in ("", "localhost"):
        raise UnsafeUrlError("a source's file URL names a host; write file:/// and the path")
    if parts.query:
        raise UnsafeUrlError(f"{shown(url)} has a query; write ? in a path as %3F")
    _check_no_fragment(url)


def _check_no_fragment(url: str) -> None:
    if "#" in url:
        raise UnsafeUrlError(f"{shown(url)} has a fragment, which no server would get; write # in a path as %23")


def check_redirect(url: str, target: str) -> None:
    """Refuse a redirect to a URL that is less safe.

    Raises:
        UnsafeUrlError: the target is not a safe URL, or it leads from https to http, even on this machine.

    """
    target = target.partition("#")[0]  # a fragment says where to look in a page
    check_url(target)
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise UnsafeUrlError(f"{shown(target)} is not https any more")


def joined(base: str, path: str) -> str:
    """Return the URL of a path below a base URL, whose query, often a signature, stays at the end."""
    parts = urlsplit(base)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{path}").geturl()


def file_url(path: str, folder: Path) -> str:
    """Return the URL of a path, with its links resolved; a relative path begins at the folder, and `{path}` stays.

    Raises:
        UnsafeUrlError: it cannot be the path of a file.

    """
    try:
        return (folder / Path(path).expanduser()).resolve().as_uri().replace("%7Bpath%7D", "{path}")
    except (OSError, RuntimeError, ValueError):  # a link to itself, ~ of nobody, a null byte
        raise UnsafeUrlError("a source is not a path that can be read") from None


def file_path(url: str) -> Path:
    """Return the path that a file URL names."""
    return Path(url2pathname(urlsplit(url).path))


def shown(url: str) -> str:
    """Return the URL as logs and errors may show it: without user, password, query and fragment."""
    return re.sub(r"^(\w+://)[^/?#]*@", r"\1", re.split(r"[?#]", url, maxsplit=1)[0])


def scrubbed(text: str) -> str:
    """Return a text of unknown origin with each URL in it as `shown` shows it; a URL in quotes ends at the quote."""
    return re.sub(r"\"\w+://[^\"]*|\w+://[^\s\"'<>]+", _shown_in_text, text)


def _shown_in_text(found: re.Match[str]) -> str:
    url = found[0].removeprefix('"')
    return found[0].removesuffix(url) + shown(url)


def is_loopback(host: str) -> bool:
    """Return whether a URL's host is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
