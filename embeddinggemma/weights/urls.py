"""URLs: which URLs are safe to download from, and how a URL is shown without its secrets."""

import ipaddress
import re
from urllib.parse import urlsplit


class UnsafeUrlError(ValueError):
    """Bytes or a token could be read on the way; the message shows the URL."""


def check_url(url: str) -> None:
    """Refuse a URL whose bytes or token could be read on the way.

    Raises:
        UnsafeUrlError: the scheme is not https, nor http to this machine itself.

    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise UnsafeUrlError("a source's URL cannot be read") from None
    if re.search(r"\s", url) or not host:
        raise UnsafeUrlError(f"{shown(url)} is not a URL with a host and without white space")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise UnsafeUrlError(f"{shown(url)} is not an https address (http is allowed to this machine only)")


def check_redirect(url: str, target: str) -> None:
    """Refuse a redirect to a URL that is less safe.

    Raises:
        UnsafeUrlError: the target is not a safe URL, or it leads from https to http, even on this machine.

    """
    check_url(target)
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise UnsafeUrlError(f"{shown(target)} is not https any more")


def shown(url: str) -> str:
    """Return the URL as logs and errors may show it: without user, password, query and fragment."""
    return re.sub(r"^(\w+://)[^/?#]*@", r"\1", re.split(r"[?#]", url, maxsplit=1)[0])


def scrubbed(text: str) -> str:
    """Return a text of unknown origin with each URL in it as `shown` shows it."""
    return re.sub(r"\w+://[^\s\"'<>]+", lambda found: shown(found[0]), text)


def is_loopback(host: str) -> bool:
    """Return whether a URL's host is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
