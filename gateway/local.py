"""The gateway on this machine, with local servers behind it and the playground, as scripts/gateway runs it."""

import argparse
import os
import sys
from contextlib import ExitStack
from dataclasses import replace

from gateway.main import add_options, checked, serve
from gateway.page import built_page
from tools import PROJECT
from tools.server import LocalServer

LOGS = PROJECT / ".cache" / "gateway"
CONTAINER = "http://127.0.0.1:5000"


def main(description: str) -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=int, default=0, metavar="N", help="start N local servers behind the gateway")
    parser.add_argument("--playground", action="store_true", help="build the playground, and serve it at /")
    add_options(parser)
    options = parser.parse_args()
    if options.start < 0:
        parser.error(f"--start is {options.start}; it must be at least 0")
    if not (options.start or options.container or options.containers_file or os.environ.get("GATEWAY_CONTAINERS")):
        options.container = [CONTAINER]
    settings = checked(parser, options)
    if options.playground:
        settings = replace(settings, page=_page())
    with ExitStack() as stack:
        servers = [LocalServer(LOGS / f"container-{number}.log") for number in range(1, options.start + 1)]
        for server in servers:
            stack.callback(server.stop)
        for server in servers:
            server.wait_showing_log()
        started = tuple(server.url for server in servers)
        serve(replace(settings, containers=(*settings.containers, *started)), options)


def _page() -> str:
    try:
        return str(built_page())
    except RuntimeError as error:
        sys.exit(str(error))
