"""Gated random schedules, from outside, in any language: ours breaks nothing, and the published packages and bugs do.

``make proof`` runs more of them. ``STARFISH_SEED`` is the first seed; a violation names its own and tells the schedule.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest

from starfish_outbox.conformance.driver import Driver, NonsenseError
from starfish_outbox.conformance.schedules import KINDS, ScheduleKind, ScheduleTally, run_schedules, schedule_story
from starfish_outbox.conformance.schedules_record import Broken
from tests.interop import INTEROP, protocol_rules, published_driver, python_driver, typescript_driver
from tests.reporting import report

SEED = int(os.environ.get("STARFISH_SEED") or 0)
LEAST: dict[ScheduleKind, dict[str, float]] = {
    "in-order": {"sends": 3, "enqueue calls": 5, "remove calls": 0.3},
    "out-of-order": {"sends": 3, "enqueue calls": 5},
    "switch": {"sends": 2, "enqueue calls": 3, "switches": 0.8, "clear calls": 0.4},
    "faults": {"sends": 2, "writes failed": 1, "reads failed": 0.05, "sends that raise": 0.2},
    "crash": {"sends": 3, "crashes": 1},
}
"""How often what must have happened, a schedule: a run that injects nothing finds nothing."""


@pytest.fixture(scope="module")
def python() -> Iterator[Driver]:
    with python_driver() as driver:
        yield driver


@pytest.fixture(scope="module")
def typescript() -> Iterator[Driver]:
    with typescript_driver() as driver:
        yield driver


@pytest.fixture(scope="module")
def published() -> Iterator[Driver]:
    with published_driver() as driver:
        yield driver


def first_stories(tally: ScheduleTally) -> str:
    return "\n\n".join(map(str, [tally, *tally.violations[:3]]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedules", [80, pytest.param(5000, marks=[pytest.mark.proof, pytest.mark.timeout(3000)])])
def test_whatever_is_slow_fails_or_dies_python_loses_doubles_and_leaks_nothing(
    kind: ScheduleKind, schedules: int, python: Driver
) -> None:
    tally = run_schedules(python, kind, range(SEED, SEED + schedules), most=3)
    report(str(tally), INTEROP)
    assert not tally.violations, first_stories(tally)
    assert tally.schedules == schedules
    too_few = {
        what: tally.injected[what] for what, each in LEAST[kind].items() if tally.injected[what] < each * schedules
    }
    assert not too_few, f"this hardly happened, so nothing is proven: {too_few}"


FOUND: dict[ScheduleKind, set[Broken]] = {
    "in-order": {"lost", "doubled"},
    "out-of-order": {"lost", "doubled"},
    "switch": {"lost", "doubled", "leaked"},
    "faults": {"lost"},
    "crash": {"lost"},
}
"""What HAZARDS says of both published packages (C1, C2, C4 to C10), in every kind of schedule."""


@pytest.mark.parametrize("name", ["typescript", "published"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedules", [100, pytest.param(500, marks=pytest.mark.proof)])
def test_the_published_packages_break_what_hazards_says(
    name: str, kind: ScheduleKind, schedules: int, request: pytest.FixtureRequest
) -> None:
    """The negative control, always of the same seeds: what is broken is in the stories, several in one."""
    driver: Driver = request.getfixturevalue(name)
    tally = run_schedules(driver, kind, range(schedules), most=None)
    report(f"{driver.name}, {tally}", INTEROP)
    stories = [violation.story for violation in tally.violations]
    assert {what for what in FOUND[kind] if any(f"\n  {what}: " in story for story in stories)} == FOUND[kind]
    if kind == "in-order":  # where nothing is read a second time, neither of them does anything wrong
        assert all(story.count("  hydrate outbox.a #") > 1 for story in stories), first_stories(tally)


DRIVERS: dict[str, Callable[..., Driver]] = {
    "python": python_driver,
    "typescript": typescript_driver,
    "published": published_driver,
}


@pytest.mark.parametrize("name", DRIVERS)
def test_a_seed_replays_in_the_same_process_and_in_another_one(name: str, request: pytest.FixtureRequest) -> None:
    used: Driver = request.getfixturevalue(name)
    with DRIVERS[name]() as fresh:
        for kind in KINDS:
            stories = [schedule_story(driver, kind, seed) for driver in (used, fresh, used) for seed in range(4)]
            assert stories[:4] == stories[4:8] == stories[8:]
            assert len(set(stories)) == 4


FIRST_OF_SEED_2 = [
    "hydrate outbox.a #1",
    "let getItem outbox.a (1) go",
    "enqueue e2 #3",
    "let setItem outbox.a (2) go",
    "drain #5",
    "let setItem outbox.a (3) go",
    "let send e1 (4) go",
    "hydrate outbox.b #8",
    "enqueue e3 #9",
    "let getItem outbox.b (8) go",
]


def test_a_seed_is_the_same_dice_for_ever(typescript: Driver) -> None:
    # What a run of an earlier version printed is replayed by a later one; the published package does not change either.
    steps = schedule_story(typescript, "switch", 2).split("a process starts")[1].splitlines()[1:]
    assert [step[5:].split(" | ")[0] for step in steps[: len(FIRST_OF_SEED_2)]] == FIRST_OF_SEED_2


def test_a_driver_without_gates_is_refused() -> None:
    hello = '{"n":1,"notified":0,"value":{"protocol":1,"name":"x","version":"1","language":"x","capabilities":[]}}'
    script = f"import sys; sys.stdin.readline(); print({hello!r}, flush=True); sys.stdin.readline()"
    with Driver([sys.executable, "-c", script]) as driver, pytest.raises(ValueError, match="x has no gates"):
        run_schedules(driver, "in-order", [1])


GIVES_UP = """
import json, sys
def waiting():
    return {"waiting": [{"gate": n, "at": at, "what": what} for n, (at, what) in gates.items()], "finished": ended}
for line in sys.stdin:
    asked, value, error = json.loads(line), None, None
    op, call = asked["op"], asked.get("call", {})
    if op == "hello":
        value = {"protocol": 1, "name": "x", "version": "1", "language": "x", "capabilities": ["gates", "memory"]}
    elif op == "open":
        texts, gates, tasks, last = {}, {}, [], 0
    elif op in ("put", "text"):
        value = texts.get(asked["key"]) if op == "text" else texts.update({asked["key"]: asked["text"]})
    elif op == "get":
        value = "[]"
    elif op == "hydrate":
        key = asked["key"]
    elif op == "drain":
        value = {"sent": 0, "failed": 0, "sends": [json.dumps(entry) for entry in json.loads(texts.get(key) or "[]")]}
        texts[key] = "[]"
    elif op == "start" and call["op"] in ("hydrate", "drain"):
        at = ("getItem", call["key"]) if call["op"] == "hydrate" else ("send", "x")
        ended, tasks = [{"task": task, "value": None} for task in tasks], [asked["task"]]
        gates, last = {last + 1: at, last + 2: (at[0], at[1] + "?")}, last + 2
        value = waiting()
    elif op == "start":
        ended = [{"task": asked["task"], "error": {"kind": "other", "name": "Busy", "message": ""}}]
        value = waiting()
    elif op == "pass" and asked["gate"] in gates:
        gates, tasks, ended = {}, [], [{"task": task, "value": None} for task in tasks]
        value = waiting()
    elif op == "pass":
        error = {"kind": "other", "name": "LookupError", "message": "nothing stands there"}
    outcome = {"value": value} if error is None else {"error": error}
    print(json.dumps({"n": asked["n"], "notified": 0, **outcome}), flush=True)
    if op == "stop":
        break
"""
"""A driver that refuses every enqueue, asks twice for everything and takes the first answer: little, and nothing wrong.

A drain sends an x of its own, and gives up as soon as another call begins; with gates off it delivers what is stored.
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_gives_up_what_it_waits_for_does_nothing_wrong(kind: ScheduleKind) -> None:
    with Driver([sys.executable, "-c", GIVES_UP], rules=protocol_rules()) as driver:
        tally = run_schedules(driver, kind, range(50), most=1)
    assert tally.violations == [], first_stories(tally)


def test_a_driver_that_ends_what_was_never_begun_is_ended() -> None:
    bug = "change(PythonDriver, '_what_moved', lambda real: with_a_ghost(real))"
    code = DRIVER_WITH_A_BUG.replace("{bug}", GHOST).replace("asyncio.run", f"{bug}\nasyncio.run")
    words = "says that 'ghost' has ended, which does not run"
    command = [sys.executable, "-c", code, str(INTEROP / "drivers")]
    with Driver(command) as driver, pytest.raises(NonsenseError, match=words):
        run_schedules(driver, "in-order", [1])


DRIVER_WITH_A_BUG = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from starfish_outbox import binding, queue, transitions
from starfish_outbox.caches import adapter, base
from starfish_outbox.drain import passes
def change(module, name, make):
    setattr(module, name, make(getattr(module, name)))
later = set()
def begin(coroutine):
    task = asyncio.ensure_future(coroutine)
    later.add(task)
    return task
{bug}
from python import PythonDriver
asyncio.run(PythonDriver().run())
"""

GHOST = """
def with_a_ghost(real):
    async def what_moved(self):
        moved = await real(self)
        return {**moved, "finished": [*moved["finished"], {"task": "ghost", "value": None}]}
    return what_moved
"""

READS_BESIDE_THE_WRITES = """
def open_beside(real):
    async def open(self, key, member):
        keyed = self._keys.setdefault(key, adapter.Array())
        if member not in keyed.members:
            keyed.members.append(member)
        text = await self._cache.get_item(key)
        reading = await self._decode(key, text, member.now_ms())
        keyed.adopt(text, reading.entries, reading.notes, self._seqs, self._released(member.now_ms()))
        member.deliver_all(list(keyed.state), own=True)
    return open
change(adapter.AdaptedStore, 'open', open_beside)
"""

BUGS: dict[str, tuple[ScheduleKind, set[Broken], str]] = {
    "every change is written at once, beside the others": (
        "out-of-order",
        {"lost", "doubled"},
        """
def apply(self, ops):
    return begin(self.store.apply(self.key, self._member, ops, late=self.detached))
binding.Binding.apply = apply
class NoTurn:
    def turn(self): return self
    async def __aenter__(self): return False
    async def __aexit__(self, *_): pass
change(adapter, 'Turnstile', lambda real: NoTurn)
async def write(self, key, keyed, *, grows):
    await self._cache.set_item(key, keyed.text())
adapter.AdaptedStore._write = write
""",
    ),
    "a hydrate reads beside the writes": ("in-order", {"lost", "doubled"}, READS_BESIDE_THE_WRITES),
    "a hydrate frees what is being sent": (
        "in-order",
        {"doubled"},
        "change(adapter, 'is_free', lambda real: lambda *_: True)",
    ),
    "calls do not wait for the hydrate": (
        "switch",
        {"lost"},
        READS_BESIDE_THE_WRITES
        + """
def bind_at_once(real):
    async def hydrate(self, key):
        if self._binding is None or self._binding.key != key:
            self._unbind()
            self._binding = queue.Binding(self._store, key, self._clock, self._listeners.notify, None)
        await real(self, key)
    return hydrate
change(queue.OutboxQueue, 'hydrate', bind_at_once)
async def whoever_is_bound(self):
    return self._binding
queue.OutboxQueue.bound_or_none = whoever_is_bound
""",
    ),
    "a call that waits goes to whoever comes": (
        "switch",
        {"leaked"},
        """
async def bound_or_none(self):
    while self._hydrating is not None:
        await self._hydrating.wait()
    return self._binding
queue.OutboxQueue.bound_or_none = bound_or_none
""",
    ),
    "a drain goes on after a switch": (
        "switch",
        {"leaked"},
        "change(binding.Binding, 'detach', lambda real: lambda self: None)",
    ),
    "a drain records under whoever is bound": (
        "switch",
        {"doubled"},
        """
def remember_queue(real):
    async def bound_or_none(self):
        found = await real(self)
        if found is not None:
            found.queue = self
        return found
    return bound_or_none
change(queue.OutboxQueue, 'bound_or_none', remember_queue)
def apply_to_the_present(real):
    async def apply(self, ops):
        present = self.binding.queue._binding or self.binding
        present.queue = self.binding.queue
        self.binding = present
        return await real(self, ops)
    return apply
change(passes.Pass, '_apply', apply_to_the_present)
""",
    ),
    "what is answered after a switch is not recorded": (
        "switch",
        {"doubled"},
        """
def only_in_time(real):
    async def apply(self, ops):
        return [base.Outcome(False) for _ in ops] if self.binding.detached else await real(self, ops)
    return apply
change(passes.Pass, '_apply', only_in_time)
""",
    ),
    "a failed write is taken for done": (
        "faults",
        {"lost"},
        """
def swallow(real):
    async def write(self, key, keyed, **options):
        try:
            await real(self, key, keyed, **options)
        except Exception:  # the planted bug: the error is lost
            keyed.stored = None
    return write
change(adapter.AdaptedStore, '_write', swallow)
""",
    ),
    "a claim outlives its drain": (
        "faults",
        {"stuck"},
        "change(base.Claimants, 'drop_claimant', lambda real: lambda self, number: None)",
    ),
    "a send that raises is taken for done": (
        "faults",
        {"lost"},
        "change(transitions, 'attempt_failed', lambda real: lambda token, *_, **options: transitions.sent(token))",
    ),
    "an enqueue answers before it is stored": (
        "crash",
        {"lost"},
        """
def answer_early(real):
    async def enqueue(self, *arguments):
        begin(real(self, *arguments))
    return enqueue
change(queue.OutboxQueue, 'enqueue', answer_early)
""",
    ),
    "a removal answers before it is stored": (
        "crash",
        {"revived"},
        """
def answer_early(real):
    async def remove(self, id):
        begin(real(self, id))
    return remove
change(queue.OutboxQueue, 'remove', answer_early)
""",
    ),
    "nobody wakes those who wait for a hydrate": (
        "switch",
        {"stuck"},
        "change(queue.OutboxQueue, '_hydrated', lambda real: lambda self: setattr(self, '_hydrating', None))",
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    kind, expected, code = BUGS[bug]
    with Driver([sys.executable, "-c", DRIVER_WITH_A_BUG.format(bug=code), str(INTEROP / "drivers")]) as wrong:
        tally = run_schedules(wrong, kind, range(400))
    assert tally.violations, f"{bug}: not found in {tally.schedules} schedules"
    (found,) = tally.violations
    assert found.kind in expected, found.story
    report(f"{bug}: found in schedule {tally.schedules}: {found.kind}: {found.what}", INTEROP)
