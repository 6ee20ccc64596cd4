"""Compile the kernels for a card that need not be there: `python -m tests.support.compiled CAPABILITY DTYPE`.

It prints the shared memory that a program of each kernel uses, in bytes, as JSON.
"""

import json
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from embeddinggemma.engine import kernels
from embeddinggemma.engine.packing import TILE

_INTEGERS = ("ids", "positions", "cu_seqlens", "tile_rows", "tile_texts")
_IN_DTYPE = ("normed", "update", "mixed", "gate_up", "gated", "query", "key", "value", "attended")
_NUMBERS = {"scale": "fp32", "eps": "fp32", "update_eps": "fp32", "count": "i32", "window": "i32"}
_CONSTANTS: dict[str, dict[str, int | None]] = {
    "_embed": {"factor": None, "HIDDEN": 768, "PADDED": 1024},
    "_add_norm": {"factor": None, "HIDDEN": 768, "PADDED": 1024},
    "_turn": {"HEADS": 4, "PADDED": 4, "SIZE": 256},
    "_gelu_gated": {"INNER": 1152, "BLOCK": 1024},
    "_mean_pool": {"HIDDEN": 768, "ROWS": 32, "COLUMNS": 128},
    "_attend": {"STRIDE": 1280, "HEADS": 3, "SIZE": 256, "ROWS": TILE, "KEYS": 32},
}


def shared_memory(name: str, capability: int, dtype: str) -> int:
    """Compile a kernel at full size, for pointers to aligned memory, as torch gives them."""
    kernel, constants = getattr(kernels, name), _CONSTANTS[name]

    def kind(parameter: str) -> str:
        if parameter in constants:
            return "constexpr"
        if parameter in _INTEGERS:
            return "*i32"
        return _NUMBERS.get(parameter) or (f"*{dtype}" if parameter in _IN_DTYPE else "*fp32")

    signature = {parameter: kind(parameter) for parameter in kernel.arg_names}
    pointers = [place for place, of in enumerate(signature.values()) if of.startswith("*")]
    aligned = {(place,): [["tt.divisibility", 16]] for place in pointers}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": 4, "num_stages": 2}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return int(compiled.metadata.shared)


def main() -> None:
    """Attention by tiles is for cards with matrix units that Triton uses."""
    capability, dtype = int(sys.argv[1]), sys.argv[2]
    names = [name for name in _CONSTANTS if name != "_attend" or capability >= 80]
    print(json.dumps({name: shared_memory(name, capability, dtype) for name in names}))  # noqa: T201


if __name__ == "__main__":
    main()
