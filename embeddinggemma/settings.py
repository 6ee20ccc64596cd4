"""The environment variables that an operator can set; no other module of the package reads settings from them.

An invalid value is refused here, before torch is imported or a byte is downloaded.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embeddinggemma.engine.contract import DTYPES, ENGINES
from embeddinggemma.validation import check_choice
from embeddinggemma.weights.manifest import ManifestError, mirror_source
from embeddinggemma.weights.store import CONNECTIONS, STALL_SECONDS, Store
from embeddinggemma.weights.urls import file_path

TRAFFIC_LOG_SECONDS = 60.0
_MANIFEST = Path(__file__).resolve().parent.parent / "weights_manifest.json"


@dataclass(frozen=True)
class Settings:
    """Which weights, where they are kept, how they are run, and what is logged."""

    manifest: Path
    """EMBEDDINGGEMMA_MANIFEST: the files, their digests and their sources; by default the one next to the package."""
    store: Store
    """EMBEDDINGGEMMA_CACHE, EMBEDDINGGEMMA_WEIGHTS_URL, HF_TOKEN, EMBEDDINGGEMMA_STALL_SECONDS and
    EMBEDDINGGEMMA_CONNECTIONS."""
    engine: str = "native"
    """EMBEDDINGGEMMA_ENGINE: native, or sentence-transformers, the slow reference."""
    dtype: str = "auto"
    """EMBEDDINGGEMMA_DTYPE: of the matrix products: auto, float32, bfloat16 or float16."""
    tokens_per_batch: int | None = None
    """EMBEDDINGGEMMA_TOKENS_PER_BATCH: tokens of one forward pass; None: the device's default."""
    threads: int | None = None
    """EMBEDDINGGEMMA_THREADS: threads that compute on a CPU; None: as many as the process may keep busy."""
    traffic_log_seconds: float = TRAFFIC_LOG_SECONDS
    """EMBEDDINGGEMMA_LOAD_LOG: seconds from one log line about the traffic to the next; 0: no lines."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from these variables, by default the process's own; an empty variable counts as unset.

        White space around a value is dropped: a secret that is made from a file ends in a line break.

        Raises:
            ValueError: a variable has an invalid value; the message names the variable.

        """
        environment = os.environ if environment is None else environment
        environment = {name: value.strip() for name, value in environment.items()}
        user_cache = Path(environment.get("XDG_CACHE_HOME") or "~/.cache")
        return cls(
            manifest=_path(environment, "EMBEDDINGGEMMA_MANIFEST", _MANIFEST),
            store=Store(
                cache=_path(environment, "EMBEDDINGGEMMA_CACHE", user_cache / "embeddinggemma"),
                mirror=_mirror(environment, "EMBEDDINGGEMMA_WEIGHTS_URL"),
                hf_token=_token(environment, "HF_TOKEN"),
                stall_seconds=_seconds(environment, "EMBEDDINGGEMMA_STALL_SECONDS", STALL_SECONDS),
                connections=_count(environment, "EMBEDDINGGEMMA_CONNECTIONS") or CONNECTIONS,
            ),
            engine=_choice(environment, "EMBEDDINGGEMMA_ENGINE", ENGINES),
            dtype=_choice(environment, "EMBEDDINGGEMMA_DTYPE", DTYPES),
            tokens_per_batch=_count(environment, "EMBEDDINGGEMMA_TOKENS_PER_BATCH"),
            threads=_count(environment, "EMBEDDINGGEMMA_THREADS"),
            traffic_log_seconds=_seconds_or_zero(environment, "EMBEDDINGGEMMA_LOAD_LOG", TRAFFIC_LOG_SECONDS),
        )


def _path(environment: Mapping[str, str], name: str, default: Path) -> Path:
    try:
        return Path(environment.get(name) or default).expanduser().absolute()  # whatever folder is entered later
    except RuntimeError:
        raise ValueError(f"{name}: there is no home folder that ~ could mean; set it to a path without ~") from None


def _mirror(environment: Mapping[str, str], name: str) -> str | None:
    """Return the URL of the mirror; a path becomes a URL here, so that it means the same in every process."""
    location = environment.get(name)
    if not location:
        return None
    try:
        source = mirror_source(location)
    except ManifestError as error:
        raise ValueError(f"{name}: {error}") from None
    folder_or_tar = file_path(source.url.removesuffix("/{path}"))
    if source.is_local and "{path}" not in str(folder_or_tar) and not folder_or_tar.exists():
        raise ValueError(f"{name} is neither a URL, as https://..., nor a folder or tar that exists on this machine")
    return source.url


def _token(environment: Mapping[str, str], name: str) -> str | None:
    token = environment.get(name)
    if token and not re.fullmatch(r"[!-~]+", token):
        raise ValueError(f"{name} cannot be sent in a header: it must be printable ASCII characters without spaces")
    return token or None


def _choice(environment: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """Return the variable's value; by default the first choice."""
    value = environment.get(name) or choices[0]
    check_choice(name, value, choices)
    return value


def _count(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name)
    if not value:
        return None
    if not value.isdecimal() or int(value) == 0:
        raise ValueError(f"{name} is {value!r}; it must be a positive whole number")
    return int(value)


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name} is {text!r}; it must be a number of seconds above 0")
    return seconds


def _seconds_or_zero(environment: Mapping[str, str], name: str, default: float) -> float:
    return 0.0 if environment.get(name) == "0" else _seconds(environment, name, default)
