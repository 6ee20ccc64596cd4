"""The gateway in this process, for Starlette's test client."""

from typing import Any

from starlette.types import ASGIApp

from gateway.app import gateway_app
from gateway.core.settings import Settings


def gateway_to(*containers: str, **changes: Any) -> ASGIApp:
    """Return the gateway to these containers; `changes` are fields of its settings."""
    return gateway_app(Settings(containers=containers, **{"hosts": ("testserver",), **changes}))
