"""Which of a server's processes are its own."""

import subprocess
import sys
from pathlib import Path

import psutil

from tools.client import wait_until
from tools.observed_server import command_line, server_and_worker

_TREE = """
import os, subprocess, sys, time
match sys.argv[1]:
    case "launcher":
        subprocess.run([sys.executable, __file__, "cog.server.http"])
    case "cog.server.http":
        subprocess.run([sys.executable, __file__, "_run_worker"])
    case "_run_worker":
        os.fork()  # it has its parent's command line until it runs `rm`
        time.sleep(600)
"""


def test_a_workers_own_child_is_not_taken_for_the_worker(tmp_path: Path) -> None:
    tree = tmp_path / "tree.py"
    tree.write_text(_TREE)
    launcher = subprocess.Popen([sys.executable, tree, "launcher"])
    process = psutil.Process(launcher.pid)
    try:
        wait_until(lambda: len(process.children(recursive=True)) == 3)
        server, worker = server_and_worker(process)
        assert server.parent() == process
        assert worker.parent() == server
        assert command_line(worker)[-1] == "_run_worker"
        assert server_and_worker(server) == (server, worker)
    finally:
        started = process.children(recursive=True)
        for each in [*started, process]:
            each.kill()
        launcher.wait()
