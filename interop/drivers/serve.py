"""A queue with the published Python interface behind the driver protocol (see ``../README.md``).

Standard library alone: it runs in our environment (``python.py``) and in that of the published package
(``published_python.py``), whose queues are used alike.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from careless import Listeners, meddle_with

MOST_TURNS: Final = 10_000
"""Turns of the event loop after which something moves for ever; what moves by itself needs some ten."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")  # as it is, no JSON text could be written as UTF-8


class UnsupportedError(Exception):
    """This driver cannot do that."""


@contextmanager
def any_number_of_digits() -> Iterator[None]:
    """Python's limit on the digits of an integer is the package's to meet, not the driver's."""
    most = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(most)


class Gates:
    """Everything that a queue asks of its cache, and every send, waits until the runner lets it go."""

    def __init__(self) -> None:
        self.on = False
        self._waiting: dict[int, tuple[str, str, asyncio.Future[str | None]]] = {}
        self._given = 0

    async def wait(self, at: str, what: str) -> str | None:
        """Wait here while gates are on; the outcome that the runner named, if any."""
        if not self.on:
            return None
        self._given += 1
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        gate = self._given
        self._waiting[gate] = (at, what, future)
        try:
            return await future
        finally:
            self._waiting.pop(gate, None)

    def let_go(self, gate: int, fail: str | None, outcome: str | None) -> None:
        """Let one go; with ``fail``, what stands at it fails with that message."""
        if gate not in self._waiting:
            raise LookupError(f"nothing stands at gate {gate}")
        _, _, future = self._waiting.pop(gate)
        if fail is None:
            future.set_result(outcome)
        else:
            future.set_exception(OSError(fail))

    def close(self) -> None:
        """Stop nobody any more; what still waits fails."""
        self.on = False
        for gate in list(self._waiting):
            self.let_go(gate, "the store was closed", None)

    def waiting(self) -> list[dict[str, Any]]:
        """Every gate that something stands at."""
        return [{"gate": gate, "at": at, "what": what} for gate, (at, what, _) in self._waiting.items()]


class GatedMemory:
    """Strings by key in this process, behind gates."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self.texts: dict[str, str] = {}

    async def get_item(self, key: str) -> str | None:
        await self._gates.wait("getItem", key)
        return self.texts.get(key)

    async def set_item(self, key: str, value: str) -> None:
        await self._gates.wait("setItem", key)
        self.texts[key] = value

    async def remove_item(self, key: str) -> None:
        await self._gates.wait("removeItem", key)
        self.texts.pop(key, None)


class Store:
    """Where the queue lives: the cache it uses, and a way past the queue to look at a stored text and to put one."""

    def __init__(self, gates: Gates) -> None:
        self.cache: Any = GatedMemory(gates)

    async def text(self, key: str) -> str | None:
        """What is stored under the key."""
        texts: dict[str, str] = self.cache.texts
        return texts.get(key)

    async def put(self, key: str, text: str | None) -> None:
        """Store a text (None: nothing) as another program would."""
        if text is None:
            self.cache.texts.pop(key, None)
        else:
            self.cache.texts[key] = text

    def close(self) -> None:
        """Let go of it."""


class Driver(ABC):
    """Answers requests, one at a time. A subclass says what its package is and does."""

    harness: ClassVar = (
        "hello", "open", "close", "clock", "notifications", "text",
        "put", "gates", "start", "pass", "cancel", "subscribe", "unsubscribe", "heard", "meddle", "stop",
    )  # fmt: skip
    operations: ClassVar = (
        "hydrate", "enqueue", "claim", "remove", "recordFailure", "markFailed",
        "retry", "clear", "get", "pending", "drain",
    )  # fmt: skip
    outcomes: ClassVar[Mapping[str, type[BaseException]]] = {"error": RuntimeError, "cancelled": asyncio.CancelledError}

    def __init__(self) -> None:
        self.queue: Any = None
        self.store: Store | None = None
        self.clock_ms: int | None = None
        self.gates = Gates()
        self.notified = self.told = 0
        self.listeners = Listeners()
        self.tasks: set[asyncio.Task[None]] = set()
        self.finished: list[dict[str, Any]] = []

    @abstractmethod
    def hello(self) -> dict[str, Any]:
        """Who this is."""

    def make_store(self, kind: str, path: str | None) -> Store:
        """The store that an ``open`` request names."""
        if kind != "memory":
            raise UnsupportedError(f"there is no store {kind!r}")
        return Store(self.gates)

    @abstractmethod
    def make_queue(self, cache: Any) -> Any:
        """A queue bound to nothing."""

    async def let_go(self) -> None:
        """Let go of the queue and its store."""
        self.gates.close()
        if self.tasks:
            for task in self.tasks:
                task.cancel()
            await asyncio.wait(self.tasks)
        if self.store is not None:
            self.store.close()
        self.queue = self.store = None

    def parse(self, item: str) -> Any:
        """An item from its JSON text."""
        try:
            with any_number_of_digits():
                return json.loads(item)
        except RecursionError as error:
            raise UnsupportedError("this Python's json reads no item of that depth") from error

    def text_of(self, entries: list[Any]) -> str:
        """The JSON text of entries."""
        with any_number_of_digits():
            text = json.dumps([entry.to_dict() for entry in entries], ensure_ascii=False, separators=(",", ":"))
        return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text)

    def kind_of(self, error: Exception) -> str:
        """What happened, in words that all languages share."""
        return "unsupported" if isinstance(error, UnsupportedError) else "other"

    @abstractmethod
    async def drain_with(self, send: Callable[[Any], Any], options: dict[str, Any]) -> dict[str, Any]:
        """One pass; what it did."""

    async def do_hello(self, request: dict[str, Any]) -> Any:
        return self.hello()

    async def do_open(self, request: dict[str, Any]) -> Any:
        await self.let_go()
        self.gates = Gates()
        self.notified = self.told = 0
        self.finished = []
        self.store = self.make_store(request["store"], request.get("path"))
        self.queue = self.make_queue(self.store.cache)
        self.queue.subscribe(self._count)
        self.listeners = Listeners(self.queue)

    async def do_close(self, request: dict[str, Any]) -> Any:
        await self.let_go()

    async def do_stop(self, request: dict[str, Any]) -> Any:
        await self.let_go()

    async def do_clock(self, request: dict[str, Any]) -> Any:
        self.clock_ms = request["ms"]

    async def do_notifications(self, request: dict[str, Any]) -> Any:
        return self.notified

    async def do_text(self, request: dict[str, Any]) -> Any:
        return await self._open_store().text(request["key"])

    async def do_put(self, request: dict[str, Any]) -> Any:
        await self._open_store().put(request["key"], request["text"])

    async def do_gates(self, request: dict[str, Any]) -> Any:
        self.gates.on = request["on"]

    async def do_start(self, request: dict[str, Any]) -> Any:
        async def run() -> None:
            outcome = await self._outcome(request["call"])
            self.finished.append({"task": request["task"], **outcome})

        task = asyncio.get_running_loop().create_task(run(), name=request["task"])
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return await self._what_moved()

    async def do_pass(self, request: dict[str, Any]) -> Any:
        self.gates.let_go(request["gate"], request.get("fail"), request.get("outcome"))
        return await self._what_moved()

    async def do_cancel(self, request: dict[str, Any]) -> Any:
        for task in self.tasks:
            if task.get_name() == request["task"]:
                task.cancel()
        return await self._what_moved()

    async def do_subscribe(self, request: dict[str, Any]) -> Any:
        self.listeners.subscribe(request["name"], request.get("does"))

    async def do_unsubscribe(self, request: dict[str, Any]) -> Any:
        self.listeners.unsubscribe(request["name"])

    async def do_heard(self, request: dict[str, Any]) -> Any:
        heard, self.listeners.heard = self.listeners.heard, []
        return heard

    async def do_meddle(self, request: dict[str, Any]) -> Any:
        entries = self.queue.get()
        for entry in entries:
            meddle_with(entry)
        entries.clear()

    async def do_hydrate(self, request: dict[str, Any]) -> Any:
        await self.queue.hydrate(request["key"])

    async def do_enqueue(self, request: dict[str, Any]) -> Any:
        return await self.queue.enqueue(request["id"], self.parse(request["item"]), request.get("ts"))

    async def do_claim(self, request: dict[str, Any]) -> Any:
        return await self.queue.claim(request["id"])

    async def do_remove(self, request: dict[str, Any]) -> Any:
        return await self.queue.remove(request["id"])

    async def do_record_failure(self, request: dict[str, Any]) -> Any:
        return await self.queue.record_failure(request["id"], request["maxAttempts"])

    async def do_mark_failed(self, request: dict[str, Any]) -> Any:
        return await self.queue.mark_failed(request["id"])

    async def do_retry(self, request: dict[str, Any]) -> Any:
        return await self.queue.retry(request["id"])

    async def do_clear(self, request: dict[str, Any]) -> Any:
        self.queue.clear()

    async def do_get(self, request: dict[str, Any]) -> Any:
        return self.text_of(self.queue.get())

    async def do_pending(self, request: dict[str, Any]) -> Any:
        if "member" not in request:
            return self.text_of(self.queue.pending())
        member, equals = request["member"], request["equals"]
        return self.text_of(self.queue.pending(lambda item: isinstance(item, dict) and item.get(member) == equals))

    async def do_drain(self, request: dict[str, Any]) -> Any:
        outcomes = request.get("outcomes", {})
        unknown = {outcome for script in outcomes.values() for outcome in script} - {"ok", *self.outcomes}
        if unknown:
            raise UnsupportedError(f"the package knows no outcome {min(unknown)!r}")
        sends: list[str] = []
        asked: Counter[str] = Counter()

        def begin(entry: Any) -> int:
            sends.append(self.text_of([entry])[1:-1])
            asked[str(entry.id)] += 1
            return asked[str(entry.id)]

        def end(entry: Any, turn: int, said: str | None = None) -> None:
            if request.get("send") == "meddling":
                meddle_with(entry)
            script = outcomes.get(str(entry.id), ["ok"])  # an id in a stored text may be a list
            outcome = said or script[min(turn, len(script)) - 1]
            if outcome != "ok":
                raise self.outcomes[outcome]("the send failed, as it was told to")

        async def send(entry: Any) -> None:
            turn = begin(entry)
            end(entry, turn, await self.gates.wait("send", str(entry.id)))

        def plain_send(entry: Any) -> None:
            end(entry, begin(entry))

        options = {"max_attempts": request["maxAttempts"]} if "maxAttempts" in request else {}
        kind = plain_send if request.get("send") == "plain" else send
        return {**await self.drain_with(kind, options), "sends": sends}

    def _open_store(self) -> Store:
        if self.store is None:
            raise UnsupportedError("nothing is open")
        return self.store

    def _count(self) -> None:
        self.notified += 1

    async def _what_moved(self) -> dict[str, Any]:
        loop: Any = asyncio.get_running_loop()
        for _ in range(MOST_TURNS):
            await asyncio.sleep(0)
            if not loop._ready:  # noqa: SLF001  # what runs without being woken; asyncio has no public word for it
                break
        finished, self.finished = self.finished, []
        return {"waiting": self.gates.waiting(), "finished": finished}

    async def _outcome(self, request: dict[str, Any]) -> dict[str, Any]:
        op = request["op"]
        name = "do_" + "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in op)
        try:
            if op not in self.harness and op not in self.operations:
                raise UnsupportedError(f"there is no operation {op!r}")
            return {"value": await getattr(self, name)(request)}
        except asyncio.CancelledError as error:  # by `cancel`, or by a send that was told to: nobody else cancels
            return {"error": {"kind": "cancelled", "name": "CancelledError", "message": str(error)}}
        except Exception as error:  # noqa: BLE001  # whatever it raises is the answer
            return {"error": {"kind": self.kind_of(error), "name": type(error).__name__, "message": str(error)}}

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        outcome = await self._outcome(request)
        notified, self.told = self.notified - self.told, self.notified
        seen: dict[str, Any] = {}
        if "look" in request:
            seen = {"entries": self.text_of(self.queue.get()), "text": await self._open_store().text(request["look"])}
        return {"n": request["n"], "notified": notified, **outcome, **seen}

    async def run(self) -> None:
        """Answer until ``stop`` or the end of standard input."""
        for line in iter(sys.stdin.buffer.readline, b""):  # a line of bytes ends in \n alone
            request = json.loads(line)
            sys.stdout.write(json.dumps(await self.answer(request)) + "\n")
            sys.stdout.flush()
            if request["op"] == "stop":
                return
        await self.let_go()
