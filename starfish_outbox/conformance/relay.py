"""One stored queue that goes from hand to hand: each operation by another program, through the stored text alone.

Every operation is a whole life: open the store, hydrate, do one thing, close. So every text that one program writes is
read by the next, and what each answers is held against the `model`, but for what is declared of it.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from starfish_outbox.conformance.comparison import Pair, entries_of
from starfish_outbox.conformance.divergences import Declared, Divergence
from starfish_outbox.conformance.driver import Answer, Driver, DriverError, Request
from starfish_outbox.conformance.model import ORDER, Dialect, Model, dialect_of
from starfish_outbox.conformance.sequences import KEYS, START_MS, foreign_text, random_operation
from starfish_outbox.jsontext import decode, encode_foreign

StoreName: TypeAlias = Literal["memory", "files", "sqlite"]

_KEY: Final = KEYS[0]
_MAKER: Final = "python"  # the name of the driver that makes a database; others work on one that there is


@dataclass
class RelayTally:
    """What was done.

    Attributes:
        sequences: how many.
        operations: how many by whom.
        kept: how often a key that nobody knows stood in the array after it was written.
        declared: what declared divergences were met, beside those that the model foretells.
        differences: in words: the seed, the text at the start, and the operations up to the one that went wrong.
    """

    sequences: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    declared: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """In one line."""
        by = ", ".join(f"{name} {times}" for name, times in sorted(self.operations.items()))
        met = ", ".join(f"{name} {times}" for name, times in sorted(self.declared.items())) or "none"
        return (
            f"{self.sequences} sequences, operations by {by}; {len(self.differences)} differences from the model; "
            f"unknown keys kept {self.kept} times; declared divergences met: {met}"
        )


def relay(
    drivers: Sequence[Driver],
    seeds: Iterable[int],
    divergences: Sequence[Divergence],
    *,
    store: StoreName = "memory",
    folder: Path | None = None,
    most: int = 3,
) -> RelayTally:
    """Ten to thirty operations a seed, each by one of the drivers, on one stored queue.

    Args:
        drivers: two or more, with different names; all have the store among their capabilities.
        seeds: one a sequence; also an iterator that ends when the time is up.
        divergences: what is declared.
        store: ``memory`` (the text is carried from one to the next), ``files`` (one directory) or ``sqlite`` (one
            database, made by the driver ``python`` or else by the first).
        folder: where directories and databases are made, and removed afterwards; by default where the system keeps
            temporary files.
        most: differences after which there is no point in going on.

    Raises:
        ValueError: a driver has no such store.
        DriverError: a driver died, hung, answered nonsense, or could not make the store.
    """
    for driver in drivers:
        if store not in driver.hello.capabilities:
            raise ValueError(f"{driver.name} has no store {store!r}")
    tally = RelayTally()
    dialects = {driver.name: dialect_of(driver.name, divergences) for driver in drivers}
    declared = {name: Declared(divergences, name, but=dialect.known) for name, dialect in dialects.items()}
    for seed in seeds:
        with tempfile.TemporaryDirectory(dir=folder, prefix="relay-") as place:
            run = _Run(drivers, dialects, declared, seed, store, str(Path(place) / "queue"))
            difference = run.difference(tally)
        tally.sequences += 1
        tally.differences += [difference] if difference else []
        if len(tally.differences) >= most:
            break
    for one in declared.values():
        tally.declared.update(one.met)
    return tally


class _Run:
    """One sequence."""

    def __init__(
        self,
        drivers: Sequence[Driver],
        dialects: Mapping[str, Dialect],
        declared: Mapping[str, Declared],
        seed: int,
        store: StoreName,
        path: str,
    ) -> None:
        self._drivers = drivers
        self._dialects = dialects
        self._declared = declared
        self._seed = seed
        self._rng = random.Random(seed)
        self._store = store
        self._open: Request = {"op": "open", "store": store} | ({} if store == "memory" else {"path": path})
        self._start = self._stored = _start(self._rng)
        self._claimed: dict[str, int] = {}
        self._done: list[str] = []

    def difference(self, tally: RelayTally) -> str | None:
        """What differs from the model, in words; None: nothing."""
        if self._store != "memory":
            self._make()
        for number in range(self._rng.randrange(10, 31)):
            driver = self._rng.choice(self._drivers)
            request = _operation(self._rng)
            self._done.append(f"  {driver.name}: {json.dumps(request)}")
            tally.operations[driver.name] += 1
            problem = self._step(driver, request, START_MS + number, tally)
            if problem is not None:
                words = f"seed {self._seed}, operation {number} by {driver.name}: {problem}"
                return "\n".join([words, f"  {self._start}", *self._done])
        return None

    def _make(self) -> None:
        maker = next((driver for driver in self._drivers if driver.name == _MAKER), self._drivers[0])
        put: Request = {"op": "put", "key": _KEY, "text": self._start}
        for answer in maker.ask_many([self._open, put, {"op": "close"}]):
            if answer.error:
                raise DriverError(f"{maker.name} could not make the store {self._store}: {answer.error}")

    def _step(self, driver: Driver, request: Request, now_ms: int, tally: RelayTally) -> str | None:
        """Do it; what went wrong, or None, and what is stored is then the start of the next."""
        carry: list[Request] = [{"op": "put", "key": _KEY, "text": self._stored}] if self._store == "memory" else []
        before: list[Request] = [self._open, {"op": "clock", "ms": now_ms}, *carry, {"op": "hydrate", "key": _KEY}]
        answers = driver.ask_many([*before, {**request, "look": _KEY}, {"op": "close"}])
        answer = answers.pop(len(before))
        if failed := next((one.error for one in answers if one.error), None):
            return f"raised {failed}"
        dialect, rows = self._dialects[driver.name], self._store == "sqlite"
        model = Model(self._stored, dialect, now_ms, rows=rows, claimed_ms=self._claimed)
        expected = model.after(request)._replace(notified=answer.notified)
        pair = Pair(request, (answer, expected), (self._declared[driver.name], Declared((), "")), bound=True)
        what = pair.difference()
        if what is not None:
            return f"the {what} is\n    {_shown(answer, what)}\n  instead of\n    {_shown(expected, what)}"
        entries = entries_of(answer.text)
        if entries is None:
            return f"what it stored is no array of entries: {answer.text}"
        # Where a declaration lets the states differ, no entry may be lost that the operation does not name.
        right = {entry["id"] for entry in decode(expected.text or "[]")} - {request.get("id")}
        if lost := right - {entry["id"] for entry in entries}:
            return f"what it stored is without {sorted(lost)}: {answer.text}"
        if model.written:
            tally.kept += sum(len(entry.keys() - set(ORDER)) for entry in entries)
        if model.written or dialect.marks:  # an array says of no entry when it was claimed
            knows = rows and dialect.marks and request["op"] == "claim"
            self._claimed = {request["id"]: now_ms} if knows else {}
        self._stored = answer.text or ""
        return None


def _start(rng: random.Random) -> str:
    """A stored text in which some entries were asked for before and failed, or may have arrived."""
    entries = decode(foreign_text(rng, False))
    for entry in entries:
        if rng.random() < 0.3:
            entry["lastError"] = {"type": "HTTPError", "message": "503 \u2028 é", "at": START_MS - 5}
        if rng.random() < 0.3:
            entry["maybeSent"] = START_MS - rng.randrange(1000)
        if rng.random() < 0.1:
            entry["nextAttemptAt"] = START_MS + rng.randrange(1000)
    return encode_foreign(entries)


def _operation(rng: random.Random) -> Request:
    while True:
        request = random_operation(rng, False)
        if request["op"] not in ("hydrate", "clear", "pending"):
            return request


def _shown(answer: Answer, what: str) -> Any:
    found = getattr(answer, what)
    return found if isinstance(found, str) else json.dumps(found)
