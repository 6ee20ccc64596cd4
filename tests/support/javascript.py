"""Programs in Node.js that use a client from npm."""

import json
import subprocess
from pathlib import Path
from typing import Any


class JavaScript:
    """Runs programs that begin with the same lines: those that make the client."""

    def __init__(self, node_modules: Path, before: str) -> None:
        self._folder = node_modules
        self._before = before

    def __call__(self, program: str, **constants: Any) -> Any:
        """Run a program that uses these constants, and return what it passes to `answer`."""
        given = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in constants.items())
        answer = "const answer = (value) => console.log(JSON.stringify(value));\n"
        finished = subprocess.run(
            ["node", "--input-type=module", "-"],
            input=self._before + given + answer + program,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)
