"""EmbeddingGemma in native PyTorch: token ids in, one vector per text out.

The model is Gemma 3's decoder run as an encoder: bidirectional attention, mean pooling, two dense layers. The formulas
come from transformers' `modeling_gemma3.py` and from sentence-transformers' Pooling and Dense.

Three things make it fast:

- Packing: the tokens of all texts lie end to end in one [tokens, hidden] matrix; no text is padded, but where attention
  needs it.
- Fusing at load time, exact up to rounding: query, key and value are one matrix; a norm's (1 + weight) is folded into
  the matrix that follows it, except in float16; the two dense layers, which have no activation between them, are one
  matrix.
- Between the products, operators made for the device, `operators.py` and `kernels.py`.

Weights and inputs of the matrix products have the model's dtype. The residual stream, norms, rotations, pooling and
projection are always float32 (in bfloat16, sentence-transformers' vectors only reach a cosine of 0.997).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from embeddinggemma.engine.checkpoint import SLIDING, Config, TensorFile
from embeddinggemma.engine.contract import check_ids
from embeddinggemma.engine.linear import Linear
from embeddinggemma.engine.operators import Operators, Rotation
from embeddinggemma.engine.packing import Batch, Packing
from embeddinggemma.engine.pipeline import Pipeline, packed
from embeddinggemma.engine.proof import proved_operators

# Activations of the real weights reach 800,000, float16 ends at 65,504. A norm follows on what the output projection
# and the MLP give, so a smaller scale changes nothing but rounding: 2^-5 makes room for 2,000,000.
_FLOAT16_SCALE = 2.0**-5


def rotations(theta: float, config: Config) -> torch.Tensor:
    """Return the rotary embedding as unit complex numbers [positions, head_dim / 2]: e^(i · position · frequency).

    The frequencies are theta ** (-2j / head_dim) (RoFormer, arXiv 2104.09864), in float32 as in transformers.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    positions = torch.arange(config.max_position_embeddings, dtype=torch.float32)
    angles = torch.outer(positions, 1.0 / theta**exponents)
    return torch.polar(torch.ones_like(angles), angles)


def pair_halves(heads: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder each head's rows 0, 1, 2, … to 0, n/2, 1, n/2 + 1, …: [heads * head_dim, …], the same shape.

    Gemma rotates dimension j together with j + n/2; side by side the two are one complex number, so the rotation is one
    complex product. Queries and keys are reordered alike, which leaves their dot products unchanged.
    """
    return heads.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


class Layer:
    """One transformer block: x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    def __init__(self, tensors: TensorFile, index: int, run: Operators) -> None:
        """Fuse the weights of layer `index` and move them to the operators' device in their dtype."""
        config, self.run, name = run.config, run, f"layers.{index}"
        hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
        queries, last = config.num_attention_heads * head_dim, index + 1 == len(config.layer_types)
        self.type, self.last = config.layer_types[index], last
        self.window = config.window if self.type == SLIDING else None
        self.scale = _FLOAT16_SCALE if run.dtype == torch.float16 else 1.0

        query = pair_halves(tensors.matrix(f"{name}.self_attn.q_proj", queries, hidden), head_dim)
        key = pair_halves(tensors.matrix(f"{name}.self_attn.k_proj", head_dim, hidden), head_dim)
        value = tensors.matrix(f"{name}.self_attn.v_proj", head_dim, hidden)
        query_key_value = torch.cat([query, key, value])
        output = tensors.matrix(f"{name}.self_attn.o_proj", hidden, queries) * self.scale
        gate = tensors.matrix(f"{name}.mlp.gate_proj", inner, hidden)
        up = tensors.matrix(f"{name}.mlp.up_proj", inner, hidden) * self.scale
        down = tensors.matrix(f"{name}.mlp.down_proj", hidden, inner)

        # A norm comes before attention and before the MLP. The one before attention is applied at the end of the layer
        # before, where the residual stream is in the registers.
        attention_norm, mlp_norm = (
            tensors.norm(f"{name}.{norm}", hidden) for norm in ("input_layernorm", "pre_feedforward_layernorm")
        )
        self.mlp_factor = self.next_factor = None
        if run.factors_apart:
            self.mlp_factor = mlp_norm.to(run.device)
            self.next_factor = None if last else input_norm(tensors, index + 1, run)
        else:
            query_key_value *= attention_norm
            gate, up = gate * mlp_norm, up * mlp_norm

        def here(matrix: torch.Tensor) -> torch.Tensor:
            return matrix.to(run.device, run.dtype)

        self.query_key_value, self.output = Linear(here(query_key_value)), Linear(here(output))
        self.gated, self.down = run.gated(here(gate), here(up)), Linear(here(down))
        # One row per head, all query heads and then the key. Not folded into the matrix before it, because the heads
        # are normalised in between. The same holds for the two norms after attention and MLP.
        query_norm = pair_halves(tensors.norm(f"{name}.self_attn.q_norm", head_dim) * config.scale, head_dim)
        key_norm = pair_halves(tensors.norm(f"{name}.self_attn.k_norm", head_dim), head_dim)
        self.head_norms = torch.stack([query_norm] * config.num_attention_heads + [key_norm]).to(run.device)
        self.post_attention_norm, self.post_mlp_norm = (
            tensors.norm(f"{name}.{norm}", hidden).to(run.device)
            for norm in ("post_attention_layernorm", "post_feedforward_layernorm")
        )

    def __call__(self, x: torch.Tensor, normed: torch.Tensor, rotation: Rotation, packing: Packing) -> torch.Tensor:
        """Update x, float32 [tokens, hidden], in place; take its norm, and return the new x's."""
        run = self.run
        query, key, value = run.turn(self.query_key_value(normed), self.head_norms, rotation)
        attended = self.output(run.attend(query, key, value, packing, self.window))
        normed = run.add_norm(x, attended, self.post_attention_norm, self.mlp_factor, run.dtype, self.scale)
        mixed = self.down(self.gated(normed))
        dtype = torch.float32 if self.last else run.dtype
        return run.add_norm(x, mixed, self.post_mlp_norm, self.next_factor, dtype, self.scale)

    def products(self, normed: torch.Tensor) -> torch.Tensor:
        """Compute the layer's matrix products alone, of values that mean nothing."""
        queries = self.output.columns
        self.output(self.query_key_value(normed)[:, :queries])
        return self.down(self.gated.products(normed))


def input_norm(tensors: TensorFile, index: int, run: Operators) -> torch.Tensor:
    """Return the factor [hidden] of the norm that layer `index` begins with, on the operators' device."""
    return tensors.norm(f"layers.{index}.input_layernorm", run.config.hidden_size).to(run.device)


class EmbeddingGemma:
    """The whole model: token embedding, layers, mean pooling and projection."""

    def __init__(self, folder: Path, run: Operators, token_embedding: torch.Tensor | None = None) -> None:
        self.run, self.config = run, run.config
        path, hidden = folder / "model.safetensors", run.config.hidden_size
        # On the CPU the table stays mapped from the file: only the rows of tokens that occur are read.
        table = TensorFile(path).stored("embed_tokens.weight", run.config.vocab_size, hidden)
        self.token_embedding = table.to(run.device) if token_embedding is None else token_embedding
        # Mapped again for each layer, so that the pages read for it are freed once it is fused.
        self.layers = [Layer(TensorFile(path), index, run) for index in range(len(run.config.layer_types))]
        self.first_factor = input_norm(TensorFile(path), 0, run) if run.factors_apart else None
        thetas = run.config.rope_theta.items()
        self.rotations = {kind: rotations(theta, run.config).to(run.device) for kind, theta in thetas}
        matrix = projection(folder, run.config)
        self.size, self.projection = len(matrix), Linear(matrix.to(run.device))
        self.pipeline = Pipeline(self.forward, run)

    @classmethod
    def load(
        cls, folder: Path, device: torch.device, dtype: torch.dtype, token_embedding: torch.Tensor | None = None
    ) -> "EmbeddingGemma":
        """Read config.json, model.safetensors, 2_Dense and 3_Dense from `folder`.

        Args:
            folder: the model's files.
            device: where to compute.
            dtype: of the matrix products: float32 (exact), bfloat16 (faster; cosine to float32 0.9998) or float16
                (a text that overflows has a vector that is not finite; see float16.py).
            token_embedding: another model's, to share its memory.

        Raises:
            ValueError: the files ask for something that is not implemented.

        """
        with torch.inference_mode():
            return cls(folder, proved_operators(Config.load(folder / "config.json"), device, dtype), token_embedding)

    computed_again = 0
    """See encoder.Model; float16.py has texts that are computed again."""

    @property
    def operators(self) -> str:
        """Return what computes the steps between the products."""
        return self.run.name

    @torch.inference_mode()
    def encode(self, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Embed each text's token ids: float32 [texts, size] on the CPU, mean-pooled, projected, not unit.

        A text's vector does not depend on the other texts.

        Raises:
            ValueError: a text is empty or has more than max_position_embeddings tokens, or an id is outside the
                vocabulary.

        """
        self._check_lengths(token_ids)
        if not token_ids:
            return torch.empty(0, self.size)
        batch = Batch.of(token_ids)
        check_ids(batch.ids, self.config.vocab_size)
        vectors = torch.empty(len(token_ids), self.size)
        vectors[batch.order] = self.pipeline.encode(batch)
        return vectors

    @torch.inference_mode()
    def token_states(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Return the last layer's normalised state of each token of one text: float32 [tokens, hidden]."""
        return self._states(*packed(Batch.of([token_ids]), self.run.device))

    def products(self, tokens: int) -> torch.Tensor:
        """Compute only the matrix products of a forward pass over `tokens` tokens: they limit its speed.

        Returns:
            [tokens, hidden] on the device; its values mean nothing.

        """
        x = torch.ones(tokens, self.config.hidden_size, device=self.run.device, dtype=self.run.dtype)
        return [layer.products(x) for layer in self.layers][-1]

    def forward(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Return the vectors, float32 [texts, size], of ids, int32 [tokens]: on the device, without waiting for it."""
        return self.projection(self.run.pool(self._states(ids, packing), packing.cu_seqlens))

    def _states(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        x, normed = self.run.embed(ids, self.token_embedding, self.first_factor)
        rotation = {kind: Rotation(table, packing.positions) for kind, table in self.rotations.items()}
        for layer in self.layers:
            normed = layer(x, normed, rotation[layer.type], packing)
        return normed

    def _check_lengths(self, token_ids: Sequence[Sequence[int]]) -> None:
        longest = self.config.max_position_embeddings
        for ids in token_ids:
            if not 0 < len(ids) <= longest:
                raise ValueError(f"a text has {len(ids):,} tokens; it must have 1 to {longest:,}")


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
