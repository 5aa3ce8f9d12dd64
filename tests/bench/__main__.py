"""Times each operation on real files: our two durable caches, and raw ``sqlite3`` as durable beside them.

Systems take turns within each round, so that ratios hold although the machine has its moods; what is printed are
medians. ``--out FILE`` writes one line of JSON a result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.bench.measure import Result, Sample, environment, file_system, one_by_one, paired_ratio, together
from tests.bench.systems import OurFile, OurSQLite, OurSystem, RawSQLite, System

GOAL: Final = 1.5
"""Most that one enqueue may cost at 100,000 waiting entries, in terms of one at 100."""

ENQUEUE, DRAIN, MANY, AT_ONCE, OPEN = "enqueue", "claim + remove", "enqueue_many", "enqueue at once", "open"
NOTES: Final = {
    ENQUEUE: "one durable enqueue at a time",
    DRAIN: "a drain with a send that does nothing, an entry",
    MANY: "1,000 in one call, an entry",
    AT_ONCE: "1,000 callers at once, an entry",
    OPEN: "hydrate in a new process, the whole queue",
}


@dataclass(frozen=True)
class Size:
    """How much is measured; no round begins after so many ``seconds``, but three are made in any case."""

    sizes: tuple[int, ...]
    file_sizes: tuple[int, ...]
    rounds: int
    enqueues: int
    drained: int
    seconds: float


FULL: Final = Size((100, 1_000, 10_000, 100_000), (100, 1_000, 10_000, 100_000), 15, 30, 100, 140.0)
QUICK: Final = Size((100, 100_000), (100, 10_000), 7, 20, 50, 25.0)


class Bench:
    """Systems of every size, measured in turns."""

    def __init__(self, size: Size, folder: Path, step: Callable[[str], None]) -> None:
        self.size = size
        self.folder = folder
        self.step = step
        self.results: dict[tuple[str, str, int], Result] = {}
        self.ours = [OurSQLite(folder, waiting) for waiting in size.sizes]
        self.files = [OurFile(folder, waiting) for waiting in size.file_sizes]
        self.raw = [RawSQLite(folder, waiting) for waiting in size.sizes]
        self.systems: list[System] = sorted([*self.ours, *self.raw, *self.files], key=lambda system: system.waiting)

    @property
    def steps(self) -> int:
        return len(self.systems) + self.size.rounds + 3

    async def run(self) -> None:
        begin = time.perf_counter()
        for system in self.systems:
            self.step(f"{system.name} with {system.waiting:,} entries")
            await system.start()
        for number in range(self.size.rounds):
            self.step(f"round {number + 1} of {self.size.rounds}")
            if number >= 3 and time.perf_counter() - begin > self.size.seconds:
                continue
            for system in self.systems[:: 1 if number % 2 else -1]:
                await self._round(system, number)
        for system in self.systems:
            await system.stop()
        for number in range(3):
            self.step(f"opening, {number + 1} of 3")
            self._open(self.ours[-1], self.folder / f"ours-{self.ours[-1].waiting}.db", number)
            self._open(self.files[-1], self.folder / f"files-{self.files[-1].waiting}", number)

    async def _round(self, system: System, number: int) -> None:
        slow = isinstance(system, OurFile) and system.waiting >= 10_000  # its cost grows with the queue
        if slow and number % 3:
            return
        ids = system.fresh_ids(3 if slow else self.size.enqueues)
        await system.enqueue(extra := system.fresh_ids(1)[0])  # what the other systems left in the processor is gone
        self._note(ENQUEUE, system, number, await one_by_one(lambda index: system.enqueue(ids[index]), len(ids)))
        await system.remove_all([*ids, extra])
        drained = 3 if slow else self.size.drained
        self._note(DRAIN, system, number, await together(lambda: system.drain(drained), drained))
        await system.enqueue_many(system.fresh_ids(drained))
        if system.waiting == self.size.sizes[0]:
            return
        thousand = system.fresh_ids(1_000)
        self._note(MANY, system, number, await together(lambda: system.enqueue_many(thousand), 1_000))
        await system.remove_all(thousand)
        if isinstance(system, OurSystem):
            again = system.fresh_ids(1_000)
            self._note(AT_ONCE, system, number, await together(lambda: system.enqueue_at_once(again), 1_000))
            await system.remove_all(again)

    def _open(self, system: System, path: Path, number: int) -> None:
        command = [sys.executable, "-m", "tests.bench.opening", system.name, str(path)]
        answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
        if answer["entries"] != system.waiting:
            raise RuntimeError(f"{system.name}: {answer['entries']} entries were read, {system.waiting} are stored")
        self._note(OPEN, system, number, Sample([answer["wall"]], answer["cpu"], None))

    def _note(self, what: str, system: System, number: int, sample: Sample) -> None:
        key = (what, system.name, system.waiting)
        self.results.setdefault(key, Result(*key)).rounds[number] = sample

    def growths(self) -> dict[str, float]:
        """What one enqueue costs at the longest queue, in terms of the shortest, by system."""
        found = {}
        for systems in (self.ours, self.raw, self.files):
            short, long = (self.results[ENQUEUE, system.name, system.waiting] for system in (systems[0], systems[-1]))
            found[short.system] = paired_ratio(long, short)
        return found


def show(bench: Bench, console: Console) -> None:
    for what, note in NOTES.items():
        results = [result for result in bench.results.values() if result.what == what]
        unit, scale = ("ms", 1e3) if what == OPEN else ("µs", 1e6)
        table = Table(title=f"{what}: {note}", title_justify="left", title_style="bold")
        for column in ("waiting", "system"):
            table.add_column(column, justify="right" if column == "waiting" else "left")
        for column in (f"wall p50, {unit}", f"cpu, {unit}", "written, KiB", "a second"):
            table.add_column(column, justify="right")
        for result in sorted(results, key=lambda result: (result.waiting, result.system)):
            line = result.record()
            written = "" if line["written_bytes"] is None else f"{line['written_bytes'] / 1024:,.1f}"
            cpu = f"{line['cpu_us'] * scale / 1e6:,.0f}"
            speed = f"{1 / result.wall:,.0f}" if what != OPEN else f"{result.waiting / result.wall:,.0f} entries"
            table.add_row(f"{result.waiting:,}", result.system, f"{result.wall * scale:,.0f}", cpu, written, speed)
        console.print(table)
    for system, growth in bench.growths().items():
        sizes = [
            result.waiting for result in bench.results.values() if (result.what, result.system) == (ENQUEUE, system)
        ]
        goal = f" (goal: at most {GOAL})" if system == OurSQLite.name else ""
        console.print(f"{system}: one enqueue at {max(sizes):,} costs {growth:.2f} times one at {min(sizes):,}{goal}")


def pick_folder(wanted: Path | None) -> Path:
    """A directory on a real disk: in memory an fsync costs nothing, and every figure would be of something else."""
    for candidate in [wanted] if wanted else [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]:
        if file_system(candidate.resolve()) not in ("tmpfs", "ramfs"):
            return candidate
    raise SystemExit("every directory tried lies in memory; name one on a disk: --folder DIRECTORY")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds: under 40 seconds")
    parser.add_argument("--out", type=Path, help="write the results here, one line of JSON each")
    parser.add_argument("--folder", type=Path, help="where the files are made (default: the temporary directory)")
    arguments = parser.parse_args()
    console = Console(width=max(100, Console().width))
    with tempfile.TemporaryDirectory(prefix="outbox-bench-", dir=pick_folder(arguments.folder)) as folder:
        about = environment(Path(folder).resolve())
        console.print(
            f"Files on {about['file_system']}, fsynced; Python {about['python']}, SQLite {about['sqlite']} in "
            f"journal_mode=TRUNCATE, synchronous=FULL; {about['processors']} processors, load {about['load']}"
        )
        begin = time.perf_counter()
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("")
            bench = Bench(
                QUICK if arguments.quick else FULL,
                Path(folder),
                lambda step: progress.update(task, advance=1, description=step),
            )
            progress.update(task, total=bench.steps)
            asyncio.run(bench.run())
        seconds = time.perf_counter() - begin
    show(bench, console)
    console.print(f"{seconds:.0f} seconds; {about['commit']}")
    if arguments.out is not None:
        write(arguments.out, bench, {**about, "seconds": round(seconds, 1), "quick": arguments.quick})


def write(path: Path, bench: Bench, about: dict[str, Any]) -> None:
    growths = {"what": "growth of one enqueue", **{name: round(value, 3) for name, value in bench.growths().items()}}
    lines = [{"what": "environment", **about}, *[result.record() for result in bench.results.values()], growths]
    path.write_text("".join(json.dumps(line) + os.linesep for line in lines), "utf-8")


if __name__ == "__main__":
    main()
