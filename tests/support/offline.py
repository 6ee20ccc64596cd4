"""Start the server, ask it for a vector and print the answer. It is run without any network but loopback."""

import json
import sys
from pathlib import Path

import requests

from tools.server import LocalServer


def main() -> None:
    """Print the answer of a server; its log goes to the file that is named on the command line."""
    with LocalServer(Path(sys.argv[1]), weights="manifest") as server:
        answer = requests.post(f"{server.url}/predictions", json={"input": {"text": "no network"}}, timeout=600)
    print(json.dumps(answer.json()))  # noqa: T201


if __name__ == "__main__":
    main()
