"""docs/performance.md: its figures are the measured figures."""

from tests.support.documents import PAGES
from tools import PROJECT

PAGE = PAGES["docs/performance.md"]


def test_the_table_of_speeds_has_the_measured_figures() -> None:
    machine, table, *_ = (PROJECT / "benchmarks" / "results" / "speed.md").read_text().split("\n\n")
    assert table in PAGE
    assert machine.removeprefix("Machine: ").split(". ")[0] in PAGE
