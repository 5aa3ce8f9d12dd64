"""The command line for tests: in this process, and as a process of its own; and stores to point it at."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from typer.testing import CliRunner

from starfish_outbox import OutboxQueue, RejectedError, drain_outbox
from starfish_outbox.cli.app import app
from starfish_outbox.cli.stores import Store, store_at

KEY: Final = "outbox.me"
KINDS: Final = ("sqlite", "directory", "file")


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document that ``--json`` wrote."""
        decoded: dict[str, Any] = json.loads(self.out)
        return decoded


def cli(*args: str | Path) -> Ran:
    """The command line in this process; an exception that is not its own comes through."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    return Ran(result.exit_code, result.stdout, result.stderr)


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "starfish_outbox.cli", *map(str, args)]


def cli_process(*args: str | Path, **options: Any) -> Ran:
    """The command line as a process of its own."""
    done = subprocess.run(command(*args), capture_output=True, text=True, timeout=60, check=False, **options)
    return Ran(done.returncode, done.stdout, done.stderr)


def on_a_terminal(*args: str | Path, **environment: str) -> str:
    """What the command shows on a terminal of 80 columns, before it ends with 0."""
    ours, theirs = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    settings = {**plain, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    child = subprocess.Popen(command(*args), stdout=theirs, stderr=theirs, stdin=theirs, env=settings)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert child.wait(60) == 0
    return shown.decode()


def store(folder: Path, kind: str) -> Store:
    """A place for a store of this kind; what lies there is not made yet."""
    return store_at(f"{folder}/{ {'sqlite': 'outbox.db', 'directory': 'files/', 'file': 'My queue.json'}[kind] }")


def key_in(place: Store) -> str:
    return "My queue" if place.kind == "file" else KEY


def fill(place: Store, entries: Sequence[tuple[str, Any]], *, key: str | None = None, fail: Sequence[str] = ()) -> None:
    """Put entries into a store, those in ``fail`` refused by a server; the store is closed again."""

    async def work() -> None:
        cache = place.cache()
        queue: OutboxQueue[Any] = OutboxQueue(cache)
        await queue.hydrate(key or key_in(place))
        first_ms = 1_700_000_000_000
        await asyncio.gather(*(queue.enqueue(*pair, ts=first_ms + number) for number, pair in enumerate(entries)))

        async def refuse(_: object) -> None:
            raise RejectedError("the server answered 422")

        others = [entry.id for entry in queue.get() if entry.id not in fail] if fail else []
        await asyncio.gather(*(queue.claim(id) for id in others))  # what is claimed is not drained
        if fail:
            await drain_outbox(queue, refuse)
        await asyncio.gather(*(queue.retry(id) for id in others))
        await queue.close()
        cache.close()

    asyncio.run(work())


def numbered(count: int, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    """Entries for ``fill``: ``obs-0`` with the item ``{"n": 0}``, and so on."""
    return [(f"obs-{number}", {"n": number, **more}) for number in range(count)]


def entries_in(place: Store, key: str | None = None) -> list[dict[str, Any]]:
    """What a TypeScript program would read there."""

    async def work() -> str | None:
        cache = place.cache()
        try:
            return await cache.get_item(key or key_in(place))
        finally:
            cache.close()

    decoded: list[dict[str, Any]] = json.loads(asyncio.run(work()) or "[]")
    return decoded


def everything(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file below, with its time of change and content: equal twice means that nobody wrote anything."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextlib.contextmanager
def holder(place: Store, claim: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the queue open and claims an entry; each line to it enqueues one more id."""
    code = """if True:
        import asyncio, sys
        from starfish_outbox import OutboxQueue
        from starfish_outbox.cli.stores import store_at

        async def main(path, key, claim):
            queue = OutboxQueue(store_at(path).cache())
            await queue.hydrate(key)
            await queue.claim(claim)
            print("open", flush=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                await queue.enqueue(line.strip(), None)
                print("stored", flush=True)
            await queue.close()

        asyncio.run(main(*sys.argv[1:]))"""
    path = str(place.path) + ("/" if place.kind == "directory" else "")
    child = subprocess.Popen(
        [sys.executable, "-c", code, path, key_in(place), claim],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        yield child
        child.kill()


def tell(child: subprocess.Popen[str], id: str) -> None:
    """Have the holder enqueue an id."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{id}\n")
    child.stdin.flush()
    assert child.stdout.readline() == "stored\n"


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Returns when it is so; fails where that takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def has_open(child: subprocess.Popen[str], path: Path) -> bool:
    """Whether the process has this file open (Linux tells)."""
    links = Path(f"/proc/{child.pid}/fd")
    with contextlib.suppress(FileNotFoundError):  # it may end, or close one, while we look
        return any(os.path.realpath(link) == str(path) for link in links.iterdir())
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux tells what a process has open")
