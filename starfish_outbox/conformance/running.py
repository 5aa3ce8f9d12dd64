"""Runs cases on a driver."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from starfish_outbox.caches.file import file_name
from starfish_outbox.conformance.cases import RUNNER_STEPS, Case, Step
from starfish_outbox.conformance.driver import Answer, Driver, DriverError, Hello, Request
from starfish_outbox.conformance.judging import Observed, Seen, judge, set_aside_keys
from starfish_outbox.conformance.verdicts import Known, Result, Traced, Verdict
from starfish_outbox.jsontext import DamagedText, decode

_MOST_GATES: Final = 500  # a queue that comes back to a gate without end is stopped here
_BEGIN_TIMEOUT: Final = 30.0  # seconds


class Crew:
    """The processes of one driver: one, and a second where a case wants two.

    Args:
        start: starts a process of it.
    """

    def __init__(self, start: Callable[[], Driver]) -> None:
        self._start = start
        self._drivers: dict[int, Driver] = {1: start()}
        self.hello: Hello = self._drivers[1].hello

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

    def driver(self, process: int = 1) -> Driver:
        """A running process."""
        if process not in self._drivers:
            self._drivers[process] = self._start()
        return self._drivers[process]

    def kill(self, process: int) -> None:
        """SIGKILL; the next time it is asked for, another is started."""
        driver = self._drivers.pop(process)
        os.kill(driver.pid, signal.SIGKILL)
        driver.close()

    def close(self) -> None:
        """End them all; those that are asked for later are started anew."""
        drivers, self._drivers = list(self._drivers.values()), {}
        for driver in drivers:
            driver.close()


def run_case(case: Case, crew: Crew, listed: Mapping[str, Known]) -> Result:
    """The verdict on one case.

    Args:
        case: what is asked.
        crew: who is asked.
        listed: known failures by case id, beside those that the case itself lists.
    """
    began = time.monotonic()
    known = case.known.get(crew.name) or listed.get(case.id)
    missing = case.needs - crew.hello.capabilities
    if missing:
        reason = f"the driver has no capability {', '.join(sorted(missing))}"
        return Result(case, (crew.name,), Verdict.UNSUPPORTED, (reason,), known=known)
    with tempfile.TemporaryDirectory(prefix="outbox-conformance-") as folder:
        run = _Run(case, crew, Path(folder))
        try:
            run.all_steps()
            judgement = judge(case, run.observed)
            verdict, reasons, wrong = judgement.verdict, judgement.reasons, judgement.wrong
        except DriverError as error:
            verdict, reasons, wrong = Verdict.ERROR, (str(error),), ()
            crew.close()
    seconds = time.monotonic() - began
    trace = tuple(_trace(run.observed.steps, wrong))
    after = run.observed.texts
    return Result(case, (crew.name,), verdict, reasons, trace, dict(case.start), after, known, seconds)


class _Run:
    """One case on its way."""

    def __init__(self, case: Case, crew: Crew, folder: Path) -> None:
        self._case = case
        self._crew = crew
        self._folder = folder
        self._open: set[int] = set()
        self._bound: dict[int, str] = {}
        self._clock = case.clock
        self._gates = False
        self._waiting: list[dict[str, Any]] = []
        self._seen_gates: set[int] = set()
        self.observed = Observed()

    def all_steps(self) -> None:
        """Do them, and look at what is left."""
        self._opened(1)
        for key, text in self._case.start.items():
            self._ask(1, {"op": "put", "key": key, "text": text})
        for step in self._case.steps:
            self.observed.steps.append(self._done(step))
        self._look_at_the_end()

    def _done(self, step: Step) -> Seen:
        process = step.get("process", 1)
        request = {name: value for name, value in step.items() if name not in ("label", "process", "expect")}
        seen = Seen(step, request)
        op = request["op"]
        if op == "passAll":
            self._pass_all(process, request, seen)
        elif op == "pass" and "gate" not in request:
            gate = next(iter(self._standing(request)), None)
            if gate is None:
                place = " ".join(str(request[name]) for name in ("at", "what") if name in request)
                seen.missing = f"nothing stands at a gate {place}"
            else:
                rest = {name: value for name, value in request.items() if name not in ("at", "what")}
                seen.answer = self._ask(process, {**rest, "gate": gate["gate"]})
        elif op in RUNNER_STEPS and op != "pass":
            getattr(self, f"_{op}")(process, request)
        else:
            seen.answer = self._ask(process, request)
        seen.waiting, seen.finished = list(self._waiting), list(self.observed.tasks)
        if step.get("expect", {}).keys() & {"entries", "stored", "text"}:
            looked = self._driver(process).ask_many(
                [{"op": "get"}, {"op": "text", "key": self._bound.get(process, "")}]
            )
            seen.entries, seen.text = looked[0].value, looked[1].value
        return seen

    def _driver(self, process: int) -> Driver:
        if process not in self._open:
            self._opened(process)
        return self._crew.driver(process)

    def _opened(self, process: int) -> None:
        self._open.add(process)
        self._bound.pop(process, None)
        opening: Request = {"op": "open", "store": self._case.store}
        if self._case.store != "memory":
            opening["path"] = str(self._folder / "outbox")
        for answer in self._crew.driver(process).ask_many([opening, {"op": "clock", "ms": self._clock}]):
            if answer.error:
                raise DriverError(f"{self._crew.name} could not open a store: {answer.error.message}")

    def _ask(self, process: int, request: Request) -> Answer:
        answer = self._driver(process).ask_many([request])[0]
        op = request["op"]
        called = request["call"] if op == "start" else request
        if called["op"] == "hydrate" and not answer.error:
            self._bound[process] = called["key"]
        if op == "clock":
            self._clock = request["ms"]
        elif op == "gates":
            self._gates = request["on"]
        elif op == "drain" and not answer.error:
            self._note_sends(answer.value)
        elif op in ("start", "pass", "cancel") and not answer.error:
            if op == "start":
                self.observed.unfinished.add(request["task"])
            self._note_moves(answer.value)
        return answer

    def _note_sends(self, value: Mapping[str, Any]) -> None:
        self.observed.said += value["sends"]
        if not self._gates:
            self.observed.sent += [_id_of(text) for text in value["sends"]]

    def _note_moves(self, value: Mapping[str, Any]) -> None:
        self._waiting = value["waiting"]
        for gate in self._waiting:
            if gate["gate"] not in self._seen_gates and gate["at"] == "send":
                self.observed.sent.append(gate["what"])
            self._seen_gates.add(gate["gate"])
        for outcome in value["finished"]:
            self.observed.tasks[outcome["task"]] = {name: it for name, it in outcome.items() if name != "task"}
            self.observed.unfinished.discard(outcome["task"])
            if isinstance(outcome.get("value"), dict):
                self._note_sends(outcome["value"])

    def _standing(self, request: Request) -> list[dict[str, Any]]:
        """The gates at a place, the oldest first."""
        here = [
            gate
            for gate in self._waiting
            if request.get("at", gate["at"]) == gate["at"]
            and request.get("what", gate["what"]) == gate["what"]
            and gate["at"] != request.get("except")
        ]
        return sorted(here, key=lambda gate: int(gate["gate"]))

    def _pass_all(self, process: int, request: Request, seen: Seen) -> None:
        while here := self._standing(request):
            if len(seen.passed) >= _MOST_GATES:
                raise DriverError(f"{self._crew.name} still comes to gates after {_MOST_GATES} were passed")
            gate = here[-1 if request.get("order") == "newest" else 0]
            seen.passed.append(f"{gate['at']} {gate['what']}")
            seen.answer = self._ask(process, {"op": "pass", "gate": gate["gate"]})

    def _restart(self, process: int, _: Request) -> None:
        keys = [name for key in self._case.keys for name in (key, *set_aside_keys(key))]
        driver = self._driver(process)
        texts = [answer.value for answer in driver.ask_many([{"op": "text", "key": key} for key in keys])]
        self._forget()
        self._opened(process)
        if self._case.store == "memory":
            puts = [{"op": "put", "key": key, "text": text} for key, text in zip(keys, texts, strict=True) if text]
            driver.ask_many(puts)

    def _kill(self, process: int, request: Request) -> None:
        driver = self._driver(process)
        if "during" in request:
            self._begin(driver, request["during"])
        self._crew.kill(process)
        self._open.discard(process)
        self._forget()

    def _begin(self, driver: Driver, request: Request) -> None:
        """Ask, and return once the files change or the answer comes, whichever is first."""
        before = self._stamps()
        driver.hand_over([request])
        deadline = time.monotonic() + _BEGIN_TIMEOUT
        while self._stamps() == before and not driver.has_answered:
            if time.monotonic() > deadline:
                raise DriverError(f"{self._crew.name} neither wrote nor answered {request['op']!r}")

    def _stamps(self) -> set[tuple[str, int, int]]:
        """What changes when anything in the store's folder is written."""
        stamps = set()
        for path in (self._folder / "outbox").glob("*"):
            with suppress(FileNotFoundError):  # a temporary file that was renamed meanwhile
                info = path.stat()
                stamps.add((path.name, info.st_size, info.st_mtime_ns))
        return stamps

    def _forget(self) -> None:
        """What a process that died was doing will not go on."""
        self.observed.unfinished.clear()
        self._waiting, self._gates, self._seen_gates = [], False, set()

    def _bytes(self, process: int, request: Request) -> None:
        self._driver(process)
        path = self._folder / "outbox" / file_name(request["key"])
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(bytes.fromhex(request["hex"]))

    def _look_at_the_end(self) -> None:
        names = [name for key in self._case.keys for name in (key, *set_aside_keys(key))]
        answers = self._driver(1).ask_many([{"op": "get"}, *({"op": "text", "key": name} for name in names)])
        self.observed.entries = answers[0].value or "[]"
        texts = {name: answer.value for name, answer in zip(names, answers[1:], strict=True)}
        self.observed.texts = {n: text for n, text in texts.items() if text is not None or n in self._case.keys}
        if self._case.store != "memory":
            for path in sorted((self._folder / "outbox").glob("*")):
                with suppress(OSError):  # a lock or a temporary file may be gone by now
                    self.observed.files[path.name] = path.read_bytes()
        for process in self._open:
            self._crew.driver(process).ask("close")


def _id_of(sent: str) -> str:
    """The id of an entry that a send was given; empty where the text is no JSON that every program reads."""
    with suppress(DamagedText):
        entry = decode(sent)
        return str(entry.get("id")) if isinstance(entry, dict) else ""
    return ""


def _trace(steps: Sequence[Seen], wrong: Sequence[tuple[str, ...]]) -> Iterator[Traced]:
    for number, seen in enumerate(steps):
        answer: dict[str, Any] = {}
        if seen.answer is not None:
            error = seen.answer.error
            answer = {"value": seen.answer.value} if error is None else {"error": dict(error._asdict())}
            answer |= {"notified": seen.answer.notified}
        answer |= {"passed": seen.passed} if seen.passed else {}
        answer |= {name: text for name, text in (("entries", seen.entries), ("text", seen.text)) if text is not None}
        request = {name: value for name, value in seen.step.items() if name != "expect"}
        yield Traced(request, answer, wrong[number] if number < len(wrong) else ())
