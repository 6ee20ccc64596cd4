"""The outcome of each download fault, and the page in the docs that lists them."""

import re

from tools import PROJECT

PAGE = PROJECT / "docs" / "faults.md"
_HEADER = """# Faults, and what comes of them

Written by `scripts/faults`, which produces each row anew: a server on loopback goes wrong with the largest of three
files. *pget* is a stand-in with pget's habits, so that the rows can be produced where pget itself is not; with
the program on PATH, or named by PGET, the same tests run with it too, and most of them with *http* over several
connections, which is what happens to files of more than 8 MiB. `cdn` is the faulty source, `mirror` the next.

"""


class Outcomes:
    """The rows of the page's table."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], str] = {}

    def record(self, fault: str, fetcher: str, outcome: str) -> None:
        """Add a row of a fetcher whose messages are the same each time: one connection, or the stand-in."""
        if fetcher not in ("http in parts", "the real pget"):
            hosts_named = re.sub(r"(https?)://(127\.0\.0\.1|localhost):\d+", r"\1://host", outcome)
            self.rows[fault, fetcher] = re.sub(r"(sha256 |not )([0-9a-f]{8})[0-9a-f]{56}", r"\1\2…", hosts_named)

    def page(self) -> str:
        """Return the page in Markdown, with all fetchers of a fault together."""
        faults = list(dict.fromkeys(fault for fault, _ in self.rows))
        rows = sorted(self.rows.items(), key=lambda row: faults.index(row[0][0]))
        lines = [f"| {fault} | {fetcher} | {outcome} |" for (fault, fetcher), outcome in rows]
        return _HEADER + "\n".join(["| fault | fetcher | outcome |", "| --- | --- | --- |", *lines]) + "\n"
