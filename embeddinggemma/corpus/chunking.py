"""Long texts to chunks of a number of tokens, each a span of characters; together they cover the whole text."""

from collections.abc import Iterator, Sequence


def chunk_spans(token_starts: Sequence[int], length: int, chunk: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield the chunks of a text as (start, end) in characters, end excluded.

    The first chunk starts at 0. Each next chunk starts where the chunk before it ends, or earlier. The last chunk ends
    at `length`. No chunk cuts a character into its bytes, so a chunk may have up to three tokens fewer, or repeat up to
    three tokens more.

    Args:
        token_starts: at which character each token of the text begins.
        length: of the text, in characters.
        chunk: tokens of a chunk, at least 16.
        overlap: tokens of the chunk before it that a chunk repeats, at most half of `chunk`.

    """
    first = 0
    while True:
        end = _whole_character(token_starts, first + chunk)
        start = token_starts[first] if first else 0
        if end >= len(token_starts):
            yield start, length
            return
        yield start, token_starts[end]
        first = _whole_character(token_starts, end - overlap)


def _whole_character(token_starts: Sequence[int], token: int) -> int:
    """Return this token, or the first token of the character that this token is a byte of."""
    while 0 < token < len(token_starts) and token_starts[token] == token_starts[token - 1]:
        token -= 1
    return token
