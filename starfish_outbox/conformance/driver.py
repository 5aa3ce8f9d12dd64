"""A driver program that was started: ask it, close it.

The protocol is ``interop/protocol.schema.json``: one JSON object a line on standard input, one answer each on standard
output. What a driver writes on standard error is kept, and shown when it dies.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import IO, Any, Final, NamedTuple, Protocol, Self, TypeAlias, cast

Request: TypeAlias = dict[str, Any]
"""An operation and its arguments, without the number, which the driver object gives."""

PROTOCOL: Final = 1
_BLOCK: Final = 1 << 15  # bytes handed over at once: a pipe holds them, so that several drivers work at the same time
_LAST_WORDS: Final = 2000


class DriverError(RuntimeError):
    """A driver is of no use any more; it was ended. The text says which, and what it was asked."""


class DriverDiedError(DriverError):
    """It ended before it answered."""


class DriverTimeoutError(DriverError):
    """It did not answer in time."""


class NonsenseError(DriverError):
    """What it said, or what it was to be asked, is not of the protocol."""


class Failure(NamedTuple):
    """What an operation raised.

    Attributes:
        kind: in words that all languages share, such as ``locked``.
        name: the language's own name of it.
    """

    kind: str
    name: str
    message: str


class Answer(NamedTuple):
    """What became of one operation.

    Attributes:
        value: what it returned; None also where it raised.
        error: what it raised, or None.
        notified: how often the queue's listener was called since the answer before.
        entries: where the request had ``look``: the JSON text of all entries.
        text: where the request had ``look``: the stored text, or None.
    """

    value: Any
    error: Failure | None
    notified: int
    entries: str | None
    text: str | None


class Hello(NamedTuple):
    """Who a driver is; lists of known failures and divergences go by ``name``."""

    name: str
    version: str
    language: str
    capabilities: frozenset[str]


class Rules(Protocol):
    """What requests and answers are held against (`protocol.ProtocolRules`)."""

    def check_request(self, request: Mapping[str, Any]) -> str | None:
        """What is wrong with it, or None."""

    def check_answer(self, op: str, answer: Mapping[str, Any]) -> str | None:
        """What is wrong with it as an answer to ``op``, or None."""


class Driver:
    """A running driver; use it in a ``with`` statement, or close it.

    Args:
        command: the program and its arguments; a string is split as a shell would.
        timeout: seconds for one answer.
        start_timeout: seconds for the first: a driver may have to make its environment.
        rules: what every request and answer is held against; by default only what is needed to go on.

    Raises (here and in every call):
        DriverError: see its subclasses; the driver is then closed.
    """

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        timeout: float = 30.0,
        start_timeout: float = 300.0,
        rules: Rules | None = None,
    ) -> None:
        self.command = shlex.split(command) if isinstance(command, str) else [str(part) for part in command]
        self._timeout = timeout
        self._rules = rules
        self._given = 0
        self._asked: deque[tuple[int, str]] = deque()
        self._chunks: SimpleQueue[bytes] = SimpleQueue()
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by _end
        try:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        except OSError as error:
            self._errors.close()
            raise DriverDiedError(f"{shlex.join(self.command)} could not be started: {error}") from error
        self._reader = threading.Thread(target=self._read, name="driver-output", daemon=True)
        self._reader.start()
        hello = self._exchange([{"op": "hello", "protocol": PROTOCOL}], start_timeout)[0].value
        try:
            self.hello = Hello(hello["name"], hello["version"], hello["language"], frozenset(hello["capabilities"]))
            if hello["protocol"] != PROTOCOL:
                raise self._fail(NonsenseError, f"speaks protocol {hello['protocol']}, not {PROTOCOL}")
        except (TypeError, KeyError) as error:
            raise self._fail(NonsenseError, f"does not say who it is: {_shown(hello)}") from error

    def __repr__(self) -> str:
        return f"Driver({shlex.join(self.command)!r}, pid {self.pid})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The name in its ``hello``."""
        return self.hello.name

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def _stdin(self) -> IO[bytes]:
        return cast("IO[bytes]", self._process.stdin)  # a pipe, since we asked for one

    @property
    def _stdout(self) -> IO[bytes]:
        return cast("IO[bytes]", self._process.stdout)

    def ask(self, op: str, **arguments: Any) -> Answer:
        """The answer to one request."""
        return self._exchange([{"op": op, **arguments}], self._timeout)[0]

    def ask_many(self, requests: Iterable[Request]) -> list[Answer]:
        """The answers to many requests, handed over together: several times faster than one by one."""
        return ask_all([self], requests)[0]

    def hand_over(self, requests: Sequence[Request]) -> None:
        """Ask without waiting; every request handed over needs its ``receive``."""
        lines = []
        for request in requests:
            self._given += 1
            numbered = {"n": self._given, **request}
            problem = self._rules.check_request(numbered) if self._rules else None
            if problem:
                raise self._fail(NonsenseError, f"was to be asked what is not of the protocol: {problem}")
            lines.append(json.dumps(numbered).encode() + b"\n")
            self._asked.append((self._given, request["op"]))
        self._write(b"".join(lines))

    def receive(self, timeout: float | None = None) -> Answer:
        """The answer to the oldest request that has none yet."""
        number, op = self._asked[0]
        line = self._line(op, self._timeout if timeout is None else timeout)
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise self._fail(NonsenseError, f"answered {op!r} with what is no JSON: {_shown(line)}") from error
        problem = self._rules.check_answer(op, answer) if self._rules else None
        if problem or not isinstance(answer, dict) or answer.get("n") != number or "notified" not in answer:
            why = problem or f"it is no answer to request {number}"
            raise self._fail(NonsenseError, f"answered {op!r} with {_shown(answer)}: {why}")
        self._asked.popleft()
        failed = answer.get("error")
        return Answer(
            answer.get("value"),
            None if failed is None else Failure(failed["kind"], failed["name"], failed["message"]),
            answer["notified"],
            answer.get("entries"),
            answer.get("text"),
        )

    @property
    def has_answered(self) -> bool:
        """Whether something of an answer, or the end of the driver, has come that nobody has received yet."""
        return bool(self._lines) or not self._chunks.empty()

    def close(self) -> None:
        """Ask it to stop, wait until it has ended (else end it), and forget it. Twice is once."""
        if not self._stdin.closed:
            if self._asked:  # somebody gave up waiting, perhaps because it hangs
                self._process.kill()
            elif self._process.poll() is None:
                with suppress(DriverError):  # it is ended all the same
                    self.ask("stop")
            self._end(self._timeout)

    def _exchange(self, requests: Sequence[Request], timeout: float) -> list[Answer]:
        self.hand_over(requests)
        return [self.receive(timeout) for _ in requests]

    def _write(self, data: bytes) -> None:
        # A pipe that is full waits for the driver to read; one that never does is ended, which ends the waiting.
        watchdog = threading.Timer(self._timeout, self._process.kill) if len(data) > _BLOCK else None
        try:
            if watchdog:
                watchdog.start()
            self._stdin.write(data)
            self._stdin.flush()
        except (OSError, ValueError) as error:  # ValueError: it was closed before
            raise self._fail(DriverDiedError, f"could not be asked {self._asked[0][1]!r}: {error}") from error
        finally:
            if watchdog:
                watchdog.cancel()

    def _read(self) -> None:
        while chunk := os.read(self._stdout.fileno(), 1 << 16):
            self._chunks.put(chunk)
        self._chunks.put(b"")

    def _line(self, op: str, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while not self._lines:
            try:
                chunk = self._chunks.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise self._fail(DriverTimeoutError, f"did not answer {op!r} within {timeout:g} s") from None
            if not chunk:
                code = self._process.wait()
                how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
                raise self._fail(DriverDiedError, f"ended ({how}) before it answered {op!r}")
            *lines, self._rest = (self._rest + chunk).split(b"\n")  # on \n alone: U+2028 stands in JSON as it is
            self._lines.extend(lines)
        return self._lines.popleft()

    def _fail(self, kind: type[DriverError], what: str) -> DriverError:
        """End it, and the error to raise, with its last words."""
        self._process.kill()
        words = self._end(self._timeout)
        return kind(f"{shlex.join(self.command)} {what}" + (f"\nits last words:\n{words}" if words else ""))

    def _end(self, timeout: float) -> str:
        """Wait for its end, close the pipes; what it last said on standard error."""
        if self._errors.closed:
            return ""
        with suppress(OSError):  # what it was not told it will not be told
            self._stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout)
        if not self._reader.is_alive():  # a child of the driver's may hold the pipe open
            self._stdout.close()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - _LAST_WORDS))
        words = self._errors.read().decode("utf-8", "replace").strip()
        self._errors.close()
        self._asked.clear()
        return words


def ask_all(drivers: Sequence[Driver], requests: Iterable[Request]) -> list[list[Answer]]:
    """The same requests to several drivers, which work at the same time; the answers of each."""
    answers: list[list[Answer]] = [[] for _ in drivers]
    for block in _blocks(requests):
        for driver in drivers:
            driver.hand_over(block)
        for driver, its in zip(drivers, answers, strict=True):
            its.extend(driver.receive() for _ in block)
    return answers


def _blocks(requests: Iterable[Request]) -> Iterator[list[Request]]:
    block: list[Request] = []
    size = 0
    for request in requests:
        block.append(request)
        size += 100 + sum(len(value) for value in request.values() if isinstance(value, str))
        if size > _BLOCK // 4:  # json.dumps can need six characters for one
            yield block
            block, size = [], 0
    if block:
        yield block


def _shown(what: object) -> str:
    text = what.decode("utf-8", "replace") if isinstance(what, bytes) else json.dumps(what)
    return repr(text if len(text) <= 200 else f"{text[:200]}...")
