"""Where verified weights are kept, how missing ones are fetched, and how the token is kept from other programs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

STALL_SECONDS = 30.0  # longer than any pause of a transfer that is still alive
CONNECTIONS = 8


@dataclass(frozen=True)
class Store:
    """The cache of verified weights, and the operator's settings for filling it."""

    cache: Path
    """The folder that keeps verified weights."""
    mirror: str | None = None
    """Base URL, or URL of a tar, of the operator's own copy of the files; or the path of a folder or tar of this
    machine. Tried before the manifest's sources."""
    hf_token: str | None = field(default=None, repr=False)
    """Sent only to the manifest's gated source."""
    stall_seconds: float = STALL_SECONDS
    """How long a download may bring no byte before the next route is tried."""
    connections: int = CONNECTIONS
    """How many fetch a large file at once over HTTP."""


def without_token(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program that is not trusted with the token."""
    return {name: value for name, value in environment.items() if name != "HF_TOKEN"}
