"""EmbeddingGemma-300M as a service: verified weights, the task's prompt, exact truncation, right vectors.

`from embeddinggemma import Embedder` is the library; see `embeddinggemma.embedder`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embeddinggemma.embedder import Embedder

__all__ = ["Embedder"]


def __getattr__(name: str) -> Any:
    """Import the library on first use, so that importing a small module of this package stays fast."""
    if name == "Embedder":
        from embeddinggemma.embedder import Embedder

        return Embedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
