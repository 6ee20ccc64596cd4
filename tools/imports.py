"""The imports of the project's own files, read from their source: which file needs which file, and which package."""

import ast
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools import PROJECT

_SOURCE_ROOTS = (PROJECT, PROJECT / "scripts", PROJECT / "examples")  # where imports of the project's files begin


@dataclass(frozen=True)
class Import:
    """A name that a file imports."""

    module: str
    """As written, with the imported name: embeddinggemma.prompts.TASKS, numpy."""
    at_import: bool
    """Whether the name is imported together with the file, and not only when a function runs."""


def source_files() -> list[Path]:
    """Return the project's Python files, scripts without .py included."""
    ignored = {".venv", ".cache", "node_modules", "__pycache__"}
    files = [path for path in PROJECT.rglob("*") if path.is_file() and not ignored.intersection(path.parts)]
    return sorted(path for path in files if path.suffix == ".py" or _is_script(path))


def _is_script(path: Path) -> bool:
    return path.parent == PROJECT / "scripts" and path.read_bytes().startswith(b"#!/usr/bin/env python3")


@cache
def imports(file: Path) -> tuple[Import, ...]:
    """Return the imports of a file, without those for type checkers only."""
    return tuple(_imports(ast.parse(file.read_text()), at_import=True))


def _imports(node: ast.AST, *, at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_import) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (Import(f"{child.module}.{alias.name}", at_import) for alias in child.names)
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, at_import=at_import and not in_function)


@cache
def file_of(module: str) -> Path | None:
    """Return the project's file that holds an imported name, or None if the name is not the project's."""
    parts = module.split(".")
    for root in _SOURCE_ROOTS:
        for length in range(len(parts), 0, -1):
            path = root.joinpath(*parts[:length])
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if file.is_file():
                    return file
    return None


def missing_packages(script: Path, others: Iterable[str] = ()) -> list[str]:
    """Return the packages that a script and the project's files under it import, and that this Python lacks.

    Imports within functions are followed into the project's files, but their packages do not count: not every run needs
    them.
    """
    needed = set(others)
    waiting, seen = [script], {script}
    while waiting:
        for found in imports(waiting.pop()):
            file = file_of(found.module)
            if file is None and found.at_import:
                needed.add(found.module.partition(".")[0])
            elif file is not None and file not in seen:
                seen.add(file)
                waiting.append(file)
    return sorted(name for name in needed - sys.stdlib_module_names if importlib.util.find_spec(name) is None)
