"""What Prometheus reads at /metrics."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    multiprocess,
)
from prometheus_client.registry import Collector
from starlette.responses import Response

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

REQUESTS = Counter("gateway_requests", "Requests that have ended, by door and HTTP status.", ["door", "status"])
TEXTS = Counter("gateway_texts", "Texts that were embedded, by door and task.", ["door", "task"])
TOKENS = Counter("gateway_tokens", "Their tokens, prompts included.", ["door", "task"])
SECONDS = Histogram("gateway_request_seconds", "From the request to its answer.", ["door"], buckets=_SECONDS)
IN_CONTAINERS = Gauge(
    "gateway_requests_in_containers", "Requests that a container has now.", multiprocess_mode="livesum"
)
WAITING = Gauge("gateway_requests_waiting", "Requests that wait for a container now.", multiprocess_mode="livesum")
UP = Gauge("gateway_container_up", "Whether a container can answer.", ["container"], multiprocess_mode="livemin")


class _Shown(Collector):
    """The figures of a registry, without those of containers that were taken out."""

    def __init__(self, registry: CollectorRegistry, containers: Collection[str]) -> None:
        self._registry = registry
        self._containers = containers

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            shown = [sample for sample in family.samples if self._is_known(sample.labels.get("container"))]
            family.samples = shown
            yield family

    def _is_known(self, container: str | None) -> bool:
        return container is None or container in self._containers


def forget_dead_processes(folder: str) -> None:
    """Take out the present figures of processes that have ended, which Prometheus' client keeps in a folder."""
    for pid in {int(file.stem.rpartition("_")[2]) for file in Path(folder).glob("gauge_live*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]


def metrics(containers: Collection[str]) -> Response:
    """Return the figures of all processes of the gateway, in Prometheus' text format.

    containers: the URLs of those that there are now.
    """
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(_Shown(registry, containers)), media_type=CONTENT_TYPE_LATEST)
