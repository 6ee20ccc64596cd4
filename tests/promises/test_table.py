"""The table in the docs lists these tests; its figures come from the run that wrote it."""

import pytest

from tools.evidence import TABLE, Evidence, rows_in


@pytest.mark.slow
def test_the_table_in_the_docs_has_every_row(evidence: Evidence, request: pytest.FixtureRequest) -> None:
    folder = request.path.parent
    ran = {item.path for item in request.session.items}
    if not set(folder.glob("test_*.py")) <= ran or request.session.testsfailed:
        pytest.skip("some of the promises were not tested, or a test has failed")
    proved = {(row.promise, row.test) for row in evidence.rows}
    in_docs = rows_in(TABLE.read_text())
    tested = {promise for promise, _ in proved}  # a promise whose tests were skipped here says nothing about its rows
    assert proved == {row for row in in_docs if row[0] in tested}, "run scripts/promises --full"
