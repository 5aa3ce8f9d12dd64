"""The record as tables: for the terminal, and as Markdown for the README. Classes of durability are never mixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.bench.goals import digits
from tests.bench.record import Key, Record
from tests.bench.running import WORKLOADS
from tests.bench.systems import BY_NAME, CLASSES, SYSTEMS, Durability

_MILLISECONDS = ("open", "read all", "import")


@dataclass(frozen=True)
class Line:
    """One system in a table, as text.

    Attributes:
        wall: the median.
        half: the middle half of the rounds.
    """

    label: str
    wall: str = ""
    half: str = ""
    cpu: str = ""
    speed: str = ""
    note: str = ""


def show(record: Record, console: Console) -> None:
    """Every workload, at every length, by class."""
    shown = [name for name in record.workloads() if name and not name.startswith("counts")]
    for workload in [
        *(name for name in WORKLOADS if name in shown),
        *(name for name in shown if name not in WORKLOADS),
    ]:
        _show_times(record, workload, console)
    if any(name.startswith("counts") for name in record.workloads()):
        _show_counts(record, console)
    for why in dict.fromkeys(_stops(record)):
        console.print(why)
    memory = list(_memory(record))
    if memory:
        table = _table("memory: resident after opening, in a new process", ("system", "MB", "bytes an entry"))
        for cells in memory:
            table.add_row(*cells)
        console.print(table)


def _show_times(record: Record, workload: str, console: Console) -> None:
    unit = "ms" if workload in _MILLISECONDS else "µs"
    title = f"{workload}: {WORKLOADS.get(workload, WORKLOADS.get(workload.partition(' ')[0], ''))}"
    heads = ("waiting", "class", "system", f"wall, {unit}", "middle half", f"cpu, {unit}", "a second", "")
    table = _table(title, heads)
    for n in record.sizes(workload):
        for durability in ("", *CLASSES):
            lines = list(_lines(record, workload, n, durability))
            for line in lines:
                cells = (line.label, line.wall, line.half, line.cpu, line.speed, line.note)
                table.add_row(f"{n:,}", durability, *cells)
    console.print(table)
    for why, labels in _reasons(record, workload).items():
        console.print(f"  [dim]{why}: {', '.join(labels)}[/]")


def _lines(record: Record, workload: str, n: int, durability: str) -> Iterator[Line]:
    found = []
    for name in record.systems(workload):
        key = (name, workload, n)
        if (BY_NAME[name].durability if name in BY_NAME and workload != "import" else "") != durability:
            continue
        spread = record.spread(key)
        if spread is not None:
            found.append((spread.middle, key))
    for _, key in sorted(found):
        yield _line(record, key)


def _line(record: Record, key: Key) -> Line:
    name, workload, _ = key
    label = BY_NAME[name].label if name in BY_NAME else name
    scale = 1e3 if workload in _MILLISECONDS else 1e6
    spread = record.spread(key)
    assert spread is not None
    cpu = record.spread(key, "cpu")
    note = ""
    if workload == "lateness" and (idle := record.spread(key, "idle")) is not None:
        note = f"idle {digits(idle.middle * 1e6)}"
    counts = sorted(record.rounds(key, "count").values())
    if workload in ("at once", "enqueue_many", "drain 16", "drain 64") and counts and counts[0] < 1_000:
        note = f"{counts[0]:.0f} at a time"
    speed = "" if workload in (*_MILLISECONDS, "lateness") else f"{digits(1 / spread.middle)}"
    return Line(
        label,
        digits(spread.middle * scale),
        f"{digits(spread.low * scale)} to {digits(spread.high * scale)}",
        "" if cpu is None else digits(cpu.middle * scale),
        speed,
        note,
    )


def _reasons(record: Record, workload: str) -> dict[str, list[str]]:
    """Why some have no figure of this, and who."""
    found: dict[str, list[str]] = {}
    for row in record.rows:
        if "stopped" in row and row["workload"] == workload:
            labels = found.setdefault(row["stopped"].splitlines()[0], [])
            if (label := BY_NAME[row["system"]].label) not in labels:
                labels.append(label)
    return found


def _stops(record: Record) -> Iterator[str]:
    """Who was stopped, or could not be started at all; the first words of each."""
    for row in record.rows:
        if "stopped" in row and not row["workload"]:
            at = f", {row['n']:,} waiting" if row["n"] else ""
            yield f"{BY_NAME[row['system']].label}{at}: {row['stopped'].splitlines()[0]}"


def _show_counts(record: Record, console: Console) -> None:
    kinds = [name for name in record.workloads() if name.startswith("counts")]
    for field, scale, title in (("fsyncs", 1.0, "fsyncs"), ("bytes", 1 / 1024, "KiB handed to write calls")):
        heads = ("class", "system", *(kind.removeprefix("counts ") for kind in kinds), "seen by strace")
        table = _table(f"{title}, for each operation, with 100 waiting", heads)
        for system in SYSTEMS:
            found = [record.spread((system.name, kind, 100), field) for kind in kinds]
            cells = ["" if one is None else digits(one.middle * scale) for one in found]
            if any(cells):
                seen = [str(row["seen"]) for row in record.rows if row["system"] == system.name and row.get("seen")]
                table.add_row(system.durability, system.label, *cells, f"class {seen[0]}")
        console.print(table)


def _memory(record: Record) -> Iterator[tuple[str, str, str]]:
    for system in SYSTEMS:
        sizes = record.sizes("open", system.name)
        if len(sizes) < 2 or system.durability == "D":
            continue
        few, many = (record.spread((system.name, "open", n), "resident_kib") for n in (sizes[0], sizes[-1]))
        if few is not None and many is not None:
            each = (many.middle - few.middle) * 1024 / (sizes[-1] - sizes[0])
            yield system.label, f"{sizes[-1]:,}: {digits(many.middle / 1024)}", digits(each)


def list_all(console: Console, workloads: Mapping[str, str]) -> None:
    """What can be measured."""
    table = _table("workloads (--only)", ("name", "what"))
    for name, what in workloads.items():
        table.add_row(name, what)
    console.print(table)
    table = _table("systems (--systems)", ("name", "class", "what", ""))
    for system in SYSTEMS:
        table.add_row(system.name, system.durability, system.label, system.note or system.why_not())
    console.print(table)
    for durability, says in CLASSES.items():
        console.print(f"{durability}: {says}")


def _table(title: str, heads: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for head in heads:
        text = head in ("system", "class", "name", "what", "", "seen")
        table.add_column(head, justify="left" if text else "right")
    return table


def markdown(record: Record) -> str:
    """The tables of the README: microseconds an enqueue by length, and a second in bulk, by class."""
    parts = []
    for durability, says in CLASSES.items():
        names = [system.name for system in SYSTEMS if system.durability == durability]
        parts += [*_markdown_class(record, durability, says, names), ""]
    about = record.about
    machine = f"{about.get('processors')} processors, {about.get('file_system')}"
    parts.append(
        f"Medians; {machine}, Python {about.get('python')}, SQLite {about.get('sqlite')}, commit {about.get('commit')}."
    )
    return "\n".join(parts) + "\n"


def _markdown_class(record: Record, durability: Durability, says: str, names: list[str]) -> Iterator[str]:
    sizes = record.sizes("lone")
    bulk = (record.sizes("at once") or sizes)[:1]
    columns: list[tuple[str, str, int, bool]] = [
        *((f"lone enqueue, {n:,} waiting (µs)", "lone", n, False) for n in (sizes[:1] + sizes[-1:])),
        *((f"1,000 at once (a second, {n:,} waiting)", "at once", n, True) for n in bulk),
        *((f"drain one by one (a second, {n:,})", "drain 1", n, True) for n in (bulk + sizes[-1:])),
        *((f"drain 16 at a time (a second, {n:,})", "drain 16", n, True) for n in bulk),
    ]
    yield f"**{durability}** – {says}"
    yield ""
    yield "| | " + " | ".join(head for head, *_ in columns) + " |"
    yield "|---|" + "---:|" * len(columns)
    for name in names:
        cells = []
        for _, workload, n, speed in columns:
            found = record.spread((name, workload, n))
            if found is None:
                cells.append(_short(record.why_not((name, workload, n))))
            else:
                cells.append(digits(1 / found.middle) if speed else digits(found.middle * 1e6))
        yield f"| {BY_NAME[name].label} | " + " | ".join(cells) + " |"


def _short(why: str) -> str:
    return why.partition(":")[0] if why.startswith(("not built", "stopped")) else "–"
