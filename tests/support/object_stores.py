"""A real server of S3 on this machine: moto's, which checks keys and rights if it is told to."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from tools.client import Client, wait_until
from tools.server import free_port

KEY, SECRET = "AKIAQUAGGA", "quaggaQuaggaQUAGGA"
BUCKET = "corpora"
NO_KEYS = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "") | {"AWS_EC2_METADATA_DISABLED": "true"}


@dataclass(frozen=True)
class ObjectStore:
    """A server that runs."""

    endpoint: str

    @property
    def variables(self) -> dict[str, str]:
        """Return the environment variables of a program that uses the store."""
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": self.endpoint}

    def client(self, service: str) -> Any:
        """Return Amazon's own client of a service."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )

    def put(self, name: str, data: bytes) -> None:
        """Write an object."""
        self.client("s3").put_object(Bucket=BUCKET, Key=name, Body=data)

    def put_folder(self, name: str, folder: Path) -> None:
        """Write every file of a folder as an object."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(f"{name}/{file.relative_to(folder)}", file.read_bytes())

    def names(self, prefix: str) -> list[str]:
        """Return the names of the objects that begin so."""
        pages = self.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def fetch(self, prefix: str, folder: Path) -> Path:
        """Write every object below a name into a folder, and return it."""
        for name in self.names(f"{prefix}/"):
            file = folder / name.removeprefix(f"{prefix}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.client("s3").get_object(Bucket=BUCKET, Key=name)["Body"].read())
        return folder


@contextmanager
def object_store(log: Path, *, free_actions: int | None = None) -> Iterator[ObjectStore]:
    """Run a server with an empty bucket.

    Args:
        log: what the server writes.
        free_actions: how many requests it answers before it asks for rights; None: it answers all.

    """
    port = free_port()
    limit = {} if free_actions is None else {"INITIAL_NO_AUTH_ACTION_COUNT": str(free_actions)}
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **limit})

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return Client(f"http://127.0.0.1:{port}").send(method="GET", path="/moto-api/data.json").status == 200
        except ConnectionRefusedError:
            return False

    try:
        wait_until(answers, timeout=120)
        store = ObjectStore(f"http://127.0.0.1:{port}")
        store.client("s3").create_bucket(Bucket=BUCKET)
        yield store
    finally:
        process.terminate()
        process.wait()
