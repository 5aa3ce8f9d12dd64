"""The run: every system at every length in a process of its own, all of them in turns within each round."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

from tests.bench import environment
from tests.bench.counts import counted
from tests.bench.presets import AT_ONCE, Preset
from tests.bench.process import BrokenError, Process, TooSlowError, UnavailableError, opened
from tests.bench.record import Row
from tests.bench.systems import System
from tests.strace import why_not as nothing_can_be_traced

WORKLOADS: Final = {
    "lone": "one durable enqueue after the other",
    "drain 1": "claim, send (which does nothing) and remove, one entry at a time",
    "at once": "1,000 enqueues at once",
    "drain 16": "the same drain, 16 sends at a time",
    "enqueue_many": "1,000 in one call",
    "drain 64": "the same drain, 64 sends at a time",
    "dedup": "an enqueue of an id that is waiting",
    "10 KB": "lone, with items of 10 KB",
    "lateness": "how late a timer of 1 ms is while entries are added (p99)",
    "open": "open with so many waiting, in a new process",
    "read all": "then look at every item",
    "two processes": "lone, in two processes on one file",
    "import": "what the import costs beyond bare Python",
    "counts": "fsyncs and bytes written, counted by strace",
    "csv": "a real CSV through the demo's path: into the outbox, over HTTP, and compared cell by cell",
}
"""What can be asked for with ``--only``."""

IMPORTS: Final = (
    ("ours-sqlite", False, "import starfish_outbox"),
    ("ours-sqlite, in use", False, "from starfish_outbox import OutboxQueue, SQLiteCache, drain_outbox"),
    ("published-python", True, "import starfish_outbox"),
    ("persist-queue", True, "import persistqueue"),
    ("litequeue", True, "import litequeue"),
    ("diskcache", True, "import diskcache"),
    ("huey", True, "import huey"),
    ("localqueue", True, "import localqueue"),
)


@dataclass(frozen=True)
class Measure:
    """What is done in each round.

    Attributes:
        lengths: at which of the preset's lengths.
        whole: all of it, however long it takes.
        trims: afterwards the queue is made as long as it was before.
    """

    workload: str
    op: str
    lengths: Literal["every", "bulk", "standard"]
    arguments: Mapping[str, Any]
    whole: bool = False
    trims: bool = False


MEASURES: Final = (
    Measure("lone", "lone", "every", {}),
    Measure("drain 1", "drain", "every", {"concurrency": 1}, trims=True),
    Measure("at once", "at_once", "bulk", {"number": AT_ONCE}, whole=True),
    Measure("drain 16", "drain", "bulk", {"number": AT_ONCE, "concurrency": 16}, whole=True, trims=True),
    Measure("enqueue_many", "many", "bulk", {"number": AT_ONCE}, whole=True),
    Measure("drain 64", "drain", "bulk", {"number": AT_ONCE, "concurrency": 64}, whole=True, trims=True),
    Measure("dedup", "again", "bulk", {"number": 20}),
    Measure("10 KB", "lone", "standard", {"item": "big"}, trims=True),
    Measure("lateness", "late", "standard", {"number": 2_000}, trims=True),
)


@dataclass
class Station:
    """One system at one length."""

    system: System
    waiting: int
    stack: ExitStack
    process: Process


@dataclass
class Run:
    """See the module.

    Attributes:
        only: the workloads that are wanted.
        take: gets each row as soon as it is known.
        step: told what is being done.
        failures: what a system lost or doubled, and who is not of the class that it is said to be.
    """

    preset: Preset
    systems: Sequence[System]
    folder: Path
    only: Sequence[str]
    take: Callable[[Row], None]
    step: Callable[[str], None]
    versions: dict[str, Row] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.about = environment.about(self.folder)

    def run(self) -> None:
        """Everything that was asked for; a system that fails or is too slow is noted and left out."""
        with ExitStack() as stack:
            self._rounds(stack)
        if {"open", "read all"} & set(self.only):
            self._openings()
        if "two processes" in self.only:
            self._two_processes()
        if "counts" in self.only:
            self._counts()
        if "import" in self.only:
            self._imports()
        if "csv" in self.only:
            self._csv()

    def _rounds(self, stack: ExitStack) -> None:
        wanted = {measure.workload for measure in MEASURES} & set(self.only)
        if not wanted:
            return
        stations: list[Station] = []
        for system in sorted(self.systems, key=lambda system: system.grows):
            for waiting, why in self._lengths(system, stack, stations):
                self._stopped(system, "", waiting, why)
        begin = time.perf_counter()
        for number in range(self.preset.rounds):
            if number >= self.preset.least and time.perf_counter() - begin > self.preset.rounds_end:
                break
            # Each workload of all stations, then the next: figures that are compared lie close together in time, and
            # those that take long do not come between the others.
            turns = [(measure, station) for measure in MEASURES for station in stations[:: 1 if number % 2 else -1]]
            for measure, station in turns:
                if measure.workload not in wanted or station not in stations:
                    continue
                self.step(
                    f"round {number + 1}, {measure.workload}: {station.system.label}, {station.waiting:,} waiting"
                )
                try:
                    self._measure(measure, station, number)
                except (TooSlowError, BrokenError) as error:
                    stations.remove(station)
                    self._stopped(station.system, "", station.waiting, f"stopped: {error}")
        for station in stations:
            self._ends_well(station)

    def _lengths(self, system: System, stack: ExitStack, stations: list[Station]) -> Iterator[tuple[int, str]]:
        """Adds a station for each length; yields those at which there is none, and why."""
        preset = self.preset
        for waiting in preset.sizes:
            self.step(f"{system.label} with {waiting:,} waiting")
            try:
                process, walls = self._begin(system, waiting, stack)
                if median(walls) > preset.slowest:
                    yield waiting, f"stopped: one enqueue took {median(walls):.1f} s"
                    return
            except UnavailableError as error:
                yield 0, str(error)
                return
            except (TooSlowError, BrokenError) as error:
                yield waiting, f"stopped: {error}"
                return
            stations.append(Station(system, waiting, stack, process))

    def _begin(self, system: System, waiting: int, stack: ExitStack) -> tuple[Process, list[float]]:
        """A process that holds so many entries, and what three first enqueues took."""
        preset = self.preset
        shutil.rmtree(folder := self._path(system, waiting), ignore_errors=True)
        process = stack.enter_context(Process(system, folder))
        process.ask("open")
        self.versions[system.name] = process.ask("hello")
        self._expect(process.ask("fill", preset.fill, number=waiting)["entries"], waiting, system)
        answer = process.ask("lone", 20 * preset.slowest, number=3, seconds=preset.seconds)
        process.ask("trim", number=waiting, seconds=preset.seconds)
        return process, answer["walls"]

    def _measure(self, measure: Measure, station: Station, number: int) -> None:
        preset, system, waiting = self.preset, station.system, station.waiting
        lengths = {"every": preset.sizes, "bulk": preset.bulk, "standard": (preset.standard,)}[measure.lengths]
        if waiting not in lengths:
            return
        arguments: dict[str, Any] = {"number": preset.lone, **measure.arguments}
        # In bulk only who gets slower with every entry is cut short: else a moment's load would decide how many.
        if system.grows or not measure.whole:
            arguments["seconds"] = preset.seconds
        try:
            answer = station.process.ask(measure.op, **arguments)
        except UnavailableError as error:
            if number == 0:
                self._stopped(system, measure.workload, waiting, str(error))
        else:
            self._note(system, measure.workload, waiting, number, answer)
        if measure.trims:
            # What is short is brought back to its length; to what is long a few more make no difference.
            patience = preset.seconds * (5 if waiting == preset.standard else 1)
            left = station.process.ask("trim", number=waiting, seconds=patience)["entries"]
            if left > 1.25 * waiting:
                station.process.kill()
                station.process, _ = self._begin(system, waiting, station.stack)

    def _ends_well(self, station: Station) -> None:
        try:
            counts = station.process.ask("count")
            self._expect(counts["entries"], counts["expected"], station.system)
            station.process.end()
        except (TooSlowError, BrokenError) as error:
            self.failures.append(f"{station.system.name}: {error}")

    def _openings(self) -> None:
        """In new processes, in turns."""
        folders: dict[tuple[str, int], Path] = {}
        for system in self.systems:
            for waiting in self.preset.open_sizes:
                self.step(f"{system.label}: {waiting:,} to be opened")
                folder = self._path(system, waiting, "open")
                try:
                    with opened(system, folder) as process:
                        self.versions[system.name] = process.ask("hello")
                        process.ask("fill", self.preset.fill, number=waiting)
                        process.end()
                except (UnavailableError, TooSlowError, BrokenError) as error:
                    self._stopped(system, "open", waiting, str(error))
                else:
                    folders[system.name, waiting] = folder
        for number in range(self.preset.openings):
            for system in self.systems[:: 1 if number % 2 else -1]:
                for waiting in self.preset.open_sizes:
                    if (system.name, waiting) in folders:
                        self.step(f"opening, {number + 1}: {system.label} with {waiting:,} waiting")
                        self._open(system, folders[system.name, waiting], waiting, number)

    def _open(self, system: System, folder: Path, waiting: int, number: int) -> None:
        with Process(system, folder) as process:
            try:
                answer = process.ask("open")
                if system.durability != "D":
                    self._expect(answer["entries"], waiting, system)
                self._note(system, "open", waiting, number, answer)
                if waiting == self.preset.open_sizes[1]:
                    answer = process.ask("read_all")
                    self._note(system, "read all", waiting, number, answer)
                process.end()
            except (UnavailableError, TooSlowError, BrokenError) as error:
                self._stopped(system, "read all", waiting, str(error))

    def _two_processes(self) -> None:
        """Each adds as many entries as it can; what is noted is how long one takes in both together."""
        preset = self.preset
        with ExitStack() as stack:
            pairs: list[tuple[System, list[Process]]] = []
            for system in self.systems:
                if not system.shared:
                    self._stopped(system, "two processes", preset.standard, "one process at a time may have it")
                    continue
                folder = self._path(system, preset.standard, "two")
                try:
                    first = stack.enter_context(opened(system, folder))
                    first.ask("fill", preset.fill, number=preset.standard)
                    pairs.append((system, [first, stack.enter_context(opened(system, folder))]))
                    self.versions[system.name] = first.ask("hello")
                except (UnavailableError, TooSlowError, BrokenError) as error:
                    self._stopped(system, "two processes", preset.standard, str(error))
            for number in range(3):
                for system, both in pairs[:: 1 if number % 2 else -1]:
                    self.step(f"two processes, {number + 1}: {system.label}")
                    self._pair(system, both, number)

    def _pair(self, system: System, both: list[Process], number: int) -> None:
        seconds = 4 * self.preset.seconds
        try:
            for process in both:
                process.tell("lone", number=self.preset.pair, seconds=seconds)
            answers = [process.hear() for process in both]
        except (TooSlowError, BrokenError) as error:
            self._stopped(system, "two processes", self.preset.standard, str(error))
            return
        count = sum(answer["count"] for answer in answers)
        wall = max(sum(answer["walls"]) for answer in answers) / count
        cpu = sum(answer["cpu"] * answer["count"] for answer in answers) / count
        answer = {"walls": [wall], "cpu": cpu, "count": count}
        self._note(system, "two processes", self.preset.standard, number, answer)

    def _counts(self) -> None:
        why = nothing_can_be_traced()
        for system in self.systems:
            self.step(f"counting: {system.label}")
            if why:
                self._stopped(system, "counts lone", 100, why)
                continue
            try:
                for one in counted(system, self._path(system, 100, "counts")):
                    row = {"fsyncs": one.syncs, "bytes": one.bytes, "writes": one.writes, "seen": one.seen}
                    self._row(system, f"counts {one.workload}", 100, {"round": 0, **row})
                    if one.seen not in (None, system.durability):
                        said = f"{system.name} is said to be of class {system.durability}"
                        self.failures.append(f"{said}; strace saw {one.seen}: {one.why}")
            except (UnavailableError, TooSlowError) as error:
                self._stopped(system, "counts lone", 100, str(error))

    def _imports(self) -> None:
        for number in range(self.preset.imports):
            self.step(f"importing, {number + 1}")
            for name, peer, code in IMPORTS:
                if peer and not environment.is_made():
                    continue
                python = str(environment.PYTHON) if peer else sys.executable
                bare, full = _python(python, "pass"), _python(python, code)
                wall, cpu = full[0] - bare[0], full[1] - bare[1]
                row = {"round": number, "wall": wall, "cpu": cpu, "bare": bare[0], "count": 1, "code": code}
                self.take({"system": name, "durability": "", "workload": "import", "n": 0, **row, **self.about})

    def _csv(self) -> None:
        from tests.bench.csv_path import measured

        for system in self.systems:
            if system.name not in ("ours-sqlite", "ours-wal", "ours-file"):
                continue
            self.step(f"a CSV: {system.label}")
            try:
                for workload, rows, answer in measured(system, self._path(system, 0, "csv"), self.preset.csv_rows):
                    self._note(system, workload, rows, 0, answer)
            except UnavailableError as error:
                self._stopped(system, "csv collect", 0, str(error))

    def _path(self, system: System, waiting: int, kind: str = "rounds") -> Path:
        return self.folder / f"{kind}-{system.name}-{waiting}"

    def _expect(self, entries: int, expected: int, system: System) -> None:
        if entries != expected:
            self.failures.append(f"{system.name} holds {entries:,} entries where there should be {expected:,}")

    def _note(self, system: System, workload: str, waiting: int, number: int, answer: Row) -> None:
        row = {"round": number, **{name: value for name, value in answer.items() if name not in ("walls", "idle")}}
        if "idle" in answer:  # of lateness the tail matters
            row |= {"wall": _p99(answer["walls"]), "idle": _p99(answer["idle"])}
        elif "walls" in answer:
            row |= {"wall": median(answer["walls"]), "worst": max(answer["walls"])}
        self._row(system, workload, waiting, row)

    def _stopped(self, system: System, workload: str, waiting: int, why: str) -> None:
        self._row(system, workload, waiting, {"round": 0, "stopped": why})

    def _row(self, system: System, workload: str, waiting: int, row: Row) -> None:
        head = {"system": system.name, "durability": system.durability, "workload": workload, "n": waiting}
        version = self.versions.get(system.name, {})
        self.take({**head, **row, **self.about, **version})


def _p99(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[int(0.99 * (len(ordered) - 1))]


def _python(python: str, code: str) -> tuple[float, float]:
    """Wall and processor seconds of a whole interpreter that runs this."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run([python, "-I", "-c", code], check=True)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
