"""Gateways for tests: in this process, and in one of their own."""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp

from gateway.app import gateway_app
from gateway.core.settings import Settings
from gateway.main import SERVER_OPTIONS, add_options, settings_of
from tools import PROJECT
from tools.client import Client, wait_until


def gateway_to(*containers: str, **changes: Any) -> ASGIApp:
    """Return the gateway to these containers; `changes` are fields of its settings."""
    return gateway_app(Settings(containers=containers, **{"hosts": ("testserver",), **changes}))


class Figures(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """What /metrics shows, read by Prometheus' own parser."""

    def of(self, name: str, **labels: str) -> float:
        """Return the sum of a figure's samples that have these labels."""
        wanted = set(labels.items())
        return sum(value for (sample, its), value in self.items() if sample == name and wanted <= its)


class RunningGateway(Client):
    """A client of a gateway that runs, with its log."""

    def __init__(self, url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        super().__init__(url)
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self._log.read_text()

    def access_log(self) -> list[dict[str, Any]]:
        """Return its lines about requests."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith('{"id"')]

    def figures(self) -> Figures:
        """Return its figures."""
        return figures(requests.get(f"{self.url}/metrics", timeout=600).text)

    def refuses_connections(self) -> bool:
        """Return whether nothing listens on its port."""
        try:
            socket.create_connection((urlsplit(self.url).hostname, self.port), timeout=600).close()
        except ConnectionRefusedError:
            return True
        return False

    def is_up(self, container: str) -> bool:
        """Return whether it takes a container for one that can answer."""
        return self.figures().of("gateway_container_up", container=container) == 1


def figures(text: str) -> Figures:
    """Return the figures of /metrics."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return Figures({(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples})


@contextmanager
def gateway_process(
    folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[RunningGateway]:
    """Run `python -m gateway` on a free port of this machine, with its log in the folder."""
    log = folder / "gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "--port", "0", *options],
            cwd=PROJECT,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    started = re.compile(r"running on (http://\S+:\d+)")
    try:
        wait_until(lambda: started.search(log.read_text()) or process.poll() is not None)
        found = started.search(log.read_text())
        assert found, log.read_text()
        gateway = RunningGateway(found[1], process, log)
        wait_until(lambda: not gateway.refuses_connections())  # several processes name the port before they listen
        yield gateway
    finally:
        process.terminate()
        process.wait()


def gateway_refusal(*options: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the message with which the gateway refuses its options."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    with pytest.raises((ValueError, OSError)) as refused:
        settings_of(parser.parse_args(options), environment or {})
    return str(refused.value)


@contextmanager
def served(app: ASGIApp) -> Iterator[Client]:
    """Serve an app in this process, on a port of its own, as the gateway's own process does."""
    options = {**SERVER_OPTIONS, "timeout_graceful_shutdown": 1, "log_config": None}
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Client(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join()
