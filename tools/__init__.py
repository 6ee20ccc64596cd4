"""What scripts, benchmarks and tests share; the container and its users never need it."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SCRIPTS = PROJECT / "scripts"
