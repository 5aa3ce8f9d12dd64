"""The child processes of the demo: started, heard, killed, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

PATIENCE: Final = 60.0
"""Seconds in which a child must say its next line, and in which it must end when it was asked to."""


class ChildError(Exception):
    """A child process did not do its part; the text holds the last lines that it wrote to its log."""


@contextlib.asynccontextmanager
async def child(module: str, arguments: list[str], log: Path) -> AsyncIterator[Child]:
    """``python -m MODULE ARGUMENTS`` as a child process; at the end of the block it is dead.

    Args:
        module: what to run.
        arguments: its command line.
        log: where its standard error goes.
    """
    started = Child(module, arguments, log)
    try:
        yield started
    finally:
        started.bury()


class Child:
    """A child process; `child` makes it.

    It is a ``subprocess.Popen``: asyncio's own can report code 255 for a process that is killed while it ends.
    """

    def __init__(self, module: str, arguments: list[str], log: Path) -> None:
        self._module = module
        self._log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._reader = threading.Thread(target=self._read, args=(asyncio.get_running_loop(),), daemon=True)
        self._reader.start()

    async def lines(self) -> AsyncIterator[str]:
        """What it prints, line by line, to the end of its output; a last line without its end is left out.

        Raises:
            ChildError: it said nothing for a minute.
        """
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    line = await self._lines.get()
            except TimeoutError as error:
                raise self._error(f"said nothing for {PATIENCE:.0f} seconds") from error
            if line is None:
                return
            yield line

    async def line(self) -> str:
        """The next line that it prints.

        Raises:
            ChildError: it ended, or said nothing for a minute.
        """
        async for line in self.lines():
            return line
        raise self._error(f"ended with code {await self._ended()}")

    async def finished(self) -> None:
        """Returns when it ended by itself.

        Raises:
            ChildError: its exit code is not 0, or it does not end.
        """
        if (code := await self._ended()) != 0:
            raise self._error(f"ended with code {code}")

    async def end(self) -> None:
        """Closes its standard input, on which the server ends by itself.

        Raises:
            ChildError: it did not end well.
        """
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self.finished()

    def kill(self) -> bool:
        """SIGKILL, as a flat battery would do it; False when it had ended before."""
        alive = self.alive
        self._process.kill()
        return alive

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def bury(self) -> None:
        """Kills it if it is still there, and frees what it held here."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what it had not read yet
                    pipe.close()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        for line in self._process.stdout or ():
            if line.endswith(b"\n"):
                loop.call_soon_threadsafe(self._lines.put_nowait, line.decode().rstrip("\r\n"))
        loop.call_soon_threadsafe(self._lines.put_nowait, None)

    async def _ended(self) -> int:
        try:
            return await asyncio.to_thread(self._process.wait, PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise self._error(f"does not end within {PATIENCE:.0f} seconds") from error

    def _error(self, what: str) -> ChildError:
        words = self._log.read_text(errors="replace").strip().splitlines()[-3:]
        return ChildError(f"{self._module} {what}" + "".join(f"\n  {word}" for word in words))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, below those that systems give to outgoing connections.

    One of those could be taken by our own client while the server is down: a connection to a port from that same port
    succeeds, and talks to itself.

    Raises:
        ChildError: none was found.
    """
    for port in random.sample(range(20_000, 32_000), 50):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue  # somebody has it
            return port
    raise ChildError("no free port was found between 20000 and 32000")
