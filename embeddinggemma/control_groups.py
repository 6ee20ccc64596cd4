"""The control groups of this process, which hold a container's limits."""

from collections.abc import Iterator
from pathlib import Path


def group_folders(machine: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the version (1 or 2) and the folder of each of this process's groups, from its own up to the root.

    Args:
        machine: the root of the file system that /proc and /sys are read from.
        controller: of version 1: cpu or memory.

    """
    mounts = {"cpu": ("cpu,cpuacct", "cpu")}.get(controller, (controller,))
    for group in read_lines(machine / "proc/self/cgroup"):
        if group.count(":") < 2:
            continue
        _, controllers, name = group.split(":", 2)
        if not controllers:
            yield from ((2, folder) for folder in _up(machine / "sys/fs/cgroup", name))
        elif controller in controllers.split(","):
            for mounted in dict.fromkeys((controllers, *mounts)):
                yield from ((1, folder) for folder in _up(machine / "sys/fs/cgroup" / mounted, name))


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file, or none if it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _up(root: Path, name: str) -> Iterator[Path]:
    """Yield the folder of a control group and of each group above it.

    In a container the group's name may be the machine's, of which only the root is visible.
    """
    folder = root / name.lstrip("/")
    while folder != root and root in folder.parents:
        yield folder
        folder = folder.parent
    yield root
