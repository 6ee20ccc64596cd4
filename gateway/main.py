"""The gateway's options, and its server."""

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from embeddinggemma.prompts import DOCUMENT_TASK, TASKS
from gateway.app import gateway_app
from gateway.core.settings import (
    LOOPBACK_HOSTS,
    MAX_BODY,
    Settings,
    check_container,
    check_origin,
    containers_in,
    host_name,
    is_loopback,
    key_digests,
)
from gateway.protocol import Protocol

DRAIN_SECONDS = 30
"""For requests that run when the gateway is told to end."""
_KEEP_ALIVE_SECONDS = 75
"""For connections at rest; longer than clients and proxies keep them, so that none sends into a closing one."""
SERVER_OPTIONS: dict[str, Any] = {
    "access_log": False,
    "server_header": False,
    "loop": "uvloop",
    "http": Protocol,
    "ws": "none",
    "timeout_keep_alive": _KEEP_ALIVE_SECONDS,
    "timeout_graceful_shutdown": DRAIN_SECONDS,
}
"""Of uvicorn."""
_RANGES = {
    "port": (0, 65_535),
    "processes": (1, 64),
    "max_body": (1, MAX_BODY),
    "max_texts": (1, 1_000_000),
    "max_at_once": (1, 100_000),
    "max_waiting": (0, 1_000_000),
}
_ANY_ADDRESS = ("", "0.0.0.0", "::", "[::]")  # noqa: S104 - to name them, not to listen there


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the gateway's options; those with a variable can be set in the environment, too."""
    add = parser.add_argument
    add("--container", action="append", metavar="URL", help="a container; again for each (GATEWAY_CONTAINERS)")
    add("--containers-file", metavar="FILE", default="", help="more of them, a URL a line; read again when it changes")
    add("--host", default="127.0.0.1", help="address to listen on; others than this machine's need keys")
    add("--port", type=int, default=8000, help="TCP port (default: 8000)")
    add("--processes", type=int, default=1, help="processes that share the port (default: 1)")
    add(
        "--keys-file",
        metavar="FILE",
        type=Path,
        help="SHA-256 of API keys, one a line (GATEWAY_API_KEYS: keys)",
    )
    add("--allow-host", action="append", default=[], metavar="NAME", help="a name that clients call this machine by")
    add("--allow-origin", action="append", default=[], metavar="SITE", help="a site whose pages may use it")
    add("--webhook-host", action="append", default=[], metavar="NAME", help="a host that webhooks may be sent to")
    add("--allow-file-host", action="append", default=[], metavar="NAME", help="a host of files in and out")
    add("--open-metrics", action="store_true", help="/metrics needs no key")
    add("--default-task", default=DOCUMENT_TASK, choices=TASKS, help="of OpenAI's clients (default: %(default)s)")
    add("--max-body", type=int, default=Settings.max_body, metavar="BYTES", help="of a request (default: %(default)s)")
    add("--max-texts", type=int, default=Settings.max_texts, help="of a request (default: %(default)s)")
    add("--max-at-once", type=int, default=Settings.max_at_once, help="requests in a container (default: %(default)s)")
    add("--max-waiting", type=int, default=Settings.max_waiting, help="requests that wait (default: %(default)s)")
    add("--page", default="", metavar="FOLDER", help="the built playground, served at /")


def checked(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Settings:
    """Return the settings. What is wrong with an option ends the program with a message."""
    try:
        settings = settings_of(options, os.environ)
        _check_address(options.host.strip("[]"), options.port)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if settings.page and not Path(settings.page).is_dir():
        parser.error(f"--page is {settings.page}, which is no folder")
    return settings


def settings_of(options: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return the settings that the options and the environment give; ValueError or OSError if they are wrong."""
    for name, (least, most) in _RANGES.items():
        if not least <= getattr(options, name) <= most:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is {getattr(options, name)}; it must be between {least:,} and {most:,}")
    keys = key_digests(environment.get("GATEWAY_API_KEYS", ""), options.keys_file)
    if not keys and not is_loopback(options.host):
        raise ValueError(
            f"--host is {options.host}, which others can reach, so keys are needed: GATEWAY_API_KEYS or --keys-file"
        )
    given = options.container or environment.get("GATEWAY_CONTAINERS", "").split()
    if options.containers_file:
        containers_in(Path(options.containers_file))  # a mistake in it is said now
    listens_on = () if options.host in _ANY_ADDRESS else (host_name("--host", options.host),)
    names = [name if name == "*" else host_name("--allow-host", name) for name in options.allow_host]
    return Settings(
        containers=tuple(dict.fromkeys(check_container(url) for url in given)),
        containers_file=options.containers_file,
        key_digests=keys,
        hosts=(*LOOPBACK_HOSTS, *listens_on, *names),
        origins=tuple(map(check_origin, options.allow_origin)),
        webhook_hosts=tuple(host_name("--webhook-host", name) for name in options.webhook_host),
        file_hosts=tuple(host_name("--allow-file-host", name) for name in options.allow_file_host),
        open_metrics=options.open_metrics,
        default_task=options.default_task,
        max_body=options.max_body,
        max_texts=options.max_texts,
        max_at_once=max(options.max_at_once // options.processes, 1),
        max_waiting=options.max_waiting // options.processes,
        page=options.page,
        keeps_predictions=options.processes == 1,
    )


def _check_address(host: str, port: int) -> None:
    """Raise ValueError unless a server can listen there."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind((host, port))
    except OSError as error:
        raise ValueError(f"no server can listen on {host}:{port}: {error.strerror}; choose another port") from None


def serve(settings: Settings, options: argparse.Namespace) -> None:
    """Serve until a signal ends it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn raises it again when all requests have ended
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server: dict[str, Any] = {"host": options.host.strip("[]"), "port": options.port, **SERVER_OPTIONS}
    if options.processes == 1:
        uvicorn.run(gateway_app(settings), **server)
        return
    settings.hand_over()
    with tempfile.TemporaryDirectory(prefix="gateway-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # the processes add up their figures there
        app = "gateway.app:app_of_a_process"
        config = uvicorn.Config(app, factory=True, workers=options.processes, **server)
        _Processes(config, [config.bind_socket()]).run()


class _Processes(Multiprocess):
    """uvicorn's processes on one port, which is closed as soon as they are told to end.

    Else connections would be made, and never served, for as long as a request runs.
    """

    def terminate_all(self) -> None:
        for listening in self.sockets:
            listening.close()
        super().terminate_all()
