"""Code that scripts, gateway, benchmarks and tests share. The container and its users never need it."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SCRIPTS = PROJECT / "scripts"
