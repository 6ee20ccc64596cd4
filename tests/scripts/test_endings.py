"""However a command ends, it ends what it has started."""

import os
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tools import SCRIPTS
from tools.client import wait_until
from tools.observed_server import command_line
from tools.server import free_port, health

SERVE = ["serve", "--weights", "manifest", "--port", "0"]
PLAYGROUND = ["playground", "--port", "0"]
GATEWAY = ["gateway", "--start", "1", "--port", "0"]
RUN = ["run", "a text"]
TERM, HUP, INT, KILL = signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL


def _notice_signals() -> None:
    """Undo what nohup and a shell's & do."""
    for number in (HUP, INT):
        signal.signal(number, signal.SIG_DFL)


def _has_worker(process: psutil.Process) -> bool:
    assert process.status() != psutil.STATUS_ZOMBIE, "the command has ended"
    return any("_run_worker" in " ".join(command_line(child)) for child in process.children(recursive=True))


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (RUN, TERM),
        (PLAYGROUND, KILL),
        *(
            pytest.param(command, number, marks=pytest.mark.slow)
            for command in (RUN, [*RUN, "--keep"], PLAYGROUND, GATEWAY, SERVE)
            for number in (TERM, HUP, INT, KILL)
            if (command, number) not in ((RUN, TERM), (PLAYGROUND, KILL))
            and (command[-1], number) != ("--keep", KILL)  # it may leave its server running
        ),
    ],
)
def test_a_signal_ends_the_server_too(
    variables: dict[str, str], tmp_path: Path, command: list[str], number: signal.Signals
) -> None:
    with (tmp_path / "stderr").open("wb") as errors:
        started = subprocess.Popen(
            [SCRIPTS / command[0], *command[1:]],
            env={**os.environ, **variables},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=_notice_signals,
        )
    process = psutil.Process(started.pid)
    wait_until(lambda: _has_worker(process))
    children = process.children(recursive=True)
    started.send_signal(number)
    assert started.wait(600) != 0
    _, alive = psutil.wait_procs(children, timeout=600)
    assert [command_line(child) for child in alive] == []
    assert "Traceback" not in (tmp_path / "stderr").read_text()


@pytest.mark.slow
def test_the_gateways_processes_end_with_the_first_even_if_it_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command: list[str | Path] = [SCRIPTS / "gateway", "--container", "http://127.0.0.1:9", "--processes", "2"]
    with log.open("wb") as output:
        started = subprocess.Popen([*command, "--port", str(free_port())], stdout=output, stderr=output)
    wait_until(lambda: log.read_text().count("Application startup complete") == 2)
    children = psutil.Process(started.pid).children(recursive=True)
    started.kill()
    started.wait()
    assert len(children) >= 2
    assert psutil.wait_procs(children, timeout=600)[1] == []


@pytest.mark.slow
def test_a_server_that_is_kept_goes_on_until_it_is_ended(variables: dict[str, str]) -> None:
    ran = subprocess.run(
        [SCRIPTS / "run", "a text", "--keep"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    [(url, pid)] = re.findall(r"keeps running at (\S+) .*kill (\d+)", ran.stdout)
    server = psutil.Process(int(pid))
    children = server.children(recursive=True)
    assert health(url) == "READY"
    server.terminate()
    assert psutil.wait_procs([server, *children], timeout=600)[1] == []
