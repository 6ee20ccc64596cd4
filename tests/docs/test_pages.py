"""All pages: a test runs every program that they print, and everything that they link to or name exists."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.documents import PAGES, README, RUN_LANGUAGES, blocks, printed
from tools import PROJECT
from tools.imports import file_of, imports

TESTS = PROJECT / "tests"
RUN_ELSEWHERE = {"scripts/playground\n": TESTS / "playground" / "test_answers.py"}
BLOCKS = [
    (name, language, code)
    for name, page in PAGES.items()
    for language in RUN_LANGUAGES
    for code in blocks(page, language)
]


def _taken_by(file: Path) -> list[str]:
    """Return the blocks that a test file asks for by calling `printed` with literals."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return [
        printed(*(ast.literal_eval(argument) for argument in call.args))
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "printed" and isinstance(call.args[0], ast.Constant)
    ]


@pytest.fixture(scope="module")
def taken() -> set[str]:
    return {block for file in TESTS.rglob("*.py") for block in _taken_by(file)}


@pytest.mark.parametrize(("name", "language", "code"), BLOCKS)
def test_every_block_is_run_by_a_test(taken: set[str], name: str, language: str, code: str) -> None:
    if code in RUN_ELSEWHERE:
        assert code.strip() in RUN_ELSEWHERE[code].read_text()
    else:
        assert code in taken, f"no test runs this {language} of {name}"


def _anchors(page: str) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", PAGES[name]):
        path, _, anchor = link.partition("#")
        target = (PROJECT / name).parent / path if path else PROJECT / name
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target.read_text()), link


@pytest.mark.parametrize("name", PAGES)
def test_every_script_that_is_named_exists(name: str) -> None:
    for script in re.findall(r"(?<![\w./])scripts/\w+", PAGES[name]):
        assert (PROJECT / script).is_file(), script


@pytest.mark.parametrize("name", PAGES)
def test_every_option_of_a_script_exists(name: str) -> None:
    for script, arguments in re.findall(r"(?<![\w./])(scripts/\w+)((?: [^`\n]+)?)", PAGES[name]):
        code = "".join(file.read_text() for file in _reached(PROJECT / script))
        for option in re.findall(r"(?<= )--[a-z][\w-]*", arguments):
            assert f'"{option}"' in code, f"{script} {option}"


def _reached(script: Path) -> set[Path]:
    """Return the script, and the project's files that it imports, directly or not."""
    reached, waiting = set[Path](), [script]
    while waiting:
        file = waiting.pop()
        reached.add(file)
        imported = {file_of(found.module) for found in imports(file)}
        waiting += [path for path in imported if path and path not in reached]
    return reached


def test_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    code = "\n".join(code for language in (*RUN_LANGUAGES, "sh") for code in blocks(README, language))
    prose = [line for line in lines if not line.startswith("|") and line not in code]
    assert max(map(len, prose)) <= 120


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/\w+\.md)", README))
    assert linked == set(PAGES) - {"README.md"}
