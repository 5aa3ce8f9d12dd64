"""A run on a terminal, or in a log: how far it is, and what it came to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from starfish_outbox.conformance.reports.report import Report, counts, title_of
from starfish_outbox.conformance.reports.showing import spell_out_unseen
from starfish_outbox.conformance.verdicts import PROFILES, Result, Subject, Verdict

_STYLES: Final[dict[str, str]] = {
    Verdict.PASS: "green",
    Verdict.ACCEPTABLE: "cyan",
    Verdict.UNSUPPORTED: "dim",
    Verdict.FAIL: "yellow",
    Verdict.DATA_LOSS: "bold red",
    Verdict.ERROR: "magenta",
}
_MOST_REASONS: Final = 5
_MOST_OF_A_REASON: Final = 500  # characters
_GAP: Final = "  "


class Progress:
    """How far a run is: a bar with the time left; in a log, a line when a driver is through. Use it in a ``with``.

    Args:
        total: how many results there will be.
        console: where somebody may look, standard error as a rule.
    """

    def __init__(self, total: int, console: Console) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._part: tuple[str, ...] = ()
        self._results: list[Result] = []
        what = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
        columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), what)
        self._bar = Bar(*columns, console=console, transient=True) if console.is_terminal else None
        self._task = self._bar.add_task("", total=total) if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        self._close_part()

    def start(self, subject: Subject, drivers: Sequence[str]) -> None:
        """What is run now, and on whom."""
        what = "cases" if title_of(subject) is not None else subject.id
        if (part := (" + ".join(drivers), what)) != self._part:
            self._close_part()
            self._part = part
        if self._bar and self._task is not None:
            said = _shown(f"{self._part[0]}  {subject.id}", self._console)
            self._bar.update(self._task, description=said)

    def add(self, result: Result) -> None:
        """One more result."""
        self._done += 1
        self._results.append(result)
        if self._bar and self._task is not None:
            self._bar.advance(self._task)

    def _close_part(self) -> None:
        if self._results:
            who, what = self._part
            line = Text(f"{self._done}/{self._total}{_GAP}{_shown(f'{who}: {what}: ', self._console)}")
            line.append_text(_counted(counts(self._results)))
            line.append(f" ({sum(result.seconds for result in self._results):.1f} s)", "dim")
            self._console.print(line, soft_wrap=True)
        self._results = []


def summary(report: Report, console: Console, again: str) -> None:
    """Print what a run came to: the verdicts of each driver by profile, then all that keeps it from succeeding.

    Args:
        report: the run.
        console: where to.
        again: the command line that ran it, to which what repeats one case is added.
    """
    rows = list(_rows(report))
    widths = [max(len(row[place].plain) for row in rows) for place in range(len(rows[0]))]
    if console.is_terminal and sum(widths) + len(_GAP) * (len(widths) - 1) > console.width:
        _print_list(report, console)
    else:
        for row in rows:
            cells = enumerate(zip(row, widths, strict=True))
            line = Text(_GAP).join(_aligned(cell, width, place) for place, (cell, width) in cells)
            line.rstrip()
            console.print(line, soft_wrap=True)
    for result in (*report.schedules, *report.pairs):
        _print_random(result, console)
    for result in report.surprises:
        _print_surprise(result, report, console, again)
    for note in report.notes:
        console.print(Text(_shown(note, console), "dim"), soft_wrap=True)
    console.print(_closing(report), soft_wrap=True)


def _rows(report: Report) -> Iterator[list[Text]]:
    """The table: a head, then for each driver a line a profile, and one with all."""
    yield [Text(""), *(Text(verdict.value, "bold") for verdict in Verdict)]
    for hello in report.hellos:
        name = spell_out_unseen(f"{hello.name} {hello.version}")
        yield [Text(name, "bold"), *_numbers(report.counts(hello.name))]
        for profile in PROFILES:
            numbers = report.counts(hello.name, profile)
            if any(numbers.values()):
                yield [Text(f"{_GAP}{profile}"), *_numbers(numbers)]


def _numbers(numbers: dict[str, int]) -> Iterator[Text]:
    for verdict, number in numbers.items():
        yield Text(str(number), _STYLES[verdict]) if number else Text("-", "dim")


def _aligned(cell: Text, width: int, place: int) -> Text:
    cell = cell.copy()
    if place:
        cell.pad_left(width - cell.cell_len)
    else:
        cell.pad_right(width - cell.cell_len)
    return cell


def _print_list(report: Report, console: Console) -> None:
    """The same for a screen that is too narrow for the table."""
    for hello in report.hellos:
        console.print(Text(_shown(f"{hello.name} {hello.version}", console), "bold"))
        for profile in PROFILES:
            numbers = report.counts(hello.name, profile)
            if any(numbers.values()):
                console.print(Text(f"{_GAP}{profile}: ").append_text(_counted(numbers)))


def _print_random(result: Result, console: Console) -> None:
    line = Text(_shown(f"{' + '.join(result.drivers)}: {result.subject.id}: ", console))
    line.append(result.verdict.value, _STYLES[result.verdict])
    if runs := result.figures.get("runs"):
        broken = [f"{what} {times}" for what, times in result.figures.items() if times and what != "runs"]
        line.append(_shown(f" ({', '.join([f'{runs} runs', *broken])})", console))
    console.print(line, soft_wrap=True)


def _print_surprise(result: Result, report: Report, console: Console, again: str) -> None:
    console.print()
    head = Text(_shown(f"{' + '.join(result.drivers)}{_GAP}{result.subject.id}{_GAP}", console), "bold")
    head.append(result.surprise or "", _STYLES[result.verdict])
    console.print(head, soft_wrap=True)
    for text in (result.subject.description, f"What it costs: {result.subject.cost}"):
        console.print(Text(_shown(f"{_GAP}{text}", console)), soft_wrap=not console.is_terminal)
    for reason in result.reasons[:_MOST_REASONS]:
        cut = reason if len(reason) <= _MOST_OF_A_REASON else f"{reason[:_MOST_OF_A_REASON]} ..."
        for number, line in enumerate(cut.split("\n")):
            mark = " " if number else "-"
            console.print(Text(_shown(f"{_GAP}{mark} {line}", console)), soft_wrap=not console.is_terminal)
    if len(result.reasons) > _MOST_REASONS:
        console.print(Text(f"{_GAP}- and {len(result.reasons) - _MOST_REASONS} more"))
    only = f"--case {result.subject.id}" if title_of(result.subject) is not None else f"--seed {report.seed}"
    console.print(Text(_shown(f"{_GAP}again: {again} {only}", console)), soft_wrap=True)


def _closing(report: Report) -> Text:
    if report.ok:
        return Text("Nothing fails that is not listed as known, and nothing that is listed passes.", "green")
    number = len(report.surprises)
    return Text(f"{number} {'result keeps' if number == 1 else 'results keep'} this run from succeeding.", "bold red")


def _counted(numbers: dict[str, int]) -> Text:
    said = [Text(f"{number} {verdict}", _STYLES[verdict]) for verdict, number in numbers.items() if number]
    return Text(", ").join(said)


def _shown(text: str, console: Console) -> str:
    """The text without anything that a terminal would obey or could not show."""
    encoding = console.encoding
    return spell_out_unseen(text).encode(encoding, "backslashreplace").decode(encoding)
