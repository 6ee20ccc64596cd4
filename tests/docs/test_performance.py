"""docs/performance.md: its figures are the measured figures."""

import json

from benchmarks import serving, texts_file
from tests.support.documents import PAGES
from tools import PROJECT

RESULTS = PROJECT / "benchmarks" / "results"
PAGE = PAGES["docs/performance.md"]


def test_the_table_of_speeds_has_the_measured_figures() -> None:
    machine, table, *_ = (RESULTS / "speed.md").read_text().split("\n\n")
    assert table in PAGE
    assert machine.removeprefix("Machine: ").split(". ")[0] in PAGE


def test_what_is_said_beside_the_model_was_measured() -> None:
    figures = json.loads((RESULTS / "serving.json").read_text())
    assert serving.table(figures) == (RESULTS / "serving.md").read_text()
    ours, trivial = (figures["short"][name]["64"]["requests_per_second"] for name in ("ours", "trivial"))
    texts = max(row["requests_per_second"] for row in figures["large"]["ours"].values()) * serving.LARGE_REQUEST
    said = " ".join(PAGE.split())
    assert f"on {figures['cores']} cores that client and server share: {ours:,.0f} short requests" in said
    assert f"{ours / trivial:.0%}".replace("%", " %") + " of a `predict()`" in said
    assert f"and {texts:,.0f} texts a second" in said


def test_a_file_of_a_million_texts_took_as_much_memory_as_is_said() -> None:
    figures = json.loads((RESULTS / "texts_file.json").read_text())
    assert texts_file.table(figures) == (RESULTS / "texts_file.md").read_text()
    assert figures["rows"] == 1_000_000
    assert figures["peak_mb"] < texts_file.MAX_MEMORY
    said = " ".join(PAGES["docs/api.md"].split())
    assert f"A million short texts take {(figures['peak_mb'] - figures['before_mb']) / 1000:.1f} GB of memory" in said
