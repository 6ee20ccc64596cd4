"""The environment variables that an operator may set; nothing else in the package reads the environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Where the weights come from and where they are kept."""

    manifest: Path
    """EMBEDDINGGEMMA_MANIFEST: the files, their digests and their sources."""
    cache: Path
    """EMBEDDINGGEMMA_CACHE: the folder that keeps verified weights."""
    weights_url: str | None
    """EMBEDDINGGEMMA_WEIGHTS_URL: base URL of one's own copy of the files, tried before the manifest's sources."""
    hf_token: str | None = field(repr=False)
    """HF_TOKEN: sent to the manifest's gated source and nowhere else."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], project: Path) -> "Settings":
        """Read the settings; an empty variable counts as unset. `project` is the folder of predict.py."""

        def value(name: str, default: Path) -> Path:
            return Path(environment.get(name) or default).expanduser()

        user_cache = Path(environment.get("XDG_CACHE_HOME") or "~/.cache")
        return cls(
            manifest=value("EMBEDDINGGEMMA_MANIFEST", project / "weights_manifest.json"),
            cache=value("EMBEDDINGGEMMA_CACHE", user_cache / "embeddinggemma"),
            weights_url=environment.get("EMBEDDINGGEMMA_WEIGHTS_URL") or None,
            hf_token=environment.get("HF_TOKEN") or None,
        )
