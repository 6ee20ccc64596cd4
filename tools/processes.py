"""Processes that this one starts: they do not outlive it, and their end is waited for, but not for ever."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from tools import PROJECT

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_GRACE = 60.0  # seconds; the server answers its running requests before it ends


def bound_to_this(number: signal.Signals) -> Callable[[], None] | None:
    """Return Popen's `preexec_fn` for a process that gets a signal when this one is gone, even if it was killed.

    Only Linux can do that. There the process is bound to the thread that starts it.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os.kill(os.getpid(), number)

    return bind


def run_python(*arguments: str) -> int:
    """Run this Python with these arguments in the project's folder, bound to this process; return its exit status."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=PROJECT, check=False, preexec_fn=bound_to_this(signal.SIGTERM)).returncode


def end(process: "subprocess.Popen[bytes]") -> int:
    """Ask a process to end, kill it if it does not, and return its exit status."""
    process.terminate()
    try:
        return process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
