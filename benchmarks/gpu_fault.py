"""What a kernel's illegal access leads to: `python -m benchmarks.gpu_fault`, for the model of the variables."""

import torch

from embeddinggemma import Embedder
from embeddinggemma.engine.contract import BrokenEncoderError

_STRAY = 'extern "C" __global__ void stray(float* p) { p[1LL << 40] = 1; }'


def main() -> None:
    """Write outside the card's memory, ask for a vector, and print the error."""
    embedder = Embedder.load()
    stray = torch.cuda._compile_kernel(_STRAY, "stray")
    stray(grid=(1, 1, 1), block=(1, 1, 1), args=(torch.zeros(1, device="cuda"),))
    try:
        embedder.encode([[2, 5, 1]])
    except BrokenEncoderError as error:
        print(f"BrokenEncoderError: {str(error).splitlines()[0]}", flush=True)
    else:
        print("no error", flush=True)


if __name__ == "__main__":
    main()
