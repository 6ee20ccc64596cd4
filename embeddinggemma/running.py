"""What runs here, and on what: all that a vector's last bits can depend on, so that two machines can be compared."""

import platform
from importlib.metadata import version
from typing import Any

import torch

from embeddinggemma.encoder import Encoder
from embeddinggemma.manifest import Manifest

_PACKAGES = ("cog", "numpy", "tokenizers", "torch")
# Instructions for which the matrix products have kernels of their own.
_EXTENSIONS = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "sve", "bf16")


def running(manifest: Manifest, engine: str, encoder: Encoder, tokens_per_batch: int) -> dict[str, Any]:
    """Return what the set-up log says, as JSON can hold it."""
    return {
        "model": manifest.model,
        "weights": manifest.folder_name,
        "engine": engine,
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "device": device_name(encoder.device),
        "threads": encoder.thread.submit(torch.get_num_threads).result(),
        "tokens_per_batch": tokens_per_batch,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in _PACKAGES},
    }


def device_name(device: torch.device) -> str:
    """Return the card's name, or the processor's with the extensions that its matrix products can use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capabilities = torch.cpu.get_capabilities()
    extensions = [name for name in _EXTENSIONS if capabilities.get(name)]
    return f"{capabilities.get('cpu_name', platform.machine())}: {', '.join(extensions)}"
