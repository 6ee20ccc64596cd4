"""predict.py, as Cog's static parser reads it, against openapi.json and the package."""

import ast
import subprocess
import sys

import pytest

import predict
from embeddinggemma.prompts import TASKS
from embeddinggemma.vectors import DIMENSIONS, OUTPUT_DTYPES, OUTPUT_FORMATS
from tools import PROJECT, SCRIPTS


def _inputs() -> dict[str, ast.Call]:
    """Return predict()'s inputs and their Input(...) calls, from the source alone."""
    [function] = [
        node
        for node in ast.walk(ast.parse((PROJECT / "predict.py").read_text()))
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "predict"
    ]
    names = [argument.arg for argument in function.args.args[1:]]
    calls = [default for default in function.args.defaults if isinstance(default, ast.Call)]
    return dict(zip(names, calls, strict=True))


INPUTS = _inputs()


def test_openapi_json_is_up_to_date() -> None:
    subprocess.run([sys.executable, SCRIPTS / "openapi", "--check"], check=True)


@pytest.mark.parametrize("name", INPUTS)
def test_every_argument_is_a_literal_that_the_static_parser_reads(name: str) -> None:
    arguments = {keyword.arg: keyword.value for keyword in INPUTS[name].keywords}
    assert {"description", "default"} <= set(arguments)
    for value in arguments.values():
        ast.literal_eval(value)
    description = arguments["description"]
    assert description.lineno == description.end_lineno
    source = ast.get_source_segment((PROJECT / "predict.py").read_text(), description)
    assert source == f'"{ast.literal_eval(description)}"'  # a plain literal, without escapes and concatenation


@pytest.mark.parametrize("name", INPUTS)
def test_no_comment_is_inside_an_input(name: str) -> None:
    lines = (PROJECT / "predict.py").read_text().splitlines()
    assert not any("#" in line for line in lines[INPUTS[name].lineno - 1 : INPUTS[name].end_lineno])


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("task", TASKS),
        ("embedding_dim", DIMENSIONS),
        ("output_format", OUTPUT_FORMATS),
        ("output_dtype", OUTPUT_DTYPES),
    ],
)
def test_the_forms_choices_are_the_packages(name: str, choices: tuple[object, ...]) -> None:
    [listed] = [keyword.value for keyword in INPUTS[name].keywords if keyword.arg == "choices"]
    assert tuple(ast.literal_eval(listed)) == choices


def test_the_predictor_and_its_method_are_defined_in_predict_py() -> None:
    assert predict.Predictor.predict.__module__ == predict.Predictor.__module__ == "predict"
