"""Gated random schedules of one driver: the same seed is the same dice for ever, in every language.

The harness plays the cache. Every read, write and send stands at a gate; which is let go next, and what is called
meanwhile, is drawn. In the end nothing is held up any more, another process starts on what is stored, and everything
is drained. `schedules_record` says what must hold, from outside: by what was answered, sent and stored.

Left out on purpose: bare ``claim``, ``recordFailure``, ``markFailed`` and ``retry``, which may take an entry from a
drain that sends it, so that a second send is the caller's doing; ids that both identities use, since a gate tells an
id and not whose it is; parked entries, which no drain owes to anybody; calls while nobody is bound, which are a mistake
at any speed.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from starfish_outbox.conformance.driver import Driver
from starfish_outbox.conformance.schedules_record import Broken
from starfish_outbox.conformance.schedules_stage import START_MS, Gate, Passing, Stage

ScheduleKind: TypeAlias = Literal["in-order", "out-of-order", "switch", "faults", "crash"]

KINDS: Final[Mapping[ScheduleKind, str]] = {
    "in-order": "One identity, everything slow: writes reach the cache in the order in which they were made.",
    "out-of-order": "One identity, everything slow: writes overtake each other on their way to the cache.",
    "switch": "Two people sign in and out while writes, reads and sends of both are under way.",
    "faults": "One identity: reads and writes of the cache fail, sends raise, and then all is well again.",
    "crash": "One identity: the process dies at any moment, and another one goes on with what is stored.",
}
KEYS: Final = ("outbox.a", "outbox.b")
_MOST_IDS: Final = 12
_MOST_RUNNING: Final = 8
_MOST_ROUNDS: Final = 200  # of letting everything go; a schedule needs some thirty


@dataclass(frozen=True)
class Dice:
    """What may happen in schedules of one kind.

    Attributes:
        keys: the identities.
        in_order: writes are let go in the order in which they came, key by key; what else waits, at any time.
        fails: how often a cache call that is let go fails, and a send raises: one of these in each schedule.
        dies: whether the process dies once, at any moment.
    """

    keys: tuple[str, ...] = KEYS[:1]
    in_order: bool = True
    fails: tuple[float, ...] = (0.0,)
    dies: bool = False


DICE: Final[dict[ScheduleKind, Dice]] = {
    "in-order": Dice(),
    "out-of-order": Dice(in_order=False),
    "switch": Dice(keys=KEYS),
    "faults": Dice(fails=(0.1, 0.3, 0.9)),
    "crash": Dice(dies=True),
}


@dataclass(frozen=True)
class Violation:
    """One schedule in which something was broken.

    Attributes:
        kind: what was broken: the gravest.
        what: the same in words.
        story: all that was broken, and the schedule, a step a line.
    """

    seed: int
    kind: Broken
    what: str
    story: str

    def __str__(self) -> str:
        return self.story


@dataclass
class ScheduleTally:
    """What was run.

    Attributes:
        steps: requests that made something move.
        injected: how often what was done: gates passed, calls failed, switches, crashes, sends and so on.
        broken: in how many schedules what was broken; several may be in one.
        violations: one a schedule in which something was broken.
    """

    kind: ScheduleKind
    schedules: int = 0
    steps: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    broken: Counter[Broken] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    def __str__(self) -> str:
        """In one line."""
        share = 100 * len(self.violations) / max(1, self.schedules)
        what = f" ({share:.1f} %: {_listed(self.broken)})" if self.violations else ""
        return (
            f"{self.kind}: {self.schedules} schedules, {self.steps} steps, {len(self.violations)} with a violation"
            f"{what}; {_listed(self.injected)}"
        )


def run_schedules(driver: Driver, kind: ScheduleKind, seeds: Iterable[int], *, most: int | None = 1) -> ScheduleTally:
    """Run the schedules of these seeds.

    Args:
        driver: one with the capability ``gates``.
        kind: one of `KINDS`.
        seeds: one a schedule; also an iterator that ends when the time is up.
        most: violations after which there is no point in going on; None: go on and count.

    Raises:
        ValueError: the driver has no gates.
        DriverError: it died, hung, or answered nonsense.
    """
    tally = ScheduleTally(kind)
    for seed in seeds:
        schedule = _Schedule(driver, kind, seed, tally.injected)
        broken = schedule.run()
        tally.schedules += 1
        tally.steps += schedule.stage.step
        if broken:
            tally.broken.update({what for what, _ in broken})
            tally.violations.append(Violation(seed, *broken[0], schedule.story(broken)))
            if most is not None and len(tally.violations) >= most:
                break
    return tally


def schedule_story(driver: Driver, kind: ScheduleKind, seed: int) -> str:
    """Run one schedule and tell it, a step a line, whether something was broken or not; raises as `run_schedules`."""
    schedule = _Schedule(driver, kind, seed, Counter())
    return schedule.story(schedule.run())


class _Schedule:
    """One schedule: ``run`` it once."""

    def __init__(self, driver: Driver, kind: ScheduleKind, seed: int, injected: Counter[str]) -> None:
        if "gates" not in driver.hello.capabilities:
            raise ValueError(f"{driver.name} has no gates")
        self._title = f"{driver.name}, {kind} schedule of seed {seed}"
        self._dice = DICE[kind]
        self._random = random.Random(f"{kind} {seed}")  # of a string: the same on every Python
        self._injected = injected
        self._ids = 0
        self._fails = self._random.choice(self._dice.fails)
        self._hydrates_again = self._random.random() < 0.25
        self.stage = Stage(driver, self._dice.keys, injected)

    def run(self) -> list[tuple[Broken, str]]:
        """What was broken, the gravest first."""
        steps = self._random.randrange(10, 41)
        death = self._random.randrange(5, steps) if self._dice.dies else -1
        self._start_process({key: self._left_behind(key) for key in self._dice.keys}, "a process starts")
        for number in range(steps):
            if number == death:
                self._injected["crashes"] += 1
                self._start_process(self.stage.texts(), "the process dies, another one starts")
            self._act()
        if self._random.random() < 0.5:
            self._fails = 0.0
        self.stage.lines.append("     nothing new begins")
        self._let_all_go()
        self._fails = 0.0
        if self._random.random() < 0.5:
            self._drain_undisturbed()
        self.stage.finish()
        return self.stage.record.judge()

    def story(self, broken: Sequence[tuple[Broken, str]]) -> str:
        """What was broken, and the schedule, a step a line."""
        found = [f"  {what}: {how}" for what, how in broken] or ["  nothing was broken"]
        return "\n".join([self._title, *found, *self.stage.lines])

    def _left_behind(self, key: str) -> str | None:
        """What an earlier process stored."""
        entries = []
        for _ in range(self._random.choice((0, 0, 1, 2))):
            id = self._new_id()
            self.stage.record.owners[id] = key
            self.stage.record.call("enqueue", id, start=0, end=0)
            entries.append({"id": id, "item": 0, "status": "queued", "attempts": 0, "enqueuedAt": START_MS})
        return json.dumps(entries, separators=(",", ":")) if entries else None

    def _start_process(self, texts: dict[str, str | None], why: str) -> None:
        fails, self._fails = self._fails, 0.0
        self.stage.open(texts, why)
        self._hydrate(self._dice.keys[0])
        self._let_all_go()
        self._fails = fails

    def _act(self) -> None:
        """One random step of those that make sense now."""
        actions = self._possible()
        weights = [weight for weight, _ in actions]
        self._random.choices([action for _, action in actions], weights)[0]()

    def _possible(self) -> list[tuple[int, Callable[[], object]]]:
        """What can be done now, and how likely it is."""
        stage, keys = self.stage, self._dice.keys
        if not stage.in_play and not stage.waiting:
            return [(1, lambda: self._hydrate(self._random.choice(keys)))]
        possible: list[tuple[int, Callable[[], object]]] = []
        if stage.waiting:
            possible.append((24, self._let_one_go))
        if not stage.in_play:
            return [*possible, (8, lambda: self._hydrate(self._random.choice(keys)))]
        running = [call.op for call in stage.running.values()]
        if len(running) < _MOST_RUNNING:
            if self._ids < _MOST_IDS:
                possible.append((8, lambda: self._enqueue(self._new_id())))
            if running.count("drain") < 2:
                possible.append((6, lambda: stage.begin("drain", maxAttempts=1000)))
            again, removable = self._known_ids()
            if again:
                possible.append((2, lambda: self._enqueue(self._random.choice(again))))
            if removable:
                possible.append((1, lambda: stage.begin("remove", id=self._random.choice(removable))))
        if len(keys) > 1:
            possible.append((1, self._clear))
            if len(stage.turning) < 2:
                possible.append((4, lambda: self._hydrate(self._random.choice(keys))))
        elif self._hydrates_again and not stage.turning:
            possible.append((1, partial(self._hydrate, keys[0])))
        return possible

    def _known_ids(self) -> tuple[list[str], list[str]]:
        """Ids of the one identity in play, to be enqueued again, and to be removed.

        What is removed is enqueued by nobody at the time, and never again: then it is gone for good.
        """
        stage = self.stage
        ours = [id for id, owner in stage.record.owners.items() if stage.in_play == {owner}]
        again = [id for id in ours if not stage.record.calls("remove", id)]
        busy = {call.what for call in stage.running.values() if call.op == "enqueue"}
        return again, [id for id in again if id not in busy]

    def _new_id(self) -> str:
        self._ids += 1
        return f"e{self._ids}"

    def _enqueue(self, id: str) -> None:
        in_play = self.stage.in_play
        if len(in_play) == 1:
            self.stage.record.owners.setdefault(id, *in_play)
        self.stage.begin("enqueue", id=id, item=json.dumps({"of": id}))

    def _hydrate(self, key: str) -> None:
        self.stage.begin("hydrate", key=key)

    def _clear(self) -> None:
        self.stage.begin("clear")

    def _let_one_go(self) -> None:
        gates = self.stage.waiting
        if self._dice.in_order:
            gates = [gate for gate in gates if not gate.writes or gate == self._first_write(gate.what)]
        self.stage.let_go([Passing(self._random.choice(gates), self._random.random() < self._fails)])

    def _first_write(self, key: str) -> Gate:
        writes = [gate for gate in self.stage.waiting if gate.writes and gate.what == key]
        return min(writes, key=lambda gate: gate.number)

    def _let_all_go(self) -> None:
        """Until nothing waits any more."""
        for _ in range(_MOST_ROUNDS):
            gates = sorted(self.stage.waiting, key=lambda gate: gate.number)
            if not gates:
                break
            if not self._dice.in_order:
                gates = self._random.sample(gates, self._random.randrange(1, len(gates) + 1))
            self.stage.let_go([Passing(gate, self._random.random() < self._fails) for gate in gates])
        self.stage.expect_calm()

    def _drain_undisturbed(self) -> None:
        """This process, too, gets everything out that belongs to who is bound."""
        if self.stage.bound is None:
            self._hydrate(self._dice.keys[0])
            self._let_all_go()
        self.stage.begin("drain")
        self._let_all_go()
        self.stage.expect_drained()


def _listed(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{what} {times}" for what, times in sorted(counts.items()) if times)
