"""The environment's part in a download: the proxy that it names, and the certificates that are to be trusted.

These are the variables that `requests` and pget read by themselves; here they get one meaning for both, and errors that
name them.
"""

import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import should_bypass_proxies

from embeddinggemma.weights.fetching import DownloadError
from embeddinggemma.weights.urls import is_loopback, shown

_LOOPBACK = "localhost,127.0.0.1,127.0.0.0/8,::1"
_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


@dataclass(frozen=True)
class Proxy:
    """A proxy that an environment variable names."""

    url: str = field(repr=False)
    """With its scheme, and perhaps with a user and a password."""
    variable: str
    """The variable's name."""

    def __str__(self) -> str:
        """Return how logs and errors name it."""
        return f"the proxy {shown(self.url)} ({self.variable})"


def proxy_of(url: str) -> Proxy | None:
    """Return the proxy for a URL; none for this machine itself, nor for a host in NO_PROXY.

    Raises:
        DownloadError: the variable holds no proxy's address.

    """
    if is_loopback(urlsplit(url).hostname or "") or should_bypass_proxies(url, None):
        return None
    return _named_proxy()


def proxy_environment() -> dict[str, str]:
    """Return the variables that let another program use the same proxy.

    Raises:
        DownloadError: as for `proxy_of`.

    """
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    no_proxy = f"{listed},{_LOOPBACK}" if listed else _LOOPBACK
    proxy = _named_proxy()
    address = proxy.url if proxy else ""
    return {"no_proxy": no_proxy, "NO_PROXY": no_proxy, "https_proxy": address, "HTTPS_PROXY": address}


def _named_proxy() -> Proxy | None:
    """Return the proxy for https: http is spoken to this machine only."""
    for upper in ("HTTPS_PROXY", "ALL_PROXY"):
        variable = upper.lower() if upper.lower() in os.environ else upper  # an empty lower-case one counts, as in curl
        if address := os.environ.get(variable, "").strip():
            return Proxy(_checked(address, variable), variable)
    return None


def _checked(address: str, variable: str) -> str:
    """Return the address of a proxy with its scheme."""
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _PROXY_SCHEMES and parts.hostname and parts.port != 0 and parts.path in ("", "/")
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s?#]", url):
        raise DownloadError(
            f"{variable} is not the address of a proxy, such as http://proxy.example:3128; in its user and password, "
            "characters such as @ # / and spaces have to be percent-encoded"
        )
    return url


def requests_certificates_fault() -> str | None:
    """Return why the certificates that the environment names for `requests` cannot be used; None if they can."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # the first that is set counts
        if path := os.environ.get(variable):
            return _certificates_fault(variable, Path(path))
    return None


def pget_certificates_fault() -> str | None:
    """Return why the certificates that the environment names for Go programs cannot be used; None if they can."""
    paths = [("SSL_CERT_FILE", path) for path in [os.environ.get("SSL_CERT_FILE")] if path]
    paths += [("SSL_CERT_DIR", path) for path in os.environ.get("SSL_CERT_DIR", "").split(":") if path]
    faults = [_certificates_fault(variable, Path(path)) for variable, path in paths]
    return next(filter(None, faults), None)


def _certificates_fault(variable: str, path: Path) -> str | None:
    if path.is_dir():
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return f"{variable} names {path}, which holds no certificates in PEM format"
    except OSError as error:
        return f"{variable} names {path}, which cannot be read: {error.strerror}"
    return None
