"""A prediction's file of texts, row by row through tokenizer and batcher, to a file of vectors.

The file is read twice: first to check and to count, so that nothing is computed for a file that is refused, and then
to embed. All work on it is done in threads, some hundred rows at a time; between two of these pieces other requests
have their turn, and a cancel ends it.
"""

import asyncio
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from embeddinggemma.batching import Batcher, Encoded
from embeddinggemma.corpus.rows import Reject, Row
from embeddinggemma.engine.contract import BatchTooLargeError
from embeddinggemma.prompts import add_prompt
from embeddinggemma.request import MAX_TEXTS, Request
from embeddinggemma.texts_file.reading import FIELD, TextsFile
from embeddinggemma.texts_file.sending import MAX_INLINE, data_uri, upload
from embeddinggemma.texts_file.writing import ROW_BYTES, NpyFile, ParquetFile, VectorFile
from embeddinggemma.tokenizer import MAX_TOKENS, TokenizedText, Tokenizer, describe_tokens, turns
from embeddinggemma.vectors import DIMENSIONS, finish
from embeddinggemma.weights.urls import shown

Item = TypeVar("Item")

_ERRORS_SHOWN = 10
_SKIPPED_SHOWN = 100
_PROGRESS_SECONDS = 5.0
_SHORT_TITLE = 500  # characters, of at most four tokens each: it leaves room for a text
_POSITION = re.compile(r"texts\[(\d+)\]")


@dataclass
class Summary:
    """What became of a file."""

    shape: list[int]
    format: str
    """npy or parquet."""
    file: str = ""
    """The vectors as a data URI, or where they were stored, without the secret part of that URL."""
    texts: int = 0
    """Rows that have a vector."""
    tokens: int = 0
    truncated: int = 0
    queue_ms: float = 0.0
    encode_ms: float = 0.0
    batch_texts: int = 0

    def add(self, tokenized: Sequence[TokenizedText], encoded: Encoded) -> None:
        """Count a part."""
        self.queue_ms = self.queue_ms if self.texts else encoded.queue_ms
        self.texts += len(tokenized)
        self.tokens += sum(len(text.ids) for text in tokenized)
        self.truncated += sum(text.truncated for text in tokenized)
        self.encode_ms += encoded.encode_ms
        self.batch_texts = max(self.batch_texts, encoded.batch_texts)


@dataclass
class _Survey:
    """What the first reading has found."""

    rows: int = 0
    id_bytes: int = 0
    has_names: bool = False
    """Whether any row has an id or a title."""
    bad: int = 0
    """Rows that cannot be embedded."""
    refused: set[int] = field(default_factory=set)
    """The numbers of those among them that only the tokenizer or the request's options refuse."""
    reasons: list[str] = field(default_factory=list)
    """Why, for the first of them."""

    def add(self, rows: Sequence[Row | Reject], reasons: Sequence[str | None]) -> None:
        """Count some rows, each with the reason why it cannot be embedded, or None."""
        for row, reason in zip(rows, reasons, strict=True):
            self.rows += 1
            self.id_bytes += len(row.id.encode())
            self.has_names |= bool(row.id) or (isinstance(row, Row) and row.title is not None)
            if reason is None:
                continue
            self.bad += 1
            if isinstance(row, Row):
                self.refused.add(row.number)
            if len(self.reasons) < _SKIPPED_SHOWN:
                self.reasons.append(f"row {self.rows:,}: {reason}")


@dataclass
class _Part:
    """Rows that are embedded together."""

    rows: Sequence[Row | Reject]
    kept: Sequence[int]
    """The positions of those that have a vector."""
    tokenized: Sequence[TokenizedText]

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Give each error about a text of this part the number of its row."""
        try:
            yield
        except (BatchTooLargeError, FloatingPointError) as error:
            raise type(error)(_POSITION.sub(self._row_name, str(error))) from None

    def _row_name(self, position: re.Match[str]) -> str:
        row = self.rows[self.kept[int(position[1])]]
        return f"{FIELD} row {row.number:,}" if isinstance(row, Row) else FIELD


class FileEmbedder:
    """Embeds one file for one request."""

    def __init__(self, path: Path, request: Request, tokenizer: Tokenizer, batcher: Batcher) -> None:
        self._path, self._request = path, request
        self._tokenizer, self._batcher = tokenizer, batcher
        self._width = request.dimension // 8 if request.output_dtype == "ubinary" else request.dimension
        self._dtype = np.dtype("uint8" if request.output_dtype == "ubinary" else request.output_dtype)

    async def embed(self) -> Summary:
        """Return the vectors of all rows; what was written on the way is removed.

        Raises:
            ValueError: the file cannot be read, has rows that cannot be embedded, or so many rows that their vectors do
                not fit in the answer.
            UploadError: the vectors could not be stored.
            BatchTooLargeError, BrokenEncoderError, FloatingPointError: as for a request with texts.

        """
        if self._request.title:
            await asyncio.to_thread(self._tokenizer.check_title, self._request.title)
        file = await asyncio.to_thread(TextsFile, self._path)
        survey = await self._survey(file)
        self._check(survey)
        summary = Summary([survey.rows, self._width], "parquet" if survey.has_names else "npy")
        async with _folder() as folder:
            path = folder / "vectors"
            writer: VectorFile = (
                ParquetFile(path, self._width, self._dtype)
                if survey.has_names
                else NpyFile(path, survey.rows, self._width, self._dtype)
            )
            await self._write(file, survey, writer, summary)
            summary.file = await self._send(path)
        if summary.truncated:
            _say(f"of {summary.truncated:,} texts the first {MAX_TOKENS:,} tokens were kept")
        return summary

    async def _survey(self, file: TextsFile) -> _Survey:
        survey, progress = _Survey(), _Progress()
        async for rows in _in_threads(file.rows(MAX_TEXTS)):
            reasons = await asyncio.to_thread(self._reasons, rows)
            if not self._request.truncate:
                await self._refuse_long(rows, reasons)
            await asyncio.to_thread(survey.add, rows, reasons)
            progress.say(survey.rows)
        return survey

    def _reasons(self, rows: Sequence[Row | Reject]) -> list[str | None]:
        return [self._why_not(row) for row in rows]

    def _why_not(self, row: Row | Reject) -> str | None:
        """Return why a row cannot be embedded; None: it can be, unless its text is too long."""
        if isinstance(row, Reject):
            return row.reason
        try:
            self._prompted(row)
            if len(row.title or "") > _SHORT_TITLE:
                self._tokenizer.check_title(row.title)
        except ValueError as error:
            return str(error)
        return None

    async def _refuse_long(self, rows: Sequence[Row | Reject], reasons: list[str | None]) -> None:
        """Fill in the reasons of rows whose text is too long."""
        kept = [position for position, reason in enumerate(reasons) if reason is None]
        for position, text in zip(kept, await self._tokenize(rows, kept), strict=True):
            if text.truncated:
                tokens = f"{describe_tokens(text)} tokens, prompt included"
                reasons[position] = f"text has {tokens}; the limit is {MAX_TOKENS:,}, since truncate is false"

    def _prompted(self, row: Row) -> str:
        return add_prompt(row.text, self._request.task, row.title or self._request.title)

    def _all_prompted(self, rows: Sequence[Row | Reject], kept: Sequence[int]) -> list[str]:
        return [self._prompted(row) for row in (rows[position] for position in kept) if isinstance(row, Row)]

    async def _tokenize(self, rows: Sequence[Row | Reject], kept: Sequence[int]) -> list[TokenizedText]:
        if not kept:
            return []
        tokenized: list[TokenizedText] = []
        for turn in turns(await asyncio.to_thread(self._all_prompted, rows, kept)):
            tokenized += await asyncio.to_thread(self._tokenizer.tokenize, turn)
        return tokenized

    def _check(self, survey: _Survey) -> None:
        """Refuse the file, if it has to be refused, before anything is computed for it."""
        if not survey.rows:
            raise ValueError(f"{FIELD} has no rows; give at least one text")
        if survey.bad and not self._request.skip_invalid:
            first = survey.reasons[:_ERRORS_SHOWN]
            some = f"; the first {len(first)}" if survey.bad > len(first) else ""
            raise ValueError(
                f"{FIELD}: {survey.bad:,} of {survey.rows:,} rows cannot be embedded, and skip_invalid is false{some}: "
                + "; ".join(first)
            )
        size = survey.rows * self._width * self._dtype.itemsize
        if survey.has_names:
            size += survey.rows * ROW_BYTES + survey.id_bytes
        if size > MAX_INLINE and not self._request.upload_url:
            raise ValueError(
                f"{FIELD} has {survey.rows:,} rows, whose vectors take {size:,} bytes; the limit within an answer is "
                f"{MAX_INLINE:,}: give upload_url, choose a smaller embedding_dim or output_dtype, or send several "
                "requests"
            )
        for reason in survey.reasons:
            _say(f"skipped {reason}")
        if survey.bad > len(survey.reasons):
            _say(f"skipped {survey.bad:,} rows in all")

    async def _write(self, file: TextsFile, survey: _Survey, writer: VectorFile, summary: Summary) -> None:
        """Write all vectors; while the encoder has one part, the part before it is written and the next one read."""
        progress, written = _Progress(survey.rows), 0
        encoding: deque[tuple[_Part, asyncio.Task[Encoded]]] = deque()

        async def write_first() -> None:
            nonlocal written
            part, task = encoding[0]
            with part.naming():
                encoded = await task
                await asyncio.to_thread(self._add, writer, part, encoded)
            encoding.popleft()
            summary.add(part.tokenized, encoded)
            written += len(part.rows)
            progress.say(written)

        try:
            async for rows in _in_threads(file.rows(MAX_TEXTS)):
                kept = [
                    position
                    for position, row in enumerate(rows)
                    if isinstance(row, Row) and row.number not in survey.refused
                ]
                part = _Part(rows, kept, await self._tokenize(rows, kept))
                encoding.append((part, asyncio.create_task(self._encode(part))))
                if len(encoding) > 1:
                    await write_first()
            while encoding:
                await write_first()
            await asyncio.to_thread(writer.close)
        finally:
            left = [task for _, task in encoding]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _encode(self, part: _Part) -> Encoded:
        if not part.kept:
            return Encoded(np.empty((0, DIMENSIONS[0]), np.float32), 0.0, 0.0, 0)
        return await self._batcher.encode([text.ids for text in part.tokenized])

    def _add(self, writer: VectorFile, part: _Part, encoded: Encoded) -> None:
        request = self._request
        vectors = finish(encoded.vectors, request.dimension, request.normalize, request.output_dtype)
        writer.add(part.rows, part.kept, vectors, part.tokenized)

    async def _send(self, path: Path) -> str:
        url = self._request.upload_url
        if url is None:
            return await asyncio.to_thread(data_uri, path)
        stopped = threading.Event()
        thread = ThreadPoolExecutor(1, "upload")  # its own, because it may wait for minutes
        try:
            await asyncio.get_running_loop().run_in_executor(thread, upload, path, url, stopped)
        finally:
            stopped.set()
            thread.shutdown(wait=False)
        return shown(url)


class _Progress:
    """Says now and then in the prediction's log how far it is."""

    def __init__(self, rows: int | None = None) -> None:
        """Begin.

        rows: all that there are; None: they are being counted.
        """
        self._rows = rows
        self._began = self._said = time.monotonic()

    def say(self, done: int) -> None:
        """Say that so many rows are done, unless the last line is a moment ago."""
        now = time.monotonic()
        if now - self._said < _PROGRESS_SECONDS:
            return
        self._said = now
        if self._rows is None:
            _say(f"{done:,} rows checked")
            return
        left = (now - self._began) / done * (self._rows - done)
        _say(f"{done:,} of {self._rows:,} rows, {done / self._rows:.0%}; about {left:,.0f} s left")


def _say(message: str) -> None:
    print(f"{FIELD}: {message}")  # noqa: T201 - to the prediction's log


async def _in_threads(items: Iterator[Item]) -> AsyncIterator[Item]:
    """Yield items that take some time to make."""
    while (item := await asyncio.to_thread(next, items, None)) is not None:
        yield item


@asynccontextmanager
async def _folder() -> AsyncIterator[Path]:
    """Make a folder, and remove it in the end, which may take a while."""
    folder = Path(tempfile.mkdtemp(prefix="embeddinggemma-"))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
