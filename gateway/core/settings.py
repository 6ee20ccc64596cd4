"""What an operator can choose about the gateway; read once, and handed to every process of it."""

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from embeddinggemma.prompts import DOCUMENT_TASK, TASKS
from embeddinggemma.validation import check_choice

VARIABLE = "GATEWAY_SETTINGS"
"""The environment variable in which the first process hands the settings to the others."""
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Settings:
    """The gateway's settings; scripts/gateway describes them to its users."""

    containers: tuple[str, ...] = ()
    containers_file: str = ""
    """A file of further containers, one URL a line, which is read again when it changes."""
    key_digests: tuple[str, ...] = ()
    """SHA-256 of each API key, as hexadecimal digits. Without any, no key is asked for."""
    hosts: tuple[str, ...] = LOOPBACK_HOSTS
    """Names that a request's Host may have, without a port."""
    origins: tuple[str, ...] = ()
    """Web sites whose pages may use the gateway, like https://chat.example."""
    webhook_hosts: tuple[str, ...] = ()
    """Hosts that webhooks may be sent to."""
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
        for origin in self.origins:
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or not parts.netloc
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise ValueError(f"--allow-origin is {origin!r}; it must be like https://chat.example, without a path")

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
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"a container is {url!r}; it must be a URL like http://127.0.0.1:5000")
    return url.rstrip("/")


def key_digests(keys: str, file: Path | None) -> tuple[str, ...]:
    """Return the SHA-256 of each key: of keys with white space or commas between them, and of a file of digests.

    Each line of the file begins with a digest; what follows it, a name perhaps, does not count.

    Raises:
        ValueError: a line of the file is no digest; the message has its number, never its content.

    """
    digests = [digest(key) for key in re.split(r"[\s,]+", keys) if key]
    lines = file.read_text().splitlines() if file else []
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if not _DIGEST.fullmatch(words[0]):
            raise ValueError(
                f"{file}, line {number}: not a SHA-256 digest of 64 lower-case hexadecimal digits; make one with: "
                "printf %s KEY | sha256sum"
            )
        digests.append(words[0])
    return tuple(digests)


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
    lines: Iterable[str] = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [check_container(line) for line in lines if line]
