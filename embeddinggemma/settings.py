"""The environment variables that an operator may set; nothing else in the package reads the environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

STALL_SECONDS = 30.0  # longer than any pause of a transfer that is still alive
LOAD_LOG_SECONDS = 60.0


@dataclass(frozen=True)
class Store:
    """Where verified weights are kept, and how missing ones are had."""

    cache: Path
    """EMBEDDINGGEMMA_CACHE: the folder that keeps verified weights."""
    weights_url: str | None = None
    """EMBEDDINGGEMMA_WEIGHTS_URL: base URL of one's own copy of the files, tried before the manifest's sources."""
    hf_token: str | None = field(default=None, repr=False)
    """HF_TOKEN: sent to the manifest's gated source and nowhere else."""
    stall_seconds: float = STALL_SECONDS
    """EMBEDDINGGEMMA_STALL_SECONDS: how long a download may bring no byte before the next way is taken; 30."""


@dataclass(frozen=True)
class Settings:
    """Which weights, where they are kept, how they are run, and what is logged of it."""

    manifest: Path
    """EMBEDDINGGEMMA_MANIFEST: the files, their digests and their sources."""
    store: Store
    engine: str
    """EMBEDDINGGEMMA_ENGINE: native, or sentence-transformers, the slow reference."""
    dtype: str
    """EMBEDDINGGEMMA_DTYPE: of the matrix products: auto, float32 or bfloat16."""
    tokens_per_batch: int | None
    """EMBEDDINGGEMMA_TOKENS_PER_BATCH: tokens of one forward pass; None: what was measured to be best."""
    load_log_seconds: float
    """EMBEDDINGGEMMA_LOAD_LOG: seconds from one log line about the load to the next; 60; 0: no such lines."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], project: Path) -> "Settings":
        """Read the settings; an empty variable counts as unset. `project` is the folder of predict.py.

        Raises:
            ValueError: a variable has a value that it cannot have; the message names it.

        """

        def value(name: str, default: Path) -> Path:
            return Path(environment.get(name) or default).expanduser()

        user_cache = Path(environment.get("XDG_CACHE_HOME") or "~/.cache")
        return cls(
            manifest=value("EMBEDDINGGEMMA_MANIFEST", project / "weights_manifest.json"),
            store=Store(
                cache=value("EMBEDDINGGEMMA_CACHE", user_cache / "embeddinggemma"),
                weights_url=environment.get("EMBEDDINGGEMMA_WEIGHTS_URL") or None,
                hf_token=environment.get("HF_TOKEN") or None,
                stall_seconds=_seconds(environment, "EMBEDDINGGEMMA_STALL_SECONDS", STALL_SECONDS),
            ),
            engine=environment.get("EMBEDDINGGEMMA_ENGINE") or "native",
            dtype=environment.get("EMBEDDINGGEMMA_DTYPE") or "auto",
            tokens_per_batch=_count(environment, "EMBEDDINGGEMMA_TOKENS_PER_BATCH"),
            load_log_seconds=_seconds_or_none(environment, "EMBEDDINGGEMMA_LOAD_LOG", LOAD_LOG_SECONDS),
        )


def _count(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name)
    if not value:
        return None
    if not value.isdecimal() or int(value) == 0:
        raise ValueError(f"{name} is {value!r}; it must be a positive whole number")
    return int(value)


def _seconds_or_none(environment: Mapping[str, str], name: str, default: float) -> float:
    return 0.0 if environment.get(name) == "0" else _seconds(environment, name, default)


def without_token(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for another program: a list of processes may show it, so HF_TOKEN is not in it."""
    return {name: value for name, value in environment.items() if name != "HF_TOKEN"}


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name} is {text!r}; it has to be a number of seconds above 0")
    return seconds
