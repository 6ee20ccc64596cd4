"""What runs here and on which hardware: everything that can change a vector's last bits, to compare machines."""

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from embeddinggemma.engine.encoder import Encoder
from embeddinggemma.weights.manifest import Manifest

_PACKAGES = ("cog", "numpy", "tokenizers", "torch")
# Instruction sets for which the matrix products have their own kernels.
_EXTENSIONS = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "sve", "bf16")


def runtime(
    manifest: Manifest, engine: str, encoder: Encoder, tokens_per_batch: int, threads_from: str
) -> dict[str, Any]:
    """Return the content of the `running:` line, as values that JSON can hold."""
    return {
        "model": manifest.model,
        "weights": manifest.folder_name,
        "engine": engine,
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "operators": encoder.model.operators,
        "device": device_name(encoder.device),
        "threads": encoder.thread.submit(torch.get_num_threads).result(),
        "threads_from": threads_from,
        "tokens_per_batch": tokens_per_batch,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed: the library works without Cog."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def device_name(device: torch.device) -> str:
    """Return the card's name, or the processor's with the extensions that its matrix products can use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capabilities = torch.cpu.get_capabilities()
    extensions = [name for name in _EXTENSIONS if capabilities.get(name)]
    return f"{capabilities.get('cpu_name', platform.machine())}: {', '.join(extensions)}"
