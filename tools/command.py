"""What every command does before its own work: it settles how to print, end and fail, and to ask no proxy for itself.

It needs nothing but Python, because it runs before the packages are there.
"""

import atexit
import io
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType, TracebackType

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def begin() -> None:
    """Prepare this process, and by its environment those that it starts; call it before anything else."""
    _open_closed_streams()
    _print_whatever_comes()
    _end_in_order()
    _ask_this_machine_directly()


def _open_closed_streams() -> None:
    """Discard what goes to a stream that the caller has closed: the next file that is opened would take its place."""
    for descriptor, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(descriptor, mode))


def _print_whatever_comes() -> None:
    """Print characters that the terminal's encoding lacks as escapes, and each line at once, so that an error shows."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    atexit.register(_drop_unwritable_output)


def _drop_unwritable_output() -> None:
    """Forget output that cannot be written; Python would complain about it once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_in_order() -> None:
    """Make a signal an exception, so that what was started is ended, and an operator's errors sentences."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _exit)
    sys.excepthook = _say


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)  # as a shell shows it


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error of the machine, of the network or of another program as a sentence; all others are our mistakes."""
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, BrokenPipeError) and _reader_is_gone()):
        return
    if isinstance(error, OSError | subprocess.CalledProcessError):
        print(f"{Path(sys.argv[0]).name}: {_sentence(error)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _reader_is_gone() -> bool:
    """Return whether the output goes to a pipe that nobody reads any more, as after `| head -1`."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return bool(output.poll(0))


def _sentence(error: OSError | subprocess.CalledProcessError) -> str:
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else reason
    program = error.cmd if isinstance(error.cmd, str) else " ".join(map(str, error.cmd))
    return f"{program} failed with exit status {error.returncode}"


def _ask_this_machine_directly() -> None:
    """Add this machine to the hosts that are asked without a proxy, if the environment names a proxy."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return
    hosts = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
    if "*" in hosts:
        return
    without_proxy = ",".join(dict.fromkeys([*filter(None, hosts), *_THIS_MACHINE]))
    os.environ |= {"no_proxy": without_proxy, "NO_PROXY": without_proxy}
