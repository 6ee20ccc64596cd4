"""The results of the promises' tests, and the table in the docs that lists them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools import PROJECT

TABLE = PROJECT / "docs" / "promises.md"


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    promise: str
    """What the container promises."""
    test: str
    """How it is tested."""
    figure: str
    """What was measured."""


@dataclass
class Evidence:
    """The rows of a run."""

    rows: list[Row] = field(default_factory=list)
    """In the order in which the tests ran."""

    def record(self, promise: str, test: str, figure: str) -> None:
        """Add a row. A test calls this at its end, so a test that failed leaves no row."""
        self.rows.append(Row(promise, test, figure))

    def write(self, path: Path) -> None:
        """Write the rows to a file, as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(row) for row in self.rows], indent=2) + "\n")


def read(path: Path) -> list[Row]:
    """Return the rows of a file that `Evidence.write` wrote."""
    return [Row(**row) for row in json.loads(path.read_text())]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [f"| {row.promise} | {row.test} | {row.figure} |" for row in rows]
    return "\n".join(["| promise | how it is tested | measured |", "| --- | --- | --- |", *lines]) + "\n"


def rows_in(page: str) -> set[tuple[str, str]]:
    """Return the promise and the test of each row in a page."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {(row[0], row[1]) for row in rows[2:]}
