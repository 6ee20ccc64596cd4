"""What went wrong with a request, in a few words without a secret, and whether another try may bring the rest."""

import re
import socket
import ssl
import sys
from http import HTTPStatus
from http.client import RemoteDisconnected

import requests
import urllib3

from embeddinggemma.weights.fetching import DownloadError
from embeddinggemma.weights.network import Proxy, requests_certificates_fault
from embeddinggemma.weights.urls import shown

_TEMPORARY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)  # besides those from 500 on


class BrokenOffError(Exception):
    """The transfer broke off, and another try may bring the rest."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        """How many seconds the server asks to wait first."""


class StalledError(DownloadError):
    """No byte came for too long: the network, or the server, is not there."""


class NoRangesError(DownloadError):
    """The server sends whole files only, or not from this byte on."""


def explained(error: Exception, what: str, proxy: Proxy | None, stall_seconds: float) -> DownloadError | BrokenOffError:
    """Return the error to raise instead of one of any kind, whose text may hold a token or a secret part of a URL.

    Args:
        error: what was raised on the way to the server or back.
        what: what could not be done.
        proxy: the proxy on the way.
        stall_seconds: how long a byte was waited for, if the error does not say it.

    Returns:
        BrokenOffError if another try may help, otherwise DownloadError.

    """
    cause = _first_cause(error)
    if proxy and (answer := re.match(r"Tunnel connection failed: (\d+)", str(cause))):
        return _refused_by(proxy, int(answer[1]), what)
    if isinstance(error, requests.exceptions.ProxyError):
        what = f"{proxy} cannot be reached"
    elif proxy:
        what = f"{what} through {proxy}"
    if isinstance(cause, TimeoutError):
        limit = re.search(r"timeout=([\d.]+)", str(error))  # of a connection and its handshake it is a shorter one
        return StalledError(f"{what}: no byte for {float(limit[1]) if limit else stall_seconds:g} s")
    if isinstance(cause, socket.gaierror):
        reason = f"{what}: name not resolved"
        return DownloadError(reason) if cause.errno == socket.EAI_NONAME else BrokenOffError(reason)
    of_certificates = isinstance(error, requests.exceptions.SSLError) or type(error) is OSError
    if of_certificates and (fault := requests_certificates_fault()):
        return DownloadError(f"{what}: {fault}")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return DownloadError(f"{what}: certificate not trusted: {cause.verify_message}")
    if isinstance(cause, urllib3.exceptions.IncompleteRead | RemoteDisconnected):
        return BrokenOffError(f"{what}: connection closed")
    if isinstance(cause, OSError) and cause.strerror:
        return BrokenOffError(f"{what}: {cause.strerror.lower()}")
    if isinstance(error, requests.exceptions.InvalidSchema) and proxy:
        return DownloadError(f"{what}: SOCKS needs the package PySocks, which is not installed")
    if isinstance(error, ValueError):
        return DownloadError(f"{what}: the URL or a header is not valid ({type(error).__name__})")
    return BrokenOffError(f"{what}: {type(cause).__name__}")


def _first_cause(error: BaseException) -> BaseException:
    while following := error.__cause__ or error.__context__:
        error = following
    return error


def _refused_by(proxy: Proxy, status: int, what: str) -> DownloadError | BrokenOffError:
    """Return the error to raise if the proxy has answered with an error of its own."""
    reason = f"{what}: {proxy} answers HTTP {status}"
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return DownloadError(f"{reason}; does {proxy.variable} hold its user and password?")
    return BrokenOffError(reason) if status >= HTTPStatus.INTERNAL_SERVER_ERROR else DownloadError(reason)


def checked(response: requests.Response, start: int, *, has_token: bool) -> requests.Response:
    """Return a response that brings the file's bytes from `start` on, or all of them.

    Raises:
        BrokenOffError: the server refuses for now.
        NoRangesError: it refuses these bytes.
        DownloadError: it refuses the file.

    """
    status, url = response.status_code, shown(response.url)
    if status == HTTPStatus.PARTIAL_CONTENT and response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        return response
    if status == HTTPStatus.OK:
        return response
    response.close()
    if status in _TEMPORARY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise BrokenOffError(f"{url}: HTTP {status}", _retry_after(response))
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in response.request.headers:
        raise NoRangesError(f"{url}: HTTP {status} to a range")
    hint = ""
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        licence = "has the account of HF_TOKEN accepted the licence?"
        hint = f"; {licence if has_token else 'is the source gated and HF_TOKEN set?'}"
    raise DownloadError(f"{url}: HTTP {status}{hint}")


def _retry_after(response: requests.Response) -> float:
    """Return how many seconds the server asks to wait, as a number or as a date; 0 if it does not say."""
    try:
        return urllib3.Retry(retry_after_max=sys.maxsize).parse_retry_after(response.headers.get("Retry-After", "0"))
    except (urllib3.exceptions.InvalidHeader, OverflowError, ValueError):
        return 0.0
