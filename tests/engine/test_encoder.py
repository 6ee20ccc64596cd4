"""The encoder against the model's own reference, sentence-transformers, on the same weights."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from embeddinggemma.engine import encoder as encoder_module
from embeddinggemma.engine import reference as reference_module
from embeddinggemma.engine.contract import DTYPES, ENGINES, BatchTooLargeError, BrokenEncoderError, Float32Array
from embeddinggemma.engine.encoder import Encoder, has_bfloat16, load_encoder
from embeddinggemma.engine.model import EmbeddingGemma
from embeddinggemma.prompts import TASKS, add_prompt
from embeddinggemma.tokenizer import Tokenizer
from embeddinggemma.vectors import DIMENSIONS, finish
from tests.support.texts import IMAGE_TOKEN, ODD_TEXTS
from tools import PROJECT

TOLERANCE = 2e-6
TEXTS = [
    "Which planet is known as the Red Planet?",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "機械学習はコンピュータがデータを理解するのを助けます。",
    "def embed(texts):\n    return [model(text) for text in texts]",
    "🤖",
    "  surrounded by white space \n",
    "long " * 300,
]

Embed = Callable[[Sequence[str]], Float32Array]


@pytest.fixture(scope="module")
def embed(model: Path) -> Embed:
    """Prompted texts to raw vectors, through our own stages."""
    tokenizer, encoder = Tokenizer(model), load_encoder(model)
    return lambda prompted: encoder.encode([text.ids for text in tokenizer.tokenize(prompted)])


@pytest.fixture(scope="module")
def reference(model: Path) -> SentenceTransformer:
    return SentenceTransformer(str(model), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def raw(embed: Embed) -> Float32Array:
    return embed(TEXTS)


@pytest.fixture(scope="module")
def raw_reference(reference: SentenceTransformer) -> Float32Array:
    """The reference's vectors before its last module, Normalize."""
    without_normalize = SentenceTransformer(modules=list(reference)[:4], device="cpu")
    return np.asarray(without_normalize.encode(TEXTS, batch_size=1), dtype=np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_gives_the_references_vectors(embed: Embed, reference: SentenceTransformer, task: str) -> None:
    expected = reference.encode(TEXTS, prompt=add_prompt("", task), batch_size=1)
    ours = finish(embed([add_prompt(text, task) for text in TEXTS]), 768, True, "float32")
    assert np.abs(ours - expected).max() <= TOLERANCE


def test_a_titled_document_gives_the_references_vectors(embed: Embed, reference: SentenceTransformer) -> None:
    expected = reference.encode(TEXTS, prompt="title: The planets | text: ", batch_size=1)
    ours = embed([add_prompt(text, "retrieval_document", "The planets") for text in TEXTS])
    assert np.abs(finish(ours, 768, True, "float32") - expected).max() <= TOLERANCE


def test_odd_texts_give_the_references_vectors(embed: Embed, reference: SentenceTransformer) -> None:
    texts = [*ODD_TEXTS.values()]
    expected = reference.encode(texts, prompt=add_prompt("", TASKS[0]), batch_size=1)
    ours = finish(embed([add_prompt(text, TASKS[0]) for text in texts]), 768, True, "float32")
    assert np.abs(ours - expected).max() <= TOLERANCE


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("normalize", [True, False])
def test_every_dimension_gives_the_references_vectors(
    raw: Float32Array, raw_reference: Float32Array, dimension: int, normalize: bool
) -> None:
    cut = raw_reference[:, :dimension]
    expected = cut / np.linalg.norm(cut, axis=1, keepdims=True) if normalize else cut
    ours = finish(raw, dimension, normalize, "float32")
    assert np.abs(ours - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_a_texts_vector_does_not_depend_on_its_neighbours(embed: Embed, raw: Float32Array) -> None:
    together = finish(raw, 768, True, "float32")
    alone = np.concatenate([finish(embed([text]), 768, True, "float32") for text in TEXTS])
    assert np.abs(together - alone).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [
        pytest.param(engine, dtype, marks=[pytest.mark.slow] if engine != "native" and dtype != "float32" else [])
        for engine in ENGINES
        for dtype in DTYPES
    ],
)
def test_every_engine_and_dtype_embeds(small_model: Path, engine: str, dtype: str) -> None:
    if dtype == "bfloat16" and not has_bfloat16(torch.device("cpu")):
        with pytest.raises(ValueError, match="bfloat16, which this cpu does not have"):
            load_encoder(small_model, engine, dtype)
        return
    if dtype == "float16":
        with pytest.raises(ValueError, match="float16, which is for GPUs"):
            load_encoder(small_model, engine, dtype)
        return
    ids = [text.ids for text in Tokenizer(small_model).tokenize(TEXTS)]
    exact = finish(load_encoder(small_model).encode(ids), 768, True, "float32")
    ours = finish(load_encoder(small_model, engine, dtype).encode(ids), 768, True, "float32")
    assert (ours * exact).sum(axis=1).min() > 0.99


def test_a_token_that_the_model_does_not_have_breaks_the_reference_and_no_engine(
    small_model: Path, reference: SentenceTransformer
) -> None:
    with pytest.raises(IndexError):
        reference.encode([IMAGE_TOKEN])
    ids = [text.ids for text in Tokenizer(small_model).tokenize([IMAGE_TOKEN, f"a title with {IMAGE_TOKEN}"])]
    ours, theirs = (finish(load_encoder(small_model, engine).encode(ids), 768, True, "float32") for engine in ENGINES)
    assert np.abs(ours - theirs).max() <= TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_an_id_outside_the_vocabulary_is_refused_by_every_engine(small_model: Path, engine: str) -> None:
    encoder = load_encoder(small_model, engine)
    for wrong in (-1, 262_144):
        with pytest.raises(ValueError, match=f"token id {wrong} is outside the vocabulary, 0 to 262143"):
            encoder.encode([[2, 1], [2, wrong, 1]])
    assert np.isfinite(encoder.encode([[2, 1]])).all()


@pytest.mark.parametrize(("engine", "dtype"), [("onnx", "auto"), ("native", "float64"), ("native", "int8")])
def test_an_engine_or_dtype_that_does_not_exist_is_refused(small_model: Path, engine: str, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"(engine|dtype) is .* must be one of"):
        load_encoder(small_model, engine, dtype)


def test_the_reference_in_float16_is_refused(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "choose_dtype", lambda *_: torch.float16)
    with pytest.raises(ValueError, match="float16, which engine sentence-transformers does not have"):
        load_encoder(small_model, "sentence-transformers", "float16")


@pytest.mark.parametrize(("free", "tokens"), [(80 * 2**30, 8192), (512 * 2**20, 4096), (0, 2048)])
def test_a_card_with_little_memory_gets_smaller_batches(
    monkeypatch: pytest.MonkeyPatch, free: int, tokens: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    assert encoder_module._tokens_per_batch(torch.device("cuda")) == tokens


def test_causal_attention_is_refused(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_token_only(_: EmbeddingGemma, token_ids: Sequence[int]) -> torch.Tensor:
        return torch.ones(len(token_ids), 64)

    monkeypatch.setattr(EmbeddingGemma, "token_states", first_token_only)
    with pytest.raises(RuntimeError, match="attention is causal"):
        load_encoder(small_model)


def test_a_transformers_that_computes_causal_attention_is_refused(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_module, "version", lambda _: "4.56.2")
    with pytest.raises(RuntimeError, match=r"transformers 4\.56\.2 computes causal attention"):
        load_encoder(small_model, "sentence-transformers")


class FailingModel:
    """A model whose forward pass does not end in good vectors."""

    operators = "plain"
    computed_again = 0

    def __init__(self, forward: Callable[[], torch.Tensor]) -> None:
        self.forward = forward

    def encode(self, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        activations = torch.zeros(4)
        self.activations = weakref.ref(activations)
        return self.forward() + activations.sum() * len(token_ids)

    def token_states(self, token_ids: Sequence[int]) -> torch.Tensor:
        raise NotImplementedError


def _raise(error: BaseException) -> Callable[[], torch.Tensor]:
    def forward() -> torch.Tensor:
        raise type(error)(*error.args)  # a new error: its traceback holds the activations

    return forward


@pytest.fixture(scope="module")
def whole(small_model: Path) -> Encoder:
    return load_encoder(small_model)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda: torch.empty(1 << 50), "can't allocate memory"),  # the allocator's own words
        (_raise(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")), "CUDA out of memory"),
        (_raise(RuntimeError("CUDA error: out of memory")), "out of memory"),
        (_raise(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")), "ALLOC_FAILED"),
        (_raise(MemoryError()), "MemoryError"),
    ],
)
def test_short_memory_is_reported_and_the_activations_are_freed(
    whole: Encoder, forward: Callable[[], torch.Tensor], message: str
) -> None:
    model = FailingModel(forward)
    gc.disable()
    try:
        with pytest.raises(BatchTooLargeError, match=message):
            replace(whole, model=model).encode([[2, 1]])
        assert model.activations() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda: torch.tensor([[1.0, float("nan")]]), "a vector is not finite"),
        (lambda: torch.tensor([[1.0, float("inf")]]), "a vector is not finite"),
        (_raise(torch.AcceleratorError("CUDA error: an illegal memory access was encountered")), "illegal memory"),
        (_raise(RuntimeError("CUDA error: device-side assert triggered")), "device-side assert"),
        (_raise(RuntimeError("CUDA driver error: unknown error")), "driver error"),
        (_raise(RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")), "illegal memory"),
        (_raise(SystemExit()), "SystemExit"),
    ],
)
def test_vectors_that_cannot_be_trusted_break_the_encoder(
    whole: Encoder, forward: Callable[[], torch.Tensor], message: str
) -> None:
    with pytest.raises(BrokenEncoderError, match=message):
        replace(whole, model=FailingModel(forward)).encode([[2, 1]])


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit()])
def test_a_caller_in_whose_thread_a_gpus_batches_are_encoded_can_be_interrupted(
    whole: Encoder, interrupt: BaseException
) -> None:
    with pytest.raises(type(interrupt)):
        replace(whole, model=FailingModel(_raise(interrupt)), in_flight=2).encode([[2, 1]])


def test_a_gpus_cache_is_emptied_before_the_halves_are_tried(whole: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    on_gpu = replace(whole, device=torch.device("cuda"), model=FailingModel(_raise(MemoryError())))
    with pytest.raises(BatchTooLargeError):
        on_gpu.encode([[2, 1]])
    assert emptied == [True]


def test_the_native_engine_imports_neither_transformers_nor_sentence_transformers(small_model: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from embeddinggemma.engine.encoder import load_encoder; "
        f"load_encoder(Path({str(small_model)!r})).encode([[2, 100, 1]]); "
        "assert not {'transformers', 'sentence_transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True)
