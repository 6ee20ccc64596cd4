"""A real Ray cluster of two nodes on this machine, with a token, that a test can hold and break."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tools import PROJECT
from tools.client import wait_until
from tools.processes import bound_to_this
from tools.server import free_port

HEAD, OTHER = "127.0.0.2", "127.0.0.3"
"""The addresses of the two nodes: with loopback addresses, each is a machine of its own for Ray."""
_STORE_BYTES = 80 * 2**20  # Ray takes no less than 75 MB
_HIDE = 'mount -t tmpfs none "$0" && exec "$@"'

# Pins what fills a store, so that Ray cannot move it to the disk, and keeps it until stdin ends.
_FILL = """
import sys
import numpy as np
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
kept = [ray.get(ray.put(np.zeros(2**23, np.uint8))) for _ in range(int(sys.argv[2]) // 2**23 + 1)]
print("full", flush=True)
sys.stdin.read()
"""
_CLAIM = """
import json
import sys
from ray._raylet import GcsClient
client, key, space = GcsClient(address=sys.argv[1]), b"CLUSTER_METADATA", b"cluster"
known = json.loads(client.internal_kv_get(key, space))
client.internal_kv_put(key, json.dumps({**known, **json.loads(sys.argv[2])}).encode(), True, space)
print(json.dumps(known))
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    address: str
    folder: Path
    hidden: Path
    """A folder that the other node cannot see, if `hides`."""
    hides: bool
    variables: dict[str, str]
    """The environment of its nodes; with it a program is let in."""
    nodes: dict[str, "subprocess.Popen[bytes]"]

    @property
    def gate(self) -> Path:
        """The file that holds all workers while it exists."""
        return Path(self.variables["HELD_GATE"])

    def held(self, address: str) -> list[psutil.Process]:
        """Return the workers of a node that have begun to embed and are alive."""
        events = Path(self.variables["HELD_EVENTS"])
        begun = set(map(int, events.read_text().split())) if events.exists() else set()
        return [process for process in self.processes(address) if process.pid in begun and process.is_running()]

    def processes(self, address: str) -> list[psutil.Process]:
        """Return the processes of a node."""
        try:
            return psutil.Process(self.nodes[address].pid).children(recursive=True)
        except (psutil.NoSuchProcess, KeyError):  # it has ended, or was not started
            return []

    def kill(self, address: str) -> None:
        """End a node at once, with all of its processes."""
        processes = self.processes(address)
        self.nodes[address].kill()
        for process in processes:
            process.kill()
        psutil.wait_procs(processes)
        self.nodes[address].wait()

    @contextmanager
    def full_store(self) -> Iterator[None]:
        """Fill the object store of the head."""
        command = [sys.executable, "-c", _FILL, self.address, str(_STORE_BYTES)]
        with subprocess.Popen(
            command, env=self.variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin
            assert process.stdout
            assert any(line == "full\n" for line in process.stdout)
            yield
            process.stdin.close()

    @contextmanager
    def of_version(self, **versions: str) -> Iterator[None]:
        """Let the cluster say that it is of another version."""
        known = self._claim(versions)
        yield
        self._claim(known)

    def _claim(self, versions: dict[str, str]) -> dict[str, str]:
        command = [sys.executable, "-c", _CLAIM, self.address, json.dumps(versions)]
        claimed = subprocess.run(command, env=self.variables, check=True, capture_output=True, text=True)
        known: dict[str, str] = json.loads(claimed.stdout.splitlines()[-1])
        return known


@contextmanager
def running_cluster(*, nodes: Sequence[str] = (HEAD, OTHER), auth: str = "token") -> Iterator[Cluster]:
    """Start a cluster, and end it completely: the context raises AssertionError if a process of it is left.

    Args:
        nodes: their addresses, that of the head first.
        auth: Ray's RAY_AUTH_MODE.

    """
    with tempfile.TemporaryDirectory(
        prefix="eg-", dir="/tmp", ignore_cleanup_errors=True
    ) as name:  # short, for sockets
        folder = Path(name)
        hidden = folder / "hidden"
        hidden.mkdir()
        hide = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "sh", "-c", _HIDE, str(hidden)]
        hides = subprocess.run([*hide, "true"], capture_output=True, check=False).returncode == 0
        variables = {
            **os.environ,
            "HOME": name,
            "PYTHONPATH": str(PROJECT / "tests" / "support" / "held_worker"),
            "PYTHONUNBUFFERED": "1",
            "HELD_GATE": str(folder / "gate"),
            "HELD_EVENTS": str(folder / "events"),
            "RAY_AUTH_MODE": auth,
            "RAY_AUTH_TOKEN": secrets.token_hex(),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_period_ms": "500",  # of five in a row; each may take 10 s
        }
        port = free_port()
        cluster = Cluster(f"{HEAD}:{port}", folder, hidden, hides, variables, {})
        head = [f"--port={port}", f"--temp-dir={folder / 'r'}", "--include-dashboard=false"]
        seen: list[psutil.Process] = []
        try:
            cluster.nodes[HEAD] = _start(
                cluster, HEAD, [], ["--head", *head, f"--ray-client-server-port={free_port()}"]
            )
            for other in nodes[1:]:
                cluster.nodes[other] = _start(cluster, other, hide if hides else [], [f"--address={cluster.address}"])
            seen = [*cluster.processes(HEAD), *cluster.processes(OTHER)]
            yield cluster
        finally:
            seen += [*cluster.processes(HEAD), *cluster.processes(OTHER)]
            for address in cluster.nodes:  # asked to end, a node waits for half a minute for its work
                cluster.kill(address)
            _, left = psutil.wait_procs(seen, timeout=60)
        assert left == []


def _start(cluster: Cluster, address: str, wrapper: list[str], options: list[str]) -> "subprocess.Popen[bytes]":
    log = cluster.folder / f"{address}.log"
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    sizes = [f"--object-store-memory={_STORE_BYTES}", "--min-worker-port=0", "--max-worker-port=0"]
    with log.open("wb") as output:
        node = subprocess.Popen(
            [*wrapper, *ray, f"--node-ip-address={address}", *sizes, *options],
            env=cluster.variables,
            stdout=output,
            stderr=output,
            preexec_fn=bound_to_this(signal.SIGTERM),
        )

    def has_started() -> bool:
        assert node.poll() is None, log.read_text()
        return "Ray runtime started" in log.read_text()

    wait_until(has_started)
    return node
