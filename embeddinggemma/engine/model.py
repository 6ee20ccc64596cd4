"""EmbeddingGemma in native PyTorch: token ids in, one vector per text out.

The model is Gemma 3's decoder run as an encoder: bidirectional attention, mean pooling, two dense layers. The formulas
come from transformers' `modeling_gemma3.py` and from sentence-transformers' Pooling and Dense.

Two things make it fast:

- Packing: the tokens of all texts lie end to end in one [tokens, hidden] matrix; nothing is ever padded.
- Fusing at load time, exact up to rounding: query, key and value are one matrix; a norm's (1 + weight) is folded into
  the matrix that follows it; the two dense layers, which have no activation between them, are one matrix.

Weights and inputs of the matrix products have the model's dtype. The residual stream, norms, rotations, pooling and
projection are always float32 (in bfloat16, sentence-transformers' vectors only reach a cosine of 0.997).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from embeddinggemma.engine.attention import Attention, Packing, attention_for, varlen_attention
from embeddinggemma.engine.checkpoint import SLIDING, Config, TensorFile
from embeddinggemma.engine.graphs import BUCKETS, ShortTextGraphs
from embeddinggemma.engine.linear import Linear, gelu_gated


def rms_norm(x: torch.Tensor, eps: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return x / sqrt(mean(x²) + eps) along the last dimension, in float32; the factor is applied elsewhere.

    `out` may be `x` itself; on the CPU that spares the caches another tensor.
    """
    if x.is_cuda:
        return F.rms_norm(x, x.shape[-1:], None, eps)  # one kernel on the GPU, seven passes on the CPU
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.mul(x, torch.addcmul(x.new_tensor(eps), norm, norm, value=1 / x.shape[-1]).rsqrt_(), out=out)


def rotations(theta: float, config: Config) -> torch.Tensor:
    """Return the rotary embedding as unit complex numbers [positions, 1, head_dim / 2]: e^(i · position · frequency).

    The frequencies are theta ** (-2j / head_dim) (RoFormer, arXiv 2104.09864), in float32 as in transformers.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    positions = torch.arange(config.max_position_embeddings, dtype=torch.float32)
    angles = torch.outer(positions, 1.0 / theta**exponents)
    return torch.polar(torch.ones_like(angles), angles)[:, None]


def pair_halves(heads: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder each head's rows 0, 1, 2, … to 0, n/2, 1, n/2 + 1, …: [heads * head_dim, …], the same shape.

    Gemma rotates dimension j together with j + n/2; side by side the two are one complex number, so the rotation is one
    complex product. Queries and keys are reordered alike, which leaves their dot products unchanged.
    """
    return heads.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


class Layer:
    """One transformer block: x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    def __init__(
        self, tensors: TensorFile, index: int, config: Config, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Fuse the weights of layer `index` and move them to `device` in `dtype`."""
        hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
        queries, name = config.num_attention_heads * head_dim, f"layers.{index}"
        self.config, self.type = config, config.layer_types[index]

        query = pair_halves(tensors.matrix(f"{name}.self_attn.q_proj", queries, hidden), head_dim)
        key = pair_halves(tensors.matrix(f"{name}.self_attn.k_proj", head_dim, hidden), head_dim)
        value = tensors.matrix(f"{name}.self_attn.v_proj", head_dim, hidden)
        gate = tensors.matrix(f"{name}.mlp.gate_proj", inner, hidden)
        up = tensors.matrix(f"{name}.mlp.up_proj", inner, hidden)
        attention_norm = tensors.norm(f"{name}.input_layernorm", hidden)
        mlp_norm = tensors.norm(f"{name}.pre_feedforward_layernorm", hidden)
        query_norm = tensors.norm(f"{name}.self_attn.q_norm", head_dim) * config.scale
        key_norm = tensors.norm(f"{name}.self_attn.k_norm", head_dim)

        def linear(matrix: torch.Tensor) -> Linear:
            return Linear(matrix.to(device, dtype))

        self.query_key_value = linear(torch.cat([query, key, value]) * attention_norm)
        self.attention_output = linear(tensors.matrix(f"{name}.self_attn.o_proj", hidden, queries))
        self.gate, self.up = linear(gate * mlp_norm), linear(up * mlp_norm)
        self.down = linear(tensors.matrix(f"{name}.mlp.down_proj", hidden, inner))
        # One row per head, all query heads and then the key. Not folded into the matrix before it, because the heads
        # are normalised in between. The same holds for the two norms after attention and MLP.
        norms = [pair_halves(norm, head_dim) for norm in (query_norm, key_norm)]
        self.head_norms = torch.stack([norms[0]] * config.num_attention_heads + [norms[1]]).to(device)
        self.post_attention_norm = tensors.norm(f"{name}.post_attention_layernorm", hidden).to(device)
        self.post_mlp_norm = tensors.norm(f"{name}.post_feedforward_layernorm", hidden).to(device)
        self.dtype = dtype

    def __call__(self, x: torch.Tensor, rotation: torch.Tensor, packing: Packing, attend: Attention) -> torch.Tensor:
        """Transform x, float32 [tokens, hidden], in place; rotation is complex64 [tokens, 1, head_dim / 2]."""
        eps = self.config.rms_norm_eps
        query, key, value = self.projected(rms_norm(x, eps).to(self.dtype), rotation)
        window = self.config.window if self.type == SLIDING else None
        attended = self.attention_output(attend(query, key, value, packing, window)).float()
        x.addcmul_(rms_norm(attended, eps, out=attended), self.post_attention_norm)
        mixed = self.down(gelu_gated(rms_norm(x, eps).to(self.dtype), self.gate, self.up)).float()
        return x.addcmul_(rms_norm(mixed, eps, out=mixed), self.post_mlp_norm)

    def projected(self, x: torch.Tensor, rotation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return query [tokens, heads, head_dim], key and value [tokens, head_dim] of x [tokens, hidden].

        Query and key are rotated.
        """
        heads, head_dim = self.head_norms.shape
        mixed = self.query_key_value(x)
        turned = mixed[:, :-head_dim].unflatten(1, (heads, head_dim)).float()
        turned = rms_norm(turned, self.config.rms_norm_eps, out=turned).mul_(self.head_norms)
        pairs = torch.view_as_complex(turned.unflatten(2, (-1, 2)))
        query = torch.view_as_real(pairs[:, :-1] * rotation).flatten(2).to(self.dtype)
        key = torch.view_as_real(pairs[:, -1:] * rotation).flatten(1).to(self.dtype)
        return query, key, mixed[:, -head_dim:]


class EmbeddingGemma:
    """The whole model: token embedding, layers, mean pooling and projection."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.config = config = Config.load(folder / "config.json")
        self.device, self.dtype, self.attend = device, dtype, attention_for(device, dtype)
        path, hidden = folder / "model.safetensors", config.hidden_size
        # On the CPU the table stays mapped from the file: only the rows of tokens that occur are read.
        table = TensorFile(path).stored("embed_tokens.weight", config.vocab_size, hidden)
        self.token_embedding = table.to(device)
        # Mapped again for each layer, so that the pages read for it are freed once it is fused.
        self.layers = [Layer(TensorFile(path), i, config, device, dtype) for i in range(len(config.layer_types))]
        thetas = config.rope_theta.items()
        self.rotations = {kind: rotations(theta, config).to(device) for kind, theta in thetas}
        matrix = projection(folder, config)
        self.size, self.projection = len(matrix), Linear(matrix.to(device))
        self.graphs = ShortTextGraphs(self.forward, device) if self.attend is varlen_attention else None

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> "EmbeddingGemma":
        """Read config.json, model.safetensors, 2_Dense and 3_Dense from `folder`.

        Args:
            folder: the model's files.
            device: where to compute.
            dtype: of the matrix products: float32 (exact) or bfloat16 (faster; cosine to float32 0.9998).

        Raises:
            ValueError: any other dtype, or the files ask for something that is not implemented.

        """
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"{dtype} is refused: use float32 or bfloat16 (float16 overflows to NaN)")
        with torch.inference_mode():
            return cls(folder, device, dtype)

    @torch.inference_mode()
    def encode(self, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Embed each text's token ids: float32 [texts, size] on the CPU, mean-pooled, projected, not unit.

        A text's vector does not depend on the other texts.

        Raises:
            ValueError: a text is empty or has more than max_position_embeddings tokens, or an id is outside the
                vocabulary.

        """
        self._check(token_ids)
        if self.graphs and len(token_ids) == 1 and len(token_ids[0]) <= BUCKETS[-1]:
            return self.graphs.encode(token_ids[0])
        if not token_ids:
            return torch.empty(0, self.size)
        # Texts of equal length that lie side by side share one product in attention.
        order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
        packing = Packing.of(tuple(len(token_ids[i]) for i in order), self.device)
        ids = torch.tensor([token for i in order for token in token_ids[i]])
        vectors = torch.empty(len(order), self.size)
        vectors[order] = self.forward(ids.to(self.device), packing).cpu()
        return vectors

    @torch.inference_mode()
    def token_states(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Return the last layer's normalised state of each token of one text: float32 [tokens, hidden]."""
        packing = Packing.of((len(token_ids),), self.device)
        return self._states(torch.tensor(token_ids, device=self.device), packing)

    def products(self, tokens: int) -> torch.Tensor:
        """Compute only the matrix products of a forward pass over `tokens` tokens: they limit its speed.

        Returns:
            [tokens, hidden] on the device; its values mean nothing.

        """
        config = self.config
        x = torch.ones(tokens, config.hidden_size, device=self.device, dtype=self.dtype)
        for layer in self.layers:
            attended = layer.query_key_value(x)[:, : config.num_attention_heads * config.head_dim]
            layer.attention_output(attended)
            mixed = layer.down(gelu_gated(x, layer.gate, layer.up))
        return mixed

    def forward(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Return the vectors, float32 [texts, size], of ids, int64 [tokens]: on the device, without waiting for it."""
        return self.projection(mean_pool(self._states(ids, packing), packing.cu_seqlens))

    def _states(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        x = F.embedding(ids, self.token_embedding).float() * math.sqrt(self.config.hidden_size)
        rotation = {kind: table[packing.positions] for kind, table in self.rotations.items()}
        for layer in self.layers:
            x = layer(x, rotation[layer.type], packing, self.attend)
        return rms_norm(x, self.config.rms_norm_eps)

    def _check(self, token_ids: Sequence[Sequence[int]]) -> None:
        longest, vocabulary = self.config.max_position_embeddings, self.config.vocab_size
        for i, ids in enumerate(token_ids):
            if not 0 < len(ids) <= longest:
                raise ValueError(f"token_ids[{i}] has {len(ids)} tokens; a text has 1 to {longest}")
            if min(ids) < 0 or max(ids) >= vocabulary:
                raise ValueError(f"token_ids[{i}] has an id outside the vocabulary, 0 to {vocabulary - 1}")


def mean_pool(x: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """Return the mean of each text's rows (a "bag" of consecutive rows), [texts, hidden], of x [tokens, hidden]."""
    rows = torch.arange(len(x), device=x.device, dtype=cu_seqlens.dtype)
    return F.embedding_bag(rows, x, cu_seqlens, mode="mean", include_last_offset=True)


def projection(folder: Path, config: Config) -> torch.Tensor:
    """Return the final norm's factor and both dense layers as one matrix [size, hidden], multiplied in float64.

    Pooling lies between the norm and the dense layers, but a mean commutes with a factor per column.
    """
    norm = TensorFile(folder / "model.safetensors").norm("norm", config.hidden_size).double()
    matrices = []
    for name in ("2_Dense", "3_Dense"):
        size = json.loads((folder / name / "config.json").read_text())
        if size["bias"] or not size["activation_function"].endswith("Identity"):
            raise ValueError(f"{folder / name}: a dense layer with bias or activation is not implemented")
        tensors = TensorFile(folder / name / "model.safetensors")
        matrices.append(tensors.matrix("linear", size["out_features"], size["in_features"]))
    return (matrices[1].double() @ matrices[0].double() * norm).float()
