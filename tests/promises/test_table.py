"""The table in the docs is of these tests; its figures are of the run that wrote it."""

import pytest

from tools.evidence import TABLE, Evidence, rows_in


@pytest.mark.slow
def test_the_table_in_the_docs_has_every_row(evidence: Evidence, request: pytest.FixtureRequest) -> None:
    folder = request.path.parent
    ran = {item.path for item in request.session.items}
    if not set(folder.glob("test_*.py")) <= ran or request.session.testsfailed:
        pytest.skip("only some of the promises were tested")
    proved = {(row.promise, row.test) for row in evidence.rows}
    assert proved <= rows_in(TABLE.read_text()), "docs/promises.md lacks rows; run scripts/promises --full"
