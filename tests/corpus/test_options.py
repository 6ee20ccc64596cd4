from pathlib import Path
from typing import Any

import pytest

from embeddinggemma.corpus.options import Options, text_room
from embeddinggemma.tokenizer import MAX_TOKENS, Tokenizer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "poetry"}, "--task is 'poetry'; it must be one of retrieval_document"),
        ({"dimension": 300}, "--dimension is 300; it must be one of 768, 512, 256, 128"),
        ({"truncate": False, "chunk": 100}, "--no-truncate goes without --chunk"),
        ({"dtype": "int4"}, "--dtype is 'int4'; it must be one of float32, float16, int8, ubinary"),
        ({"title_column": "t", "task": "clustering"}, "--title-column goes with --task retrieval_document only"),
        ({"rows_per_part": 0}, "--rows-per-part is 0; it must be at least 1"),
        ({"overlap": 3}, "--overlap goes with --chunk only"),
        ({"chunk": 15}, "--chunk is 15; it must be at least 16 tokens"),
        ({"chunk": 100, "overlap": 51}, "--overlap is 51; it must be between 0 and half of --chunk, 50"),
        ({"chunk": 100, "overlap": -1}, "--overlap is -1; it must be between 0"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_a_chunk_that_does_not_fit_together_with_the_prompt_is_refused(small_model: Path) -> None:
    tokenizer = Tokenizer(small_model)
    room = text_room(tokenizer, "retrieval_document", None)
    assert MAX_TOKENS - 20 < room < MAX_TOKENS
    Options(chunk=room).check_chunk(tokenizer)
    with pytest.raises(ValueError, match=f"--chunk is 2,048; with the prompt at most {room:,} tokens of text fit"):
        Options(chunk=2048).check_chunk(tokenizer)
