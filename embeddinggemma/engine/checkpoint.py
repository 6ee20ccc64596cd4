"""The model's folder: the shapes in `config.json`, and the tensors in its safetensors files."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open

SLIDING, FULL = "sliding_attention", "full_attention"
_REQUIRED: Final[dict[str, Any]] = {
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "use_bidirectional_attention": True,
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "rope_scaling": None,
    "num_key_value_heads": 1,
}


@dataclass(frozen=True)
class Config:
    """The shapes in `config.json`, under its names, except `window` and `scale`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    head_dim: int
    layer_types: tuple[str, ...]
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: dict[str, float] = field(hash=False)
    """By layer type: `rope_local_base_freq` for sliding layers, `rope_theta` for full ones."""
    window: int
    """How many places to either side a sliding layer sees.

    transformers halves `sliding_window` (512) for bidirectional attention and adds one, then asks for distances below
    that: 256 places.
    """
    scale: float
    """Of the attention scores: query_pre_attn_scalar ** -0.5."""

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Read `config.json`.

        Raises:
            ValueError: it asks for something that the network does not compute.

        """
        raw = json.loads(path.read_text())
        for key, required in _REQUIRED.items():
            if raw.get(key) != required:
                raise ValueError(f"{path}: {key} is {raw.get(key)!r}; only {required!r} is implemented")
        layer_types = tuple(raw["layer_types"])
        if len(layer_types) != raw["num_hidden_layers"] or not {SLIDING, FULL}.issuperset(layer_types):
            raise ValueError(f"{path}: layer_types must name {SLIDING} or {FULL}, num_hidden_layers in all")
        return cls(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_attention_heads=raw["num_attention_heads"],
            head_dim=raw["head_dim"],
            layer_types=layer_types,
            max_position_embeddings=raw["max_position_embeddings"],
            rms_norm_eps=raw["rms_norm_eps"],
            rope_theta={SLIDING: raw["rope_local_base_freq"], FULL: raw["rope_theta"]},
            window=raw["sliding_window"] // 2,
            scale=raw["query_pre_attn_scalar"] ** -0.5,
        )


class TensorFile:
    """The tensors of one safetensors file, mapped into memory, as float32 of a known shape."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = safe_open(path, framework="pt")

    def stored(self, name: str, *shape: int) -> torch.Tensor:
        """Return a tensor in the dtype it is stored in, still on disk.

        Raises:
            ValueError: there is no such tensor, or it has another shape or dtype.

        """
        if name not in self._file.keys():  # noqa: SIM118 - not a dict
            raise ValueError(f"{self.path} has no tensor {name!r}; is it EmbeddingGemma?")
        tensor = self._file.get_tensor(name)
        if tensor.shape != shape or tensor.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(
                f"{self.path}: {name} is {tensor.dtype} {list(tensor.shape)}; needed: float32 or bfloat16 {list(shape)}"
            )
        return tensor

    def matrix(self, name: str, rows: int, columns: int) -> torch.Tensor:
        """Return `name.weight` [rows, columns] in float32."""
        return self.stored(f"{name}.weight", rows, columns).float()

    def norm(self, name: str, size: int) -> torch.Tensor:
        """Return the factor [size] of an RMSNorm in float32. Gemma stores the factor minus 1."""
        return 1 + self.stored(f"{name}.weight", size).float()
