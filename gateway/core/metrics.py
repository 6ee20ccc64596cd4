"""What Prometheus reads at /metrics."""

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
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


def metrics() -> Response:
    """Return the figures of all processes of the gateway, in Prometheus' text format."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
