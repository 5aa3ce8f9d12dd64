"""The whole of it: cases, random sequences, relays and schedules on any number of drivers, result by result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Final, TypeAlias

from starfish_outbox.conformance.cases import Case, CaseError
from starfish_outbox.conformance.divergences import Divergence
from starfish_outbox.conformance.driver import DriverError
from starfish_outbox.conformance.relay import relay
from starfish_outbox.conformance.running import Crew, run_case
from starfish_outbox.conformance.schedules import KINDS, ScheduleKind, run_schedules
from starfish_outbox.conformance.sequences import compare
from starfish_outbox.conformance.verdicts import Known, Result, Subject, Verdict

Listed: TypeAlias = Mapping[str, Mapping[str, Known]]
"""Known failures: by the name in a driver's hello, then by the id of the case."""

SEQUENCES: Final = Subject(
    "sequences",
    "Random operations on both come to the same after each: what is returned and raised, the entries, the stored text.",
    (),
    "core",
    "A program that moves from one language to the other behaves otherwise, and nothing says where.",
)
RELAY: Final = Subject(
    "relay",
    "A queue that goes from hand to hand through its stored text is what a model of a page says, after each operation.",
    (),
    "format",
    "What one language stores is misread, changed or dropped by the other.",
)


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        cases: each on every driver.
        sequences: random sequences, the first driver beside each of the others.
        relays: random sequences from hand to hand, for every pair.
        schedules: random gated schedules of each kind, on every driver.
        seed: the first of each; later ones count up.
        divergences: what a driver does otherwise on purpose.
        listed: known failures.
    """

    cases: Sequence[Case]
    sequences: int = 0
    relays: int = 0
    schedules: int = 0
    seed: int = 0
    divergences: Sequence[Divergence] = ()
    listed: Listed = field(default_factory=dict)

    def total(self, drivers: int) -> int:
        """How many results there will be with so many drivers."""
        one_by_one = len(self.cases) + (len(KINDS) if self.schedules else 0)
        pairs = drivers * (drivers - 1) // 2
        return drivers * one_by_one + (drivers - 1 if self.sequences else 0) + (pairs if self.relays else 0)


def read_known(paths: Iterable[Path]) -> Listed:
    """Known failures from files ``{"driver": NAME, "known": {CASE: {"verdict": ..., "what": ...}}}``.

    Raises:
        CaseError: a file is something else.
    """
    listed: dict[str, dict[str, Known]] = {}
    for path in paths:
        try:
            content = json.loads(path.read_text("utf-8"))
            known = {id: _known(one) for id, one in content["known"].items()}
            listed.setdefault(str(content["driver"]), {}).update(known)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CaseError(f"{path} is no list of known failures: {type(error).__name__}: {error}") from error
    return listed


def run(
    crews: Sequence[Crew], plan: Plan, *, on_start: Callable[[Subject, Sequence[str]], None] = lambda *_: None
) -> Iterator[Result]:
    """Every result, as it comes; a driver that dies is an ``error`` of that result, and is started again.

    Args:
        crews: the drivers, with different names.
        plan: what is to be run.
        on_start: is told before each what is run on whom.
    """
    for crew in crews:
        listed = plan.listed.get(crew.name, {})
        for case in plan.cases:
            on_start(case, [crew.name])
            yield run_case(case, crew, listed)
        for kind in KINDS if plan.schedules else ():
            subject = _schedules(kind)
            on_start(subject, [crew.name])
            yield _judged(subject, [crew], plan, partial(_run_schedules, kind))
    for other in crews[1:] if plan.sequences else ():
        on_start(SEQUENCES, [crews[0].name, other.name])
        yield _judged(SEQUENCES, [crews[0], other], plan, _run_sequences)
    for pair in combinations(crews, 2) if plan.relays else ():
        on_start(RELAY, [crew.name for crew in pair])
        yield _judged(RELAY, pair, plan, _run_relay)


_Found: TypeAlias = tuple[Verdict, Sequence[str], Mapping[str, int]]


def _judged(
    subject: Subject, crews: Sequence[Crew], plan: Plan, ask: Callable[[Sequence[Crew], Plan], _Found]
) -> Result:
    began = time.monotonic()
    try:
        verdict, reasons, figures = ask(crews, plan)
    except DriverError as error:
        verdict, reasons, figures = Verdict.ERROR, [str(error)], {}
        for crew in crews:
            crew.close()
    names = tuple(crew.name for crew in crews)
    known = next((plan.listed[name][subject.id] for name in names if subject.id in plan.listed.get(name, {})), None)
    seconds = time.monotonic() - began
    return Result(subject, names, verdict, tuple(reasons), known=known, seconds=seconds, figures=figures)


def _run_schedules(kind: ScheduleKind, crews: Sequence[Crew], plan: Plan) -> _Found:
    (crew,) = crews
    missing = {"memory", "gates"} - crew.hello.capabilities
    if missing:
        return Verdict.UNSUPPORTED, [f"the driver has no capability {', '.join(sorted(missing))}"], {}
    tally = run_schedules(crew.driver(), kind, _seeds(plan, plan.schedules), most=None)
    broken = {str(kind): times for kind, times in tally.broken.items()}
    figures = {"runs": tally.schedules, "broken": len(tally.violations), **broken}
    if not tally.violations:
        return Verdict.PASS, [str(tally)], figures
    gravest = Verdict.DATA_LOSS if tally.broken["lost"] or tally.broken["leaked"] else Verdict.FAIL
    worst = min(tally.violations, key=lambda one: (one.kind not in ("lost", "leaked"), one.seed))
    return gravest, [str(tally), f"for example: {worst}"], figures


def _run_sequences(pair: Sequence[Crew], plan: Plan) -> _Found:
    drivers = [crew.driver() for crew in pair]
    tally = compare(drivers, _seeds(plan, plan.sequences), plan.divergences)
    return _compared(tally.sequences, str(tally), [str(one) for one in tally.differences])


def _run_relay(pair: Sequence[Crew], plan: Plan) -> _Found:
    drivers = [crew.driver() for crew in pair]
    tally = relay(drivers, _seeds(plan, plan.relays), divergences=plan.divergences, store="memory")
    return _compared(tally.sequences, str(tally), tally.differences)


def _compared(runs: int, summary: str, differences: Sequence[str]) -> _Found:
    figures = {"runs": runs, "broken": len(differences)}
    return (Verdict.FAIL, [*differences, summary], figures) if differences else (Verdict.PASS, [summary], figures)


def _seeds(plan: Plan, number: int) -> range:
    return range(plan.seed, plan.seed + number)


def _schedules(kind: ScheduleKind) -> Subject:
    return Subject(f"schedules-{kind}", KINDS[kind], (), "safe", _COSTS)


_COSTS: Final = (
    "Now and then, when things happen to overlap, an entry is lost, sent twice, or sent under another identity."
)


def _known(raw: Mapping[str, Any]) -> Known:
    verdict = raw.get("verdict")
    return Known(None if verdict is None else Verdict(verdict), str(raw["what"]))
