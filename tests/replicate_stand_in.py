"""The few paths of Replicate's HTTP API that its clients' run() needs, in front of a running container."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests


@contextmanager
def replicate_stand_in(container_url: str) -> Iterator[str]:
    """Serve `POST /v1/models/{owner}/{name}/predictions` on loopback while the context lasts; yield the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = requests.post(
                f"{container_url}/predictions", data=body, headers={"Content-Type": "application/json"}, timeout=120
            )
            payload = json.dumps(_prediction(self.path, answer.json())).encode()
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    stand_in = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=stand_in.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{stand_in.server_port}"
    finally:
        stand_in.shutdown()
        stand_in.server_close()


def _prediction(path: str, answer: dict[str, Any]) -> dict[str, Any]:
    _, _, _, owner, name, _ = path.split("/")
    return {
        "id": answer["id"],
        "model": f"{owner}/{name}",
        "version": "stand-in",
        "status": answer["status"],
        "input": {},
        "output": answer.get("output"),
        "error": answer.get("error"),
        "logs": answer.get("logs", ""),
        "metrics": answer.get("metrics"),
        "created_at": "2026-01-01T00:00:00Z",
        "urls": {"get": "", "cancel": ""},
    }
