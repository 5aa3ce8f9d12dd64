"""What must be on disk after a kill: a model that is fed the reports of ``tests.workers.workload``.

Each entry has a set of states in which it may be found. An operation that has begun adds what it would make of the
entry; its acknowledgement leaves only that. So a kill between the two allows both, and anything else is a fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.workers.workload import MAX_ATTEMPTS, item_of


class State(NamedTuple):
    """One entry as a live queue has it."""

    status: str = "queued"
    attempts: int = 0
    maybe_sent: bool = False

    def found(self) -> State:
        """As the next process finds it: a claim that died with its process may have been sent."""
        return State("queued", self.attempts, True) if self.status == "sending" else self


def after(operation: str, state: State | None) -> tuple[State | None, object]:
    """What an operation makes of an entry, and what it answers."""
    if operation in ("enqueue", "again"):
        return (state, False) if state else (State(), True)
    if state is None:
        return None, False if operation == "claim" else None
    failed = state._replace(status="failed", attempts=state.attempts + 1)
    match operation:
        case "claim":
            return state._replace(status="sending"), state.status != "sending"
        case "remove" | "works":
            return None, None
        case "record_failure" | "fails":
            again = state._replace(status="queued", attempts=state.attempts + 1)
            return (failed if failed.attempts >= MAX_ATTEMPTS else again), None
        case "mark_failed":
            return failed, None
        case "retry":
            return state._replace(status="queued"), None
    raise AssertionError(operation)


class Model:
    """What was acknowledged, and what was under way.

    Attributes:
        begun, acknowledged: operations of the process that runs now.
        sends: sends that started.
        interrupted: entries found ``maybe_sent`` after their send was cut off.
    """

    def __init__(self, padding: int) -> None:
        self.begun = 0
        self.acknowledged = 0
        self.sends = 0
        self.interrupted = 0
        self._padding = padding
        self._allowed: dict[str, set[State | None]] = {}
        self._before: dict[str, State | None] = {}  # of what is under way
        self._unsent: dict[str, State] = {}  # queued when the pass began, and not sent yet
        self._cut_off: set[str] = set()

    @property
    def under_way(self) -> bool:
        """Whether an operation has begun and is not acknowledged."""
        return self.begun > self.acknowledged

    def take(self, line: list[Any]) -> None:
        """Take in one report; an answer that the model does not give is a fault."""
        match line:
            case ["begin", "drain", _]:
                self.begun += 1
                for id, (state, *_) in self._allowed.items():
                    if state is not None and state.status == "queued":
                        self._unsent[id] = state
                        self._allowed[id].add(state._replace(status="sending"))
            case ["send", id, how]:
                # The claim is durable before the send starts: from here on the entry is marked, or settled.
                self.sends += 1
                self._cut_off.add(id)
                self._before[id] = claimed = self._unsent.pop(id)._replace(status="sending")
                self._allowed[id] = {claimed, after(how, claimed)[0]}
            case ["settled", id]:
                self._cut_off.discard(id)
                self._allowed[id] -= {self._before.pop(id)}
            case ["done", "drain", _, _]:
                self.acknowledged += 1
                self._allowed.update({id: {state} for id, state in self._unsent.items()})
                self._unsent = {}
            case ["begin", operation, ids]:
                self.begun += 1
                for id in ids:
                    (state,) = self._allowed.get(id, {None})
                    self._before[id] = state
                    self._allowed[id] = {state, after(operation, state)[0]}
            case ["done", operation, ids, answer]:
                self.acknowledged += 1
                answers = answer if isinstance(answer, list) else [answer]
                for id, one in zip(ids, answers, strict=True):
                    state, expected = after(operation, self._before.pop(id))
                    assert one == expected, f"{operation}({id!r}) answered {one}, not {expected}"
                    self._allowed[id] = {state}
            case _:
                raise AssertionError(f"an unknown report: {line}")

    def compare(self, found: Iterable[list[Any]]) -> list[str]:
        """What is wrong with what a fresh process found; afterwards that is the truth."""
        faults = []
        seen: dict[str, State] = {}
        for id, item, status, attempts, maybe_sent_ms in found:
            if id in seen:
                faults.append(f"{id} is there twice")
            seen[id] = State(status, attempts, maybe_sent_ms is not None)
            if item != item_of(id, self._padding):
                faults.append(f"{id} has another item: {str(item)[:80]}")
        if list(seen) != sorted(seen):
            faults.append(f"out of order: {list(seen)}")
        for id in seen.keys() | self._allowed.keys():
            allowed = {state.found() if state else None for state in self._allowed.get(id, {None})}
            if seen.get(id) not in allowed:
                faults.append(f"{id} is {seen.get(id) or 'absent'}; allowed: {allowed}")
        self.interrupted += sum(1 for id in self._cut_off if id in seen and seen[id].maybe_sent)
        self.begun = self.acknowledged = 0
        self._cut_off, self._before, self._unsent = set(), {}, {}
        self._allowed = {id: {state} for id, state in seen.items()}
        return faults
