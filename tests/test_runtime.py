import json
from pathlib import Path

import torch

from embeddinggemma.engine.encoder import load_encoder
from embeddinggemma.runtime import runtime
from embeddinggemma.weights.manifest import read_manifest


def test_the_runtime_is_described_so_that_machines_can_be_compared(small_model: Path) -> None:
    manifest = read_manifest(small_model / "weights_manifest.json")
    described = json.loads(json.dumps(runtime(manifest, "native", load_encoder(small_model), 512, "processors")))
    assert described.pop("versions").keys() == {"python", "cog", "numpy", "tokenizers", "torch"}
    assert described.pop("device")
    assert described == {
        "model": "reference/embeddinggemma-small",
        "weights": manifest.folder_name,
        "engine": "native",
        "dtype": "float32",
        "operators": "plain",
        "threads": torch.get_num_threads(),
        "threads_from": "processors",
        "tokens_per_batch": 512,
    }
