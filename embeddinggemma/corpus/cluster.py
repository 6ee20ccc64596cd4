"""Ray: this machine's own, or a cluster, which machines of it can do the work, and its errors as one line each."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from embeddinggemma.corpus.node import what_is_missing
from embeddinggemma.corpus.parts import Part
from embeddinggemma.corpus.placement import Machine, workers_in
from embeddinggemma.corpus.stores import Location, ObjectPath
from embeddinggemma.weights.manifest import Manifest
from embeddinggemma.weights.store import Store

log = logging.getLogger(__name__)

_PORT = 6379  # where `ray start --head` listens by default
_PROBE_SECONDS = 10.0
_WATCH_SECONDS = 5.0
_TOKEN_FILE = Path(".ray", "auth_token")  # in the user's home

_REMEDY = (
    "put the token that the head has in ~/.ray/auth_token into RAY_AUTH_TOKEN, or its path into RAY_AUTH_TOKEN_PATH"
)
_NOT_A_NODE = (
    "no node of it runs on this machine; run `ray start --address={address}` here, or this command on one of its "
    "machines"
)


def check_cluster(address: str) -> str:
    """Return the address of a cluster as HOST:PORT, once it is sure that it lets this program in.

    Ray itself tries for a quarter of an hour to reach a host that does not exist.

    Raises:
        ValueError: there is no cluster, or it refuses the token; the message says what to do.

    """
    token_from = _checked_token() if os.environ.get("RAY_AUTH_MODE", "").lower() == "token" else None
    _silence()
    found = _find(address)
    _probe(found, address)
    lets_in = _lets_in(found, address)
    if not lets_in and not os.environ.get("RAY_AUTH_MODE") and _token_source():
        token_from = _checked_token()
        _send_token()
        lets_in = _lets_in(found, address)
    if not lets_in:
        mode = os.environ.get("RAY_AUTH_MODE")
        without = f"it lets nobody in without its token{f', and RAY_AUTH_MODE is {mode}' if mode else ''}"
        reason = f"it refuses the token from {token_from}" if token_from else without
        raise ValueError(f"--address {address}: {reason}; {_REMEDY}")
    return found


def _lets_in(found: str, address: str) -> bool:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled: no stub names it
    from ray.exceptions import AuthenticationError, RayError

    try:
        with _no_stderr():
            GcsClient(address=found)
    except AuthenticationError:
        return False
    except RayError as error:
        raise ValueError(
            f"--address {address}: what answers there is no Ray cluster of this version ({_one_line(error)})"
        ) from None
    return True


def _find(address: str) -> str:
    """Return the HOST:PORT of an address; `auto` is the cluster of RAY_ADDRESS, or that of this machine."""
    from ray._private.services import canonicalize_bootstrap_address

    meant = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    try:
        found = canonicalize_bootstrap_address(meant if meant == "auto" else _host_and_port(meant))
    except ConnectionError:
        raise ValueError(
            f"--address {address}: no cluster runs on this machine; give HOST:PORT of a cluster's head"
        ) from None
    return str(found)


def _host_and_port(address: str) -> str:
    if "://" in address:
        raise ValueError(
            f"--address {address}: give HOST:PORT of the cluster's head, without a protocol, on one of its machines"
        )
    try:
        parts = urlsplit(f"//{address}")
        port = parts.port or _PORT
    except ValueError:
        parts, port = urlsplit("//"), 0
    if not parts.hostname or parts.netloc != address or address == "local":
        raise ValueError(f"--address is {address!r}; it must be HOST:PORT of a Ray cluster's head, or auto")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"


def _probe(found: str, address: str) -> None:
    parts = urlsplit(f"//{found}")
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=_PROBE_SECONDS).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"--address {address}: no Ray cluster answers at {found} ({reason}); give the HOST:PORT that "
            "`ray start --head` printed there"
        ) from None


def _send_token() -> None:
    """Let Ray send the token to a cluster that asks for it; in one that does not, no worker would have it."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")  # it has read the variable already


def _checked_token() -> str:
    """Return where the token is from.

    Raises:
        ValueError: it is none, with which Ray would abort.

    """
    source = _token_source()
    if not source:
        raise ValueError(f"RAY_AUTH_MODE is token, and there is none; {_REMEDY}")
    name, token = source
    if not token:
        raise ValueError(f"{name} holds no token, or cannot be read; {_REMEDY}")
    if not (token.isascii() and token.isprintable()):
        raise ValueError(f"{name} holds characters that no token has; {_REMEDY}")
    return name


def _token_source() -> tuple[str, str] | None:
    """Return where Ray takes the token from, and the token; an empty one is no token, or one that cannot be read."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN", token.strip()
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"RAY_AUTH_TOKEN_PATH, {path},", _content(Path(path))
    path_at_home = Path.home() / _TOKEN_FILE
    return (f"~/{_TOKEN_FILE}", _content(path_at_home)) if path_at_home.exists() else None


def _content(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeError):
        return ""


def _silence() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Discard what goes to stderr: before it is connected, Ray writes there whatever its log level is."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextmanager
def connected(**arguments: Any) -> Iterator[None]:
    """Start or join Ray; the arguments are those of `ray.init`.

    Raises:
        RuntimeError: it failed; the message is one line.

    """
    _silence()
    import ray

    try:
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL, **arguments)
        except (ConnectionError, RuntimeError) as error:
            raise RuntimeError(_why_not_joined(error, arguments["address"])) from None
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own ends in SIGABRT
        yield
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"Ray failed: {_one_line(error)}") from None
    finally:
        ray.shutdown()


@contextmanager
def joined(address: str, package: Path) -> Iterator[None]:
    """Join a cluster, to which the package is sent, for as long as the context lasts.

    Raises:
        ValueError, RuntimeError: as for check_cluster and connected.

    """
    found = check_cluster(address)
    left = threading.Event()
    with connected(address=found, runtime_env={"py_modules": [str(package)]}):
        watch = threading.Thread(target=_watch, args=(found, left), daemon=True)
        watch.start()
        try:
            yield
        finally:
            left.set()


def _watch(address: str, left: threading.Event) -> None:
    """Say that the head is gone, once: Ray ends this process a minute later, without a word."""
    while not left.wait(_WATCH_SECONDS):
        try:
            _probe(address, address)
        except ValueError:
            log.warning("the cluster's head is gone; if it stays away, the same command goes on from here")
            return


def _why_not_joined(error: Exception, address: str) -> str:
    if "No node info found" in str(error.__cause__):
        return f"--address {address}: {_NOT_A_NODE.format(address=address)}"
    if str(error).startswith("Version mismatch"):
        return f"--address {address}: {' '.join(str(error).split())}; the same versions are needed"
    return f"Ray failed: {_one_line(error)}"


def _one_line(error: Exception) -> str:
    """Return what an error of Ray says; below its first line are lines of Ray's code."""
    return str(error).strip().partition("\n")[0]


def gpus_here() -> int:
    """Return how many GPUs Ray has found."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def usable_machines(
    sizes: dict[str, int], sample: ObjectPath | None, manifest: Manifest, store: Store
) -> list[Machine]:
    """Return the machines of the cluster that can work, once each has verified weights and can read INPUT.

    Args:
        sizes: the files of INPUT, each of which is looked at.
        sample: an object of INPUT, if it is in a store: who reads one reads all.
        manifest: the weights.
        store: where they are kept.

    Raises:
        RuntimeError: a machine lacks something, and the message says which and what; or there is none.

    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    files = ray.put(sizes)
    check = ray.remote(num_cpus=0, max_retries=0)(what_is_missing)
    answers = [
        check.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            files, sample, manifest, store
        )
        for node in nodes
    ]
    machines, problems = [], []
    for node, answer in zip(nodes, answers, strict=True):
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            problem = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            problem = str(error).strip().rpartition("\n")[2]
        except ray.exceptions.RayError:
            log.warning("the machine %s is gone", name)
            continue
        if problem:
            problems.append(f"{name}: {problem}")
        resources = node["Resources"]
        machines.append(
            Machine(
                int(resources["CPU"]),
                int(resources.get("GPU", 0)),
                workers_in(resources.get("memory", 0), manifest),
            )
        )
    if problems:
        raise RuntimeError(f"not every machine of the cluster can do the work: {'; '.join(problems)}")
    if not machines:
        raise RuntimeError("no machine of the cluster has a CPU core for the work")
    return machines


def file_sizes(parts: Sequence[Part]) -> dict[str, int]:
    """Return the files of INPUT that the parts are read from, with their sizes; none, if it is in a store."""
    paths = {path for path in _locations(parts) if isinstance(path, Path)}
    return {str(path): path.stat().st_size for path in sorted(paths)}


def an_object(parts: Sequence[Part]) -> ObjectPath | None:
    """Return an object of INPUT; None: it is not in a store."""
    return next((path for path in _locations(parts) if isinstance(path, ObjectPath)), None)


def _locations(parts: Sequence[Part]) -> Iterator[Location]:
    for part in parts:
        for read in part.slices:
            yield from [read.path / name for name in read.files] or [read.path]
