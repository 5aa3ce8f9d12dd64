"""The same random operations on several drivers, compared after each: the same seed is the same sequence for ever.

The first driver is held against each of the others. What one of them does otherwise on purpose is declared
(`divergences`); every other difference is reported, with the shortest sequence that still shows it.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from starfish_outbox.conformance.comparison import Pair
from starfish_outbox.conformance.divergences import Declared, Divergence
from starfish_outbox.conformance.driver import Answer, Driver, Request, ask_all
from starfish_outbox.conformance.values import IDS, random_item
from starfish_outbox.jsontext import decode, encode_foreign

KEYS: Final = ("outbox.a", "outbox.b")
START_MS: Final = 1_700_000_000_000
_UNFIT: Final[tuple[Request, ...]] = (
    {"op": "enqueue", "id": "x", "item": "9007199254740993"},
    {"op": "enqueue", "id": "x", "item": '{"a":["\\ud800"]}'},
    {"op": "enqueue", "id": "x", "item": "[" * 129 + "]" * 129},
    {"op": "enqueue", "id": "", "item": "1"},
    {"op": "enqueue", "id": "x", "item": "1", "ts": -1},
    {"op": "hydrate", "key": "outbox.a.quarantine"},
    {"op": "hydrate", "key": ""},
    {"op": "recordFailure", "id": "a", "maxAttempts": 0},
    {"op": "drain", "maxAttempts": 0},
)
_BATCH: Final = 16  # sequences handed over at once


@dataclass(frozen=True)
class Steps:
    """Operations on one fresh store.

    Attributes:
        seed: what they were made from.
        requests: the operations, the opening of the store first.
        reordered: items have keys that JavaScript puts in another order, so texts are compared as JSON.
    """

    seed: int
    requests: tuple[Request, ...]
    reordered: bool


@dataclass(frozen=True)
class Difference:
    """Two drivers disagree, undeclared.

    Attributes:
        step: which operation, from 0.
        what: what differs: ``value``, ``error``, ``notified``, ``entries`` or ``text``.
        names: the two drivers.
        answers: what each answered.
    """

    steps: Steps
    step: int
    what: str
    names: tuple[str, str]
    answers: tuple[Answer, Answer]

    def __str__(self) -> str:
        """The difference, and the operations that lead to it, one a line as they were asked."""
        lines = [f"seed {self.steps.seed}, operation {self.step}: {self.what} differs"]
        for name, answer in zip(self.names, self.answers, strict=True):
            lines.append(f"  {name}: {getattr(answer, self.what)!r}")
        lines += [f"  {json.dumps(request)}" for request in self.steps.requests[: self.step + 1]]
        return "\n".join(lines)


@dataclass
class Tally:
    """What was compared: how many sequences and operations, what declared divergences were met, and what differs."""

    sequences: int = 0
    operations: int = 0
    declared: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def __str__(self) -> str:
        """In one line."""
        met = ", ".join(f"{name} {times}" for name, times in sorted(self.declared.items())) or "none"
        return (
            f"{self.sequences} sequences, {self.operations} operations, {len(self.differences)} differences; "
            f"declared divergences met: {met}"
        )


def random_steps(seed: int) -> Steps:
    """Ten to sixty operations on a fresh store in memory."""
    rng = random.Random(seed)
    reordered = rng.random() < 0.1
    requests: list[Request] = [{"op": "open", "store": "memory"}, {"op": "clock", "ms": START_MS}]
    if rng.random() < 0.5:
        requests.append({"op": "put", "key": KEYS[0], "text": foreign_text(rng, reordered)})
    key = KEYS[0]
    if rng.random() < 0.95:
        requests.append({"op": "hydrate", "key": key, "look": key})
    unfit = rng.randrange(10, 60) if rng.random() < 0.1 else -1
    for number in range(rng.randrange(10, 61)):
        request = dict(rng.choice(_UNFIT)) if number == unfit else random_operation(rng, reordered)
        key = request.get("key", key) if request["op"] == "hydrate" else key
        if rng.random() < 0.1:
            requests.append({"op": "clock", "ms": START_MS + rng.randrange(10**6)})
        requests.append({**request, "look": key})
    return Steps(seed, tuple(requests), reordered)


def compare(
    drivers: Sequence[Driver], seeds: Iterable[int], divergences: Sequence[Divergence], *, most: int = 3
) -> Tally:
    """Run the sequences of these seeds on all drivers.

    Args:
        drivers: two or more, with different names; the first is held against each of the others.
        seeds: one a sequence; also an iterator that ends when the time is up.
        divergences: what is declared.
        most: differences after which there is no point in going on.

    Raises:
        DriverError: a driver died, hung, or answered nonsense.
    """
    tally = Tally()
    declared = {driver.name: Declared(divergences, driver.name) for driver in drivers}
    source = iter(seeds)
    while len(tally.differences) < most and (batch := [random_steps(seed) for seed in islice(source, _BATCH)]):
        answers = ask_all(drivers, [request for steps in batch for request in steps.requests])
        start = 0
        for steps in batch:
            end = start + len(steps.requests)
            tally.sequences += 1
            difference = _first_difference(drivers, steps, [its[start:end] for its in answers], declared, tally)
            if difference is not None:
                tally.differences.append(_shortest(drivers, difference, divergences))
            start = end
    for one in declared.values():
        tally.declared.update(one.met)
    return tally


def random_operation(rng: random.Random, reordered: bool) -> Request:
    """One operation of a queue; ``reordered`` lets items have keys that JavaScript reorders."""
    id = rng.choice(IDS[:6] if rng.random() < 0.8 else IDS)
    kind = rng.randrange(100)
    if kind < 30:
        request: Request = {"op": "enqueue", "id": id, "item": random_item(rng, like_integers=reordered)}
        if rng.random() < 0.3:
            request["ts"] = rng.choice((0, 1, START_MS, 2**53 - 1))
        return request
    if kind < 45:
        return {"op": "claim", "id": id}
    if kind < 65:
        return {"op": rng.choice(("remove", "markFailed", "retry")), "id": id}
    if kind < 73:
        return {"op": "recordFailure", "id": id, "maxAttempts": rng.randrange(1, 4)}
    if kind < 85:
        failing = {name: rng.choices(("ok", "error"), k=rng.randrange(1, 3)) for name in rng.sample(IDS[:8], 3)}
        return {"op": "drain", "maxAttempts": rng.randrange(1, 4), "outcomes": failing}
    if kind < 92:
        return {"op": "hydrate", "key": rng.choice(KEYS)}
    if kind < 95:
        return {"op": "pending", "member": "kind", "equals": rng.choice(("", "a"))} if kind < 94 else {"op": "pending"}
    return {"op": "clear"} if kind < 97 else {"op": "get"}


def foreign_text(rng: random.Random, reordered: bool) -> str:
    """A stored text as another program may have left it: statuses of all kinds, keys that nobody here knows."""
    entries = []
    for id in rng.sample(IDS, rng.randrange(5)):
        status = rng.choice(("queued", "queued", "sending", "failed", "paused"))
        item = encode_foreign(decode(random_item(rng, like_integers=reordered)))
        entry = f'{{"id":{json.dumps(id, ensure_ascii=False)},"item":{item},"status":"{status}"'
        entry += f',"attempts":{rng.randrange(4)},"enqueuedAt":{rng.choice((0, 5, START_MS))}'
        if rng.random() < 0.3:
            entry += f',"note":{encode_foreign(decode(random_item(rng)))}'
        if rng.random() < 0.1:
            entry += ',"__proto__":{"polluted":true}'
        entries.append(entry + "}")
    return f"[{','.join(entries)}]"


def _first_difference(
    drivers: Sequence[Driver],
    steps: Steps,
    answers: Sequence[Sequence[Answer]],
    declared: Mapping[str, Declared],
    tally: Tally,
) -> Difference | None:
    bound = False
    first = drivers[0].name
    for step, request in enumerate(steps.requests):
        tally.operations += 1
        for driver, its in zip(drivers[1:], answers[1:], strict=True):
            both = (answers[0][step], its[step])
            pair = Pair(request, both, (declared[first], declared[driver.name]), bound=bound, reordered=steps.reordered)
            what = pair.difference()
            if what is not None:
                return Difference(steps, step, what, (first, driver.name), both)
            if pair.ends:
                return None
        if request["op"] in ("hydrate", "clear"):
            bound = request["op"] == "hydrate"
    return None


def _shortest(drivers: Sequence[Driver], difference: Difference, divergences: Sequence[Divergence]) -> Difference:
    """The same kind of difference after leaving out every operation that it does not need."""
    best = difference
    for size in (16, 4, 1):  # most operations are not needed, so many are left out at once first
        end = best.step
        while end > 1:  # the first opens the store
            start = max(1, end - size)
            requests = best.steps.requests[: best.step + 1]
            steps = replace(best.steps, requests=requests[:start] + requests[end:])
            declared = {driver.name: Declared(divergences, driver.name) for driver in drivers}
            answers = ask_all(drivers, steps.requests)
            found = _first_difference(drivers, steps, answers, declared, Tally())
            if found is not None and found.what == difference.what:
                best = found
            end = min(start, best.step)
    return best
