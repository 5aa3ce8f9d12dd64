"""Times every operation of every system on real files: ours, the published packages, the peers, raw SQLite.

Systems take turns within each round, so that ratios hold although the machine has its moods; what is printed are
medians with the middle half of the rounds. Classes of durability are never mixed. The record has one line of JSON a
measurement; tables, goals and pictures are made of it, also later (--goals, --pictures, --markdown without a run).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from tests.bench import environment, goals, pictures, tables
from tests.bench.presets import DEFAULT, FULL, QUICK, Preset
from tests.bench.record import Record, Row
from tests.bench.running import WORKLOADS, Run
from tests.bench.systems import SYSTEMS, System, chosen

RECORD: Final = environment.ROOT / "build/bench.jsonl"


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 measured (or shown), 1 a system is not what it is said to be, 2 wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="two sizes, few rounds: about two minutes")
    length.add_argument("--full", action="store_true", help="to a million entries: about an hour (default: 15 minutes)")
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", help="these workloads; see --list")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="systems whose names begin so; see --list")
    parser.add_argument("--list", action="store_true", help="say what can be measured, and end")
    parser.add_argument("--record", type=Path, default=RECORD, help="where the record is (build/bench.jsonl)")
    parser.add_argument("--folder", type=Path, help="where files are made (default: the temporary directory)")
    shown = parser.add_argument_group("of the record that is there, without a run")
    shown.add_argument("--show", action="store_true", help="the tables")
    shown.add_argument("--goals", action="store_true", help="what must hold, and whether it does")
    shown.add_argument("--pictures", action="store_true", help="draw tests/bench/pictures/*.svg")
    shown.add_argument("--markdown", action="store_true", help="the tables of the README")
    options = parser.parse_args(arguments)
    console = Console(width=max(130, Console().width))
    if options.list:
        tables.list_all(console, WORKLOADS)
        return 0
    if options.show or options.goals or options.pictures or options.markdown:
        return _show(options, console)
    try:
        systems = chosen(options.systems)
        only = _workloads(options.only)
        with tempfile.TemporaryDirectory(
            prefix="outbox-bench-", dir=environment.pick_folder(options.folder), ignore_cleanup_errors=True
        ) as folder:
            return _measure(options, console, systems, only, Path(folder))
    except ValueError as error:
        parser.error(str(error))


def _measure(
    options: argparse.Namespace, console: Console, systems: list[System], only: list[str], folder: Path
) -> int:
    preset = QUICK if options.quick else FULL if options.full else DEFAULT
    if any(system.peer for system in systems):
        if not environment.is_made():
            console.print(f"Making {environment.FOLDER.name}, where the peers live ...")
        environment.make()
    for system in systems:
        if why := system.why_not():
            console.print(f"[bold]{system.label} is left out[/]: {why}")
    systems = [system for system in systems if not system.why_not()]
    rows, code = _run(options, console, preset, systems, only, folder)
    record = Record(rows)
    tables.show(record, console)
    if set(systems) == set(SYSTEMS) and len(only) == len(WORKLOADS):
        goals.show(record, console)
        drawn = pictures.draw(record, environment.ROOT / "build/bench")
        console.print(f"Pictures: {', '.join(str(path.relative_to(environment.ROOT)) for path in drawn)}")
    console.print(f"Record: {options.record}")
    return code


def _run(
    options: argparse.Namespace,
    console: Console,
    preset: Preset,
    systems: list[System],
    only: list[str],
    folder: Path,
) -> tuple[list[Row], int]:
    rows: list[Row] = []
    begin, load = time.perf_counter(), environment.load()
    options.record.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with (
        options.record.open("w", encoding="utf-8") as file,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        task = progress.add_task("", total=None)

        def take(row: Row) -> None:
            rows.append({**row, "load": load, "at": round(time.perf_counter() - begin, 1)})
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()

        run = Run(preset, systems, folder, only, take, lambda step: progress.update(task, description=step))
        try:
            run.run()
        except KeyboardInterrupt:
            console.print("Interrupted; this is what was measured so far.")
    for failure in run.failures:
        console.print(f"[bold red]{failure}[/]")
    console.print(
        f"{time.perf_counter() - begin:.0f} seconds on {run.about['file_system']}, {run.about['processors']} "
        f"processors, load {load} before; Python {run.about['python']}, SQLite {run.about['sqlite']}; "
        f"{run.about['commit']}"
    )
    return rows, 1 if run.failures else 0


def _workloads(names: list[str] | None) -> list[str]:
    if names is None:
        return list(WORKLOADS)
    for name in names:
        if not any(known.startswith(name) for known in WORKLOADS):
            raise ValueError(f"no workload is named {name!r}; there are {', '.join(WORKLOADS)}")
    return [known for known in WORKLOADS if any(known.startswith(name) for name in names)]


def _show(options: argparse.Namespace, console: Console) -> int:
    if not options.record.exists():
        console.print(f"{options.record} is not there: measure first")
        return 2
    record = Record.load(options.record)
    if options.show:
        tables.show(record, console)
    if options.goals:
        goals.show(record, console)
    if options.pictures:
        for path in pictures.draw(record, pictures.FOLDER):
            console.print(path.relative_to(environment.ROOT))
    if options.markdown:
        sys.stdout.write(tables.markdown(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
