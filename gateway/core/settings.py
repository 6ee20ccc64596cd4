"""What an operator can choose about the gateway; read once, and handed to every process of it."""

import hashlib
import ipaddress
import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from string import whitespace
from typing import Any
from urllib.parse import urlsplit

from embeddinggemma.prompts import DOCUMENT_TASK, TASKS
from embeddinggemma.validation import check_choice

VARIABLE = "GATEWAY_SETTINGS"
"""The environment variable in which the first process hands the settings to the others."""
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
MAX_BODY = 100_000_000
"""Bytes of a body that a container's server takes, a little less than its limit."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")


@dataclass(frozen=True)
class Settings:
    """The gateway's settings; scripts/gateway describes them to its users."""

    containers: tuple[str, ...] = ()
    containers_file: str = ""
    """A file of further containers, one URL a line, which is read again when it changes."""
    key_digests: tuple[str, ...] = ()
    """SHA-256 of each API key, as hexadecimal digits. Without any, no key is asked for."""
    hosts: tuple[str, ...] = LOOPBACK_HOSTS
    """Names that a request's Host may have, as host_name returns them, or "*" for any."""
    origins: tuple[str, ...] = ()
    """Web sites whose pages may use the gateway, like https://chat.example, in lower case."""
    webhook_hosts: tuple[str, ...] = ()
    """Hosts that webhooks may be sent to, as host_name returns them."""
    file_hosts: tuple[str, ...] = ()
    """Hosts that containers may fetch texts_file from, and store vectors at, as host_name returns them."""
    open_metrics: bool = False
    """Whether /metrics needs no key."""
    default_task: str = DOCUMENT_TASK
    """What the bare name of the model means to OpenAI's clients."""
    max_body: int = 32_000_000
    """Bytes."""
    max_texts: int = 2048
    """Of one request."""
    max_at_once: int = 200
    """Requests that each container has at once; the rest wait here. Its server has 256 slots."""
    max_waiting: int = 1024
    """Requests that wait here for a container; one more is refused by 429."""
    page: str = ""
    """The folder of the playground's page, or nothing."""
    keeps_predictions: bool = True
    """Whether Replicate's clients can ask for a prediction again; not if several processes share the port."""

    def __post_init__(self) -> None:
        check_choice("--default-task", self.default_task, TASKS)
        for url in self.containers:
            check_container(url)

    def hand_over(self) -> None:
        """Put the settings where the processes that this one starts find them."""
        os.environ[VARIABLE] = json.dumps(asdict(self))

    @classmethod
    def handed_over(cls) -> "Settings":
        """Return the settings of the process that started this one."""
        given: dict[str, Any] = json.loads(os.environ[VARIABLE])
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
        }
        return cls(**values)


def check_container(url: str) -> str:
    """Return a container's URL without a slash at the end; ValueError if it is none."""
    if "@" in url:  # it would be shown, in messages and as a label
        raise ValueError("a container's URL has a user name or a password; it must be like http://127.0.0.1:5000")
    if not _is_url(url):
        raise ValueError(f"a container is {url!r}; it must be a URL like http://127.0.0.1:5000")
    return url.rstrip("/")


def check_origin(site: str) -> str:
    """Return a site as browsers name it; ValueError if it is none."""
    if "@" in site or not _is_url(site) or urlsplit(site).path:
        raise ValueError(f"--allow-origin is {site!r}; it must be like https://chat.example, without a path")
    return site.lower()


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and not (set("?#") | set(whitespace)) & set(url)
        )
    except ValueError:
        return False


def host_name(option: str, given: str) -> str:
    """Return a host as it stands in a URL: in lower case, and an address of IPv6 in brackets.

    Raises:
        ValueError: it is no host; the message names the option.

    """
    bare = given.strip("[]").lower()
    with suppress(ValueError):
        address = ipaddress.ip_address(bare)
        return f"[{address}]" if address.version == 6 else str(address)
    if not _HOST.fullmatch(bare):
        message = "it must be the name or the address of a host, without scheme and port, like embed.example.com"
        raise ValueError(f"{option} is {given!r}; {message}")
    return bare


def key_digests(keys: str, file: Path | None) -> tuple[str, ...]:
    """Return the SHA-256 of each key: of keys with white space or commas between them, and of a file of digests.

    Each line of the file begins with a digest; what follows it, a name perhaps, does not count.

    Raises:
        ValueError: a key cannot be sent in a header, a line of the file is no digest, or it has none. The message has
            the number, never the content.
        OSError: the file cannot be read.

    """
    given = [key for key in re.split(r"[\s,]+", keys) if key]
    for number, key in enumerate(given, 1):
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"GATEWAY_API_KEYS: key {number} has a character that no header can hold; use ASCII")
    return (*map(digest, given), *(_digests_in(file) if file else ()))


def _digests_in(file: Path) -> list[str]:
    digests: list[str] = []
    for number, line in enumerate(_text_of(file).splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if not _DIGEST.fullmatch(words[0]):
            raise ValueError(
                f"{file}, line {number}: not a SHA-256 digest of 64 lower-case hexadecimal digits; make one with: "
                "printf %s KEY | sha256sum"
            )
        digests.append(words[0])
    if not digests:
        raise ValueError(f"{file} has no digest, so nobody could be let in")
    return digests


def digest(key: str) -> str:
    """Return the SHA-256 of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is this machine's alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def containers_in(path: Path) -> list[str]:
    """Return the URLs of a containers file, without empty lines and comments.

    Raises:
        ValueError: a line is no URL.
        OSError: the file cannot be read.

    """
    urls: list[str] = []
    for number, line in enumerate(_text_of(path).splitlines(), 1):
        url = line.split("#")[0].strip()
        try:
            urls += [check_container(url)] if url else []
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return urls


def _text_of(file: Path) -> str:
    try:
        return file.read_text()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not in UTF-8") from None
