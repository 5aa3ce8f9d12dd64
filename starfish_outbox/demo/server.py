"""A small HTTP server that stores to disk before it answers, and loses some of its answers: ``python -m …demo.server``.

1. ``POST`` with an ``Idempotency-Key`` stores the JSON body under that key: appended to ``records.jsonl`` and fsynced
   before the answer (201), so that a SIGKILL loses nothing that was answered.
2. The same key with the same body is answered "already there" (200) and stored no second time; with another body, 409.
3. A share of the answers, chosen by a seeded dice, is lost after storing: the connection is closed without a word.
4. After a kill, the keys are read back from the file. A last line without its end was never answered and is cut off.
5. It lives as long as its standard input: who started it ends it by closing that, or by dying.

It prints one line, ``ready PORT``, when it takes connections. Every request is noted in ``requests.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn, Self

RECORDS: Final = "records.jsonl"
REQUESTS: Final = "requests.jsonl"
LARGEST_BODY: Final = 2 << 20
_MOST_DISCARDED: Final = 4 * LARGEST_BODY


class Shelf:
    """What the server has stored, on disk and by key; one thread at a time.

    Args:
        directory: where the two files lie.
        lose: the share of answers that are lost, from 0 to 1.
        seed: of the dice.
    """

    def __init__(self, directory: Path, lose: float, seed: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._bodies = {
            record["key"]: json.dumps(record["item"]) for record in _cut_to_whole_lines(directory / RECORDS)
        }
        self._records = (directory / RECORDS).open("ab", buffering=0)
        # Each line is one write without a buffer and survives a kill; a power cut may take it, it is only a note.
        self._requests = (directory / REQUESTS).open("ab", buffering=0)
        _sync_directory(directory)
        self._lose = lose
        # After a restart the dice goes on elsewhere instead of losing the same answers again.
        self._dice = random.Random(f"{seed}/{len(self._bodies)}")  # noqa: S311  # a demo's dice, no secret

    def __enter__(self) -> Self:
        """The shelf itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files, after whoever is storing."""
        with self._lock:
            self._records.close()
            self._requests.close()

    def store(self, key: str, item: Any) -> tuple[int | None, str]:
        """Stores an item under a key, durably, and says what to answer: a status (None: it gets lost) and words."""
        text = json.dumps(item)
        with self._lock:
            known = self._bodies.get(key)
            if known is None:
                line = json.dumps({"key": key, "item": item}).encode() + b"\n"
                self._records.write(line)
                os.fsync(self._records.fileno())
                self._bodies[key] = text
                status, did = 201, "stored"
            elif known == text:
                status, did = 200, "already there"
            else:
                status, did = 409, "another version is there"
            lost = self._dice.random() < self._lose
            self._requests.write(json.dumps({"key": key, "did": did, "lost": lost}).encode() + b"\n")
        return None if lost else status, did


class Handler(BaseHTTPRequestHandler):
    """One connection. ``shelf`` is set by `serve`."""

    protocol_version = "HTTP/1.1"  # keeps the connection open for the next request
    disable_nagle_algorithm = True  # else each answer waits for the client's delayed acknowledgement, some 40 ms
    timeout = 60
    shelf: ClassVar[Shelf]

    def do_POST(self) -> None:
        """Stores one record and answers, or does not."""
        key = self.headers.get("Idempotency-Key", "")
        length = self.headers.get("Content-Length", "")
        if not key or not length.isdecimal() or int(length) > LARGEST_BODY:
            # Hanging up on a body that is still being sent resets the connection, and the answer with it.
            self.rfile.read(min(int(length), _MOST_DISCARDED) if length.isdecimal() else 0)
            self.close_connection = True  # there may be more of it
            self._answer(400, "a Content-Length of at most 2 MiB and an Idempotency-Key are needed")
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True  # the client went away in the middle
            return
        try:
            item = json.loads(body, parse_constant=_refuse)
        except ValueError as error:
            self._answer(400, f"the body is no JSON: {error}")
            return
        status, did = self.shelf.store(key, item)
        if status is None:
            self.close_connection = True
        else:
            self._answer(status, did)

    def _answer(self, status: int, did: str) -> None:
        body = json.dumps({"did": did}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the signature of http.server
        """Nothing on the terminal: requests are noted in the file."""


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of the server, one a line; a line without its end is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def serve(directory: Path, port: int, lose: float, seed: int, until: Callable[[], object]) -> None:
    """Serves on 127.0.0.1 until ``until`` returns; it is called once, after ``ready PORT`` was printed."""
    with Shelf(directory, lose, seed) as shelf, ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        Handler.shelf = shelf
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        print(f"ready {server.server_port}", flush=True)
        try:
            until()
        finally:
            server.shutdown()


def main() -> None:
    """The command line of the server."""
    parser = argparse.ArgumentParser(prog="python -m starfish_outbox.demo.server", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--lose", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    serve(options.directory, options.port, options.lose, options.seed, sys.stdin.buffer.read)


def _cut_to_whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records in the file, after cutting off what a kill left of a line."""
    if path.exists():
        with path.open("r+b") as file:
            end = file.read().rfind(b"\n") + 1
            file.truncate(end)
            os.fsync(file.fileno())
    return read_lines(path)


def _sync_directory(directory: Path) -> None:
    """Makes the names of new files durable; Windows has no such call and no need of it."""
    if os.name != "nt":
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


if __name__ == "__main__":
    main()
