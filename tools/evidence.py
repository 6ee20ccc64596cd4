"""What the promises' tests measured, and the table in the docs that is made of it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools import PROJECT

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

    def write(self, path: Path) -> None:
        """Keep the rows in a file, as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(row) for row in self.rows], indent=2) + "\n")


def read(path: Path) -> list[Row]:
    """Return the rows of a file that was written by Evidence.write."""
    return [Row(**row) for row in json.loads(path.read_text())]


def table(rows: Sequence[Row]) -> str:
    """Return the rows in Markdown."""
    lines = [f"| {row.promise} | {row.test} | {row.figure} |" for row in rows]
    return "\n".join(["| promise | how it is tested | measured |", "| --- | --- | --- |", *lines]) + "\n"


def rows_in(page: str) -> set[tuple[str, str]]:
    """Return the promise and the test of each row of a page."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {(row[0], row[1]) for row in rows[2:]}
