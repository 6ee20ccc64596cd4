"""The model exported for ONNX Runtime and OpenVINO: `python -m benchmarks.exported FOLDER PRECISION FILE` exports it.

Both read the same float32 file. It is made once, in a separate process, so the engine's memory does not hold torch.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embeddinggemma.tokenizer import Tokenizer
from embeddinggemma.weights.manifest import read_manifest

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]
Inputs = dict[str, npt.NDArray[np.int64]]

BATCH_SIZE = 8  # padded texts of similar length, as these runtimes are used


def onnxruntime(folder: Path, precision: str) -> Embed:
    """Return ONNX Runtime on the CPU, in float32 or with int8 matrices and activations quantised at run time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(_file(folder, precision), options, providers=["CPUExecutionProvider"])
    return _embed(folder, lambda inputs: session.run(None, inputs)[0])


def openvino(folder: Path, precision: str) -> Embed:
    """Return OpenVINO on the CPU, inferring in float32 or bfloat16."""
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision]}
    model = openvino.Core().compile_model(_file(folder, "float32"), "CPU", hints)
    return _embed(folder, lambda inputs: model(inputs)[0])


ENGINES = {"onnxruntime": onnxruntime, "openvino": openvino}
PRECISIONS = {"onnxruntime": ("float32", "int8"), "openvino": ("float32", "bfloat16")}


def _embed(folder: Path, run: Callable[[Inputs], Any]) -> Embed:
    """Return a function from texts to vectors: it tokenizes, and runs padded batches of texts of similar length."""
    tokenizer = Tokenizer(folder)

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        ids = [text.ids for text in tokenizer.tokenize(texts)]
        order = sorted(range(len(ids)), key=lambda position: len(ids[position]))
        batches = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
        vectors = np.concatenate([run(_pad([ids[position] for position in batch])) for batch in batches])
        return vectors[np.argsort(order)]  # in the order of the texts

    return embed


def _pad(ids: Sequence[Sequence[int]]) -> Inputs:
    shape = len(ids), max(map(len, ids))
    padded, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, text in enumerate(ids):
        padded[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return {"input_ids": padded, "attention_mask": mask}


def _file(folder: Path, precision: str) -> Path:
    """Return the file of the exported model, next to the original's folder; make it if it is missing."""
    model = read_manifest(folder / "weights_manifest.json").folder_name
    made = folder.parent / f"{model}-onnx-{precision}"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".onnx-") as name:
            making = Path(name) / precision
            making.mkdir()
            command = [sys.executable, "-m", "benchmarks.exported", str(folder), precision, str(making / "model.onnx")]
            subprocess.run(command, check=True, stdout=sys.stderr)  # engines answer on stdout
            making.rename(made)
    return made / "model.onnx"


def export(folder: Path, file: Path) -> None:
    """Write sentence-transformers' whole model, from token ids and mask to unit vectors, for any number and length."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    class Vectors(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            features = self.model({"input_ids": input_ids, "attention_mask": attention_mask})
            vectors: torch.Tensor = features["sentence_embedding"]
            return vectors

    any_shape = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    ids = torch.full((2, 600), 5)  # for tracing: longer than a window; neither number is fixed
    torch.onnx.export(
        Vectors().eval(),
        (ids, torch.ones_like(ids)),
        file,
        input_names=["input_ids", "attention_mask"],
        output_names=["vectors"],
        dynamic_shapes=(any_shape, any_shape),
        dynamo=True,
    )


def quantize(file: Path, quantized: Path) -> None:
    """Write a copy with int8 matrices; activations are quantised at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        file, quantized, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8, per_channel=True
    )


def main() -> None:
    """Write the model of one precision."""
    folder, precision, file = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    if precision == "int8":
        quantize(_file(folder, "float32"), file)
    else:
        export(folder, file)


if __name__ == "__main__":
    main()
