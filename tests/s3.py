"""A real S3 server on loopback, from the package ``localbucket``: objects are files, so that they outlive a crash.

It makes conditional puts atomic, and checks no credentials.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.programs import Program, free_port

BUCKET = "survey-2026"


class S3:
    """The server, with one bucket; ``kill`` is a crash, after which ``start`` has what was stored."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        (folder / BUCKET).mkdir()
        serve = [sys.executable, "-u", "-m", "localbucket", str(folder), "--port", str(self.port)]
        self._program = Program(serve, "serving")

    def start(self) -> None:
        self._program.start()

    def kill(self) -> None:
        self._program.kill()

    def client(self, port: int | None = None, **options: Any) -> Any:
        """One of boto3 that does not try again; for a relay's port, or the server's own."""
        return client_for(port or self.port, **options)

    def objects(self) -> dict[str, bytes]:
        """Content by key, as it lies on disk."""
        bucket = self._folder / BUCKET
        return {str(path.relative_to(bucket)): path.read_bytes() for path in bucket.rglob("*") if path.is_file()}


def client_for(port: int, **options: Any) -> Any:
    """A client of boto3 for whatever listens on that port."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="field",
        aws_secret_access_key="not a secret",
        region_name="us-east-1",
        config=Config(
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            max_pool_connections=20,
            proxies={},
            **{"read_timeout": 30, **options},
        ),
    )


@contextlib.contextmanager
def running_s3(folder: Path) -> Iterator[S3]:
    server = S3(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
