"""The gateway's options, and its server."""

import argparse
import logging
import os
import socket
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import uvicorn

from embeddinggemma.prompts import DOCUMENT_TASK, TASKS
from gateway.app import gateway_app
from gateway.core.settings import LOOPBACK_HOSTS, Settings, check_container, containers_in, is_loopback, key_digests

DRAIN_SECONDS = 30
"""For requests that run when the gateway is told to end."""
_MAX_PORT = 65_535
_ANY_ADDRESS = ("0.0.0.0", "::", "[::]")  # noqa: S104 - to name them, not to listen there


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
        parser.error(f"--page is {settings.page}, and there is no such folder")
    return settings


def settings_of(options: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return the settings that the options and the environment give; ValueError or OSError if they are wrong."""
    for name, least in (("processes", 1), ("max_body", 1), ("max_texts", 1), ("max_at_once", 1), ("max_waiting", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least {least}")
    keys = key_digests(environment.get("GATEWAY_API_KEYS", ""), options.keys_file)
    if not keys and not is_loopback(options.host):
        raise ValueError(
            f"--host is {options.host}, which others can reach, so keys are needed: GATEWAY_API_KEYS or --keys-file"
        )
    given = options.container or environment.get("GATEWAY_CONTAINERS", "").split()
    if options.containers_file:
        containers_in(Path(options.containers_file))  # a mistake in it is said now
    listens_on = () if options.host in _ANY_ADDRESS else (options.host,)
    return Settings(
        containers=tuple(dict.fromkeys(check_container(url) for url in given)),
        containers_file=options.containers_file,
        key_digests=keys,
        hosts=(*LOOPBACK_HOSTS, *listens_on, *options.allow_host),
        origins=tuple(options.allow_origin),
        webhook_hosts=tuple(options.webhook_host),
        open_metrics=options.open_metrics,
        default_task=options.default_task,
        max_body=options.max_body,
        max_texts=options.max_texts,
        max_at_once=options.max_at_once,
        max_waiting=options.max_waiting,
        page=options.page,
        keeps_predictions=options.processes == 1,
    )


def _check_address(host: str, port: int) -> None:
    """Raise ValueError unless a server can listen there."""
    if not 0 <= port <= _MAX_PORT:
        raise ValueError(f"--port is {port}; it must be between 0 (any free port) and {_MAX_PORT:,}")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind((host, port))
    except OSError as error:
        raise ValueError(f"no server can listen on {host}:{port}: {error.strerror}; choose another port") from None


def serve(settings: Settings, options: argparse.Namespace) -> None:
    """Serve until a signal ends it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run = partial(
        uvicorn.run,
        host=options.host.strip("[]"),
        port=options.port,
        access_log=False,
        server_header=False,
        loop="uvloop",
        http="httptools",
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    if options.processes == 1:
        run(gateway_app(settings))
        return
    settings.hand_over()
    with tempfile.TemporaryDirectory(prefix="gateway-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # the processes add up their figures there
        run("gateway.app:app_of_a_process", factory=True, workers=options.processes)
