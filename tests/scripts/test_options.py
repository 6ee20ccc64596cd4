"""Options, and what surrounds a command, that cannot be: an error in one sentence, before anything is started."""

import os
import re
import shutil
import socket
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import PROJECT, SCRIPTS
from tools.options import count_option, minutes_option, port_option, url_option
from tools.reference_model import MANIFEST


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on, on all addresses."""
    with socket.create_server(("", 0)) as other:
        yield other.getsockname()[1]


def _run(command: list[str | Path], **changes: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **changes}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert "Traceback" not in ran.stderr
    return ran


@pytest.mark.parametrize("text", ["-1", "65536", "99999999999999999999", "five", "1.5", ""])
def test_a_port_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"is no TCP port; it must be 0 \(any free port\) to 65,535"):
        port_option(text)


def test_port_0_is_any_free_port(taken: int) -> None:
    assert port_option("0") not in (0, taken)


@pytest.mark.parametrize("command", [["serve"], ["run", "a text"], ["playground"], ["gateway"]])
def test_a_port_that_is_taken_is_refused_at_once(taken: int, command: list[str]) -> None:
    ran = _run([SCRIPTS / command[0], *command[1:], "--port", str(taken)])
    assert ran.returncode == 2
    assert re.search(f"no server can listen on 127.0.0.1(:|, port ){taken}: Address already in use; choose", ran.stderr)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--start", "-1"], "--start is -1; it must be at least 0"),
        (["--port", "70000"], "--port is 70000; it must be between 0 and 65,535"),
        (["--max-waiting", "-1"], "--max-waiting is -1; it must be between 0 and "),
        (["--page", "/nowhere"], "--page is /nowhere, which is no folder"),
        (["--keys-file", "/nowhere"], "No such file or directory: '/nowhere'"),
    ],
)
def test_the_gateway_refuses_an_option_before_it_starts_a_server(option: list[str], message: str) -> None:
    ran = _run([SCRIPTS / "gateway", "--start", "1", *option])
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].startswith("gateway: error: ")
    assert message in ran.stderr


def test_a_containers_url_has_a_scheme_and_a_host() -> None:
    for url in ("http://127.0.0.1:5000", "http://[::1]:5000/", "https://container.example"):
        assert url_option(url) == url
    for wrong in ("127.0.0.1:5000", "ftp://container.example", "http://", "http://[::1", "http://a:99999", ""):
        with pytest.raises(ArgumentTypeError, match=r"is no URL of a container; it must be like http://127\.0\.0\.1"):
            url_option(wrong)


def test_counts_and_lengths_are_above_0() -> None:
    assert (count_option("3"), minutes_option("0.5")) == (3, 0.5)
    for wrong in ("0", "-1", "1.5", "many", ""):
        with pytest.raises(ArgumentTypeError, match="it must be a whole number of at least 1"):
            count_option(wrong)
    for wrong in ("0", "-1", "nan", "inf", "long", ""):
        with pytest.raises(ArgumentTypeError, match="it must be a number of minutes above 0"):
            minutes_option(wrong)


@pytest.mark.parametrize("weights", ["auto", "manifest", "small"])
def test_a_setting_that_cannot_be_is_refused_before_the_server_starts(weights: str) -> None:
    command: list[str | Path] = [SCRIPTS / "serve", "--port", "0", "--weights", weights]
    refused = _run(command, EMBEDDINGGEMMA_DTYPE="int4")
    assert refused.stderr == "EMBEDDINGGEMMA_DTYPE is 'int4'; it must be one of auto, float32, bfloat16, float16\n"
    assert refused.returncode == 1


def test_a_manifest_that_is_not_there_is_named_as_the_caller_named_it(tmp_path: Path) -> None:
    for command in (["serve", "--port", "0", "--weights", "manifest"], ["verify"]):
        refused = _run([SCRIPTS / command[0], *command[1:]], EMBEDDINGGEMMA_MANIFEST=str(tmp_path / "none.json"))
        assert refused.stderr.startswith(f"cannot read the manifest {tmp_path}/none.json: ")
        assert refused.returncode == 1


def test_a_reference_model_replaces_nothing_else(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("a text")
    (tmp_path / "manifest").mkdir()
    shutil.copy(PROJECT / MANIFEST, tmp_path / "manifest")
    for folder in (tmp_path, tmp_path / "thesis.txt", tmp_path / "manifest"):
        refused = _run([SCRIPTS / "reference_model", folder])
        assert refused.returncode == 1
        assert refused.stderr == f"{folder} is no reference model, and would be replaced; name a new folder\n"
    assert (tmp_path / "thesis.txt").read_text() == "a text"
    assert _run([SCRIPTS / "reference_model", small_model]).returncode == 0


@pytest.mark.parametrize(("text", "message"), [(" ", "TEXT is empty"), ("\udcff", "TEXT has a lone surrogate")])
def test_run_refuses_a_text_before_it_starts_a_server(text: str, message: str) -> None:
    ran = _run([SCRIPTS / "run", text])
    assert ran.returncode == 1
    assert ran.stderr.startswith(message)


def test_a_hard_limit_of_too_few_open_files_is_said(variables: dict[str, str]) -> None:
    limited: list[str | Path] = ["bash", "-c", 'ulimit -n 400; exec "$@"', "-", str(SCRIPTS / "serve"), "--port", "0"]
    ran = _run([*limited, "--weights", "manifest"], **variables)
    assert ran.returncode == 1
    assert ran.stderr == "256 slots need 576 open files, and `ulimit -Hn` allows 400: raise that limit\n"


@pytest.mark.parametrize(("command", "blocked"), [(["run", "a text"], ".cache"), (["serve", "--port", "0"], ".cog")])
def test_a_checkout_that_cannot_be_written_is_said(
    variables: dict[str, str], tmp_path: Path, command: list[str], blocked: str
) -> None:
    for name in ("scripts", "tools", "embeddinggemma"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    for name in ("predict.py", "openapi.json"):
        shutil.copy(PROJECT / name, tmp_path)
    (tmp_path / blocked).write_text("a file")
    started: list[str | Path] = [sys.executable, tmp_path / "scripts" / command[0], *command[1:]]
    ran = _run(started, **variables, EMBEDDINGGEMMA_ENVIRONMENT="none")
    assert ran.returncode == 1
    assert f"{command[0]}: {tmp_path}/{blocked}" in ran.stderr.splitlines()[-1]
