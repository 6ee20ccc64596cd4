"""The gateway's options, and its server."""

import argparse
import logging
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import uvicorn

from embeddinggemma.prompts import DOCUMENT_TASK, TASKS
from gateway.app import gateway_app
from gateway.core.settings import LOOPBACK_HOSTS, Settings, check_container, containers_in, is_loopback, key_digests

DRAIN_SECONDS = 30
"""For requests that run when the gateway is told to end."""
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


def run(parser: argparse.ArgumentParser, options: argparse.Namespace, started: Sequence[str] = ()) -> None:
    """Serve until a signal ends it. What is wrong with the options ends the program with a message.

    started: further containers.
    """
    settings = checked_settings(parser, options, started)
    _serve(settings, options.host.strip("[]"), options.port, options.processes)


def checked_settings(
    parser: argparse.ArgumentParser, options: argparse.Namespace, started: Sequence[str] = ()
) -> Settings:
    """Return the settings that the options and the environment give, or end the program with a message."""
    try:
        settings = settings_of(options, os.environ, started)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for name, least in (("processes", 1), ("max_body", 1), ("max_texts", 1), ("max_at_once", 1), ("max_waiting", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least {least}")
    if options.page and not Path(options.page).is_dir():
        parser.error(f"--page is {options.page}, and there is no such folder")
    if not 0 <= options.port <= 65_535:
        parser.error(f"--port is {options.port}; it must be between 0 and 65,535")
    if not settings.key_digests and not is_loopback(options.host):
        parser.error(
            f"--host is {options.host}, which others can reach, so keys are needed: GATEWAY_API_KEYS or --keys-file"
        )
    try:
        _listen(options.host.strip("[]"), options.port)
    except OSError as error:
        parser.error(f"no server can listen on {options.host}, port {options.port}: {error.strerror}; choose another")
    return settings


def _listen(host: str, port: int) -> None:
    """Raise OSError if the gateway cannot listen there, as uvicorn would."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def settings_of(options: argparse.Namespace, environment: Mapping[str, str], started: Sequence[str] = ()) -> Settings:
    """Return the settings that the options and the environment give; ValueError or OSError if they are wrong."""
    given = options.container or environment.get("GATEWAY_CONTAINERS", "").split()
    if options.containers_file:
        containers_in(Path(options.containers_file))  # a mistake in it is said now
    listens_on = () if options.host in _ANY_ADDRESS else (options.host,)
    return Settings(
        containers=tuple(dict.fromkeys(check_container(url) for url in [*given, *started])),
        containers_file=options.containers_file,
        key_digests=key_digests(environment.get("GATEWAY_API_KEYS", ""), options.keys_file),
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


def _serve(settings: Settings, host: str, port: int, processes: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    serve = partial(
        uvicorn.run,
        host=host,
        port=port,
        access_log=False,
        server_header=False,
        loop="uvloop",
        http="httptools",
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    if processes == 1:
        serve(gateway_app(settings))
        return
    settings.hand_over()
    with tempfile.TemporaryDirectory(prefix="gateway-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # the processes add up their figures there
        serve("gateway.app:app_of_a_process", factory=True, workers=processes)
