"""One stored queue that goes from hand to hand: each operation by another program, through the stored text alone.

Every operation is a whole life: open the store, hydrate, do one thing, close. So every text that one language writes is
read by the next, and what comes out is held against the `model`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from starfish_outbox.conformance.driver import Answer, Driver, Request
from starfish_outbox.conformance.model import Expected, Model
from starfish_outbox.conformance.sequences import KEYS, START_MS, foreign_text, random_operation
from starfish_outbox.jsontext import decode

OURS = "python"
"""The name in the ``hello`` of the driver that the model's ``ours`` means."""


@dataclass
class RelayTally:
    """What was done: sequences, operations by whom, and what differs from the model, in words."""

    sequences: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """In one line."""
        by = ", ".join(f"{name} {times}" for name, times in sorted(self.operations.items()))
        return f"{self.sequences} sequences, operations by {by}; {len(self.differences)} differences from the model"


def relay(
    drivers: Sequence[Driver], seed: int, store: Literal["files", "sqlite"], path: Path, tally: RelayTally
) -> None:
    """One random sequence on a new place; what was done and what differs is added to the tally.

    Args:
        drivers: who takes part; a driver named ``python`` must be among them, and makes the database.
        seed: of the dice.
        store: what ``path`` becomes: a directory of files, or a database.
        path: where there is nothing yet.
        tally: grows.

    Raises:
        DriverError: a driver died, hung, or answered nonsense.
    """
    rng = random.Random(seed)
    key = KEYS[0]
    opening: Request = {"op": "open", "store": store, "path": str(path)}
    text = foreign_text(rng, False)
    maker = next(driver for driver in drivers if driver.name == OURS)
    maker.ask_many([opening, {"op": "put", "key": key, "text": text}, {"op": "close"}])
    stored: str | None = text
    claimed: dict[str, int] = {}
    done: list[str] = []
    for number in range(rng.randrange(10, 31)):
        driver = rng.choice(drivers)
        request = _operation(rng)
        now_ms = START_MS + number
        clock: Request = {"op": "clock", "ms": now_ms}
        hydrate: Request = {"op": "hydrate", "key": key}
        answers = driver.ask_many([opening, clock, hydrate, {**request, "look": key}, {"op": "close"}])
        ours, rows = driver.name == OURS, store == "sqlite"
        expected = Model(stored, ours=ours, now_ms=now_ms, rows=rows, claimed_ms=claimed).after(request)
        done.append(f"  {driver.name}: {request}")
        tally.operations[driver.name] += 1
        problem = _problem(expected, answers[3], [answer for answer in answers if answer.error])
        if problem is not None:
            tally.differences.append("\n".join([f"seed {seed}, operation {number}: {problem}", f"  {text}", *done]))
            break
        if ours or expected.written:  # an array says of no entry when it was claimed
            claimed = {request["id"]: now_ms} if rows and ours and request["op"] == "claim" else {}
        stored = expected.text
    tally.sequences += 1


def _operation(rng: random.Random) -> Request:
    while True:
        request = random_operation(rng, False)
        if request["op"] not in ("hydrate", "clear", "pending"):
            return request


def _problem(expected: Expected, answer: Answer, failed: list[Answer]) -> str | None:
    if failed:
        return f"raised {failed[0].error}"
    value: Any = answer.value
    if isinstance(value, dict):
        sends = [decode(text)["id"] for text in value["sends"]]
        if sends != expected.sends:
            return f"sent {sends} instead of {expected.sends}"
        value = (value["sent"], value["failed"])
    for what, found, right in (
        ("stored text", answer.text, expected.text),
        ("entries", answer.entries, expected.entries),
        ("value", value, answer.entries if isinstance(value, str) else expected.value),
    ):
        if found != right:
            return f"the {what} is\n    {found}\n  instead of\n    {right}"
    return None
