"""What the promises' tests measured, and the table in the docs that is made of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from local_server import PROJECT

TABLE = PROJECT / "docs" / "promises.md"


@dataclass(frozen=True)
class Row:
    """One promise, the way it is tested, and the figure that came out."""

    promise: str
    test: str
    figure: str


@dataclass
class Evidence:
    """The rows so far, in the order in which the tests ran."""

    rows: list[Row] = field(default_factory=list)

    def record(self, promise: str, test: str, figure: str) -> None:
        """Keep what a test has proved; called at its end, so that a test that failed leaves no row."""
        self.rows.append(Row(promise, test, figure))

    def as_rows(self) -> list[dict[str, str]]:
        """Return the rows as JSON has them."""
        return [asdict(row) for row in self.rows]


def render(header: str, rows: Sequence[Row]) -> str:
    """Return the page in Markdown."""
    lines = [f"| {row.promise} | {row.test} | {row.figure} |" for row in rows]
    return header + "\n".join(["| promise | how it is tested | measured |", "| --- | --- | --- |", *lines]) + "\n"


def promises_in(page: Path) -> list[tuple[str, ...]]:
    """Return the first two columns of each row of a page."""
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    return [tuple(row[:2]) for row in rows[2:]]


def from_json(loaded: list[dict[str, Any]]) -> list[Row]:
    """Return rows that were written by as_rows."""
    return [Row(**row) for row in loaded]
