"""The project keeps its layout: which folder may import which, and that shared code is defined once."""

import ast
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from tools import PROJECT
from tools.imports import file_of, imports, missing_packages, source_files

FILES = source_files()
TESTS = PROJECT / "tests"


def _folder(file: Path) -> str:
    """Return the folder that a file belongs to: `tests` for all tests, an empty name for the project's own folder."""
    parts = file.relative_to(PROJECT).parts[:-1]
    return "tests" if parts[:1] == ("tests",) else "/".join(parts)


def _imported(file: Path) -> set[Path]:
    used = {file_of(found.module) for found in imports(file)}
    return {path for path in used if path is not None} - {file}


GRAPH = {file: _imported(file) for file in FILES}
FOLDERS = {(_folder(file), _folder(used)) for file, all_used in GRAPH.items() for used in all_used}


def test_scripts_without_a_suffix_are_in_the_graph() -> None:
    names = {str(file.relative_to(PROJECT)) for file in FILES}
    assert {"scripts/serve", "scripts/environment.py", "predict.py", "embeddinggemma/engine/model.py"} <= names
    assert PROJECT / "tools" / "server.py" in GRAPH[PROJECT / "scripts" / "serve"]


def test_no_two_folders_import_each_other() -> None:
    folders = {folder for pair in FOLDERS for folder in pair}
    assert [pair for pair in combinations(sorted(folders), 2) if pair in FOLDERS and pair[::-1] in FOLDERS] == []


def test_no_files_import_each_other_in_a_circle() -> None:
    done: set[Path] = set()

    def visit(file: Path, path: tuple[Path, ...]) -> None:
        assert file not in path, " -> ".join(str(step.relative_to(PROJECT)) for step in (*path, file))
        if file not in done:
            for used in GRAPH.get(file, ()):
                visit(used, (*path, file))
            done.add(file)

    for file in FILES:
        visit(file, ())


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("embeddinggemma/weights", {"embeddinggemma/weights"}),
        ("embeddinggemma/engine", {"embeddinggemma/engine", "embeddinggemma/weights"}),
        ("embeddinggemma", {"embeddinggemma", "embeddinggemma/engine", "embeddinggemma/weights"}),
        ("examples", {"examples"}),
        ("", {"embeddinggemma", "embeddinggemma/engine", "embeddinggemma/weights", "embeddinggemma/texts_file"}),
    ],
)
def test_the_image_and_the_examples_need_no_other_folder(folder: str, allowed: set[str]) -> None:
    assert {used for user, used in FOLDERS if user == folder} <= allowed


def test_no_test_file_imports_a_test_file_or_conftest() -> None:
    tests = [file for file in FILES if file.is_relative_to(TESTS)]
    wrong = [
        (file.name, used.name)
        for file in tests
        for used in GRAPH[file]
        if used.name.startswith("test_") or used.name == "conftest.py"
    ]
    assert wrong == []


def test_scripts_holds_executables_only() -> None:
    others = [path for path in (PROJECT / "scripts").iterdir() if path.name not in ("environment.py", "__pycache__")]
    assert all(path.suffix == "" and path.stat().st_mode & 0o111 for path in others)


@pytest.mark.parametrize("name", ["PROJECT", "exchange", "Client", "warm_cache", "check_choice", "Embedder"])
def test_shared_code_is_defined_once(name: str) -> None:
    defined = Counter(file for file in FILES for node in ast.parse(file.read_text()).body if name in _defines(node))
    assert defined.total() == 1, defined


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def test_only_the_library_loads_an_encoder() -> None:
    loads = re.compile(r"\bload_encoder\(")
    users = {str(file.relative_to(PROJECT)) for file in FILES if loads.search(file.read_text())}
    encoder_tests = {name for name in users if name.startswith("tests/")}
    assert users - encoder_tests == {"embeddinggemma/embedder.py", "embeddinggemma/engine/encoder.py"}


def test_missing_packages_are_found_without_importing_anything(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(
        "import no_such_package_one\nfrom no_such_package_two.part import name\nimport json\nimport numpy\n"
        "from embeddinggemma.prompts import TASKS\n\ndef later() -> None:\n    import no_such_package_three\n"
    )
    assert missing_packages(script) == ["no_such_package_one", "no_such_package_two"]
