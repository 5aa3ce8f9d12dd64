"""What the demo shows: lines, progress, and the table at the end; readable on a terminal and in a log alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from starfish_outbox.demo.survey import Survey

if TYPE_CHECKING:
    from starfish_outbox.demo.story import Figures, Plan

LOG_STEPS: Final = 4
"""How many lines about its progress a step leaves in a log, where no bar can move."""

MOST_NAMED: Final = 5
"""How many rows with repeated ids are named."""


class Screen:
    """Where the demo speaks: a terminal, or a file that gets lines only.

    Args:
        console: rich's; a new one for standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        if not self._console.is_terminal:
            self._console.width = 200  # rich takes 80 for a file, which breaks paths in two
        self._live: Progress | None = None

    def say(self, text: str) -> None:
        """One line, above the bar where one is moving."""
        console = self._live.console if self._live is not None else self._console
        console.print(text, soft_wrap=True, markup=False, emoji=False, highlight=False)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar with the time left; in a log, a line at each quarter. Yields what to call with how many are done."""
        if not self._console.is_terminal:
            yield self._lines(what, total)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console) as bar:
            task = bar.add_task(what, total=total)
            self._live = bar
            try:
                yield lambda done: bar.update(task, completed=done)
            finally:
                self._live = None

    def _lines(self, what: str, total: int) -> Callable[[int], None]:
        shown = 0

        def advance(done: int) -> None:
            nonlocal shown
            quarter = done * LOG_STEPS // total if total else 0
            if quarter > shown:
                shown = quarter
                self.say(f"  {what} {done:,} of {total:,}")

        return advance

    def survey(self, survey: Survey) -> None:
        """What was read: the number of observations, and the rows whose id repeats."""
        number, columns = len(survey.observations), len(survey.columns)
        self.say(f"{number:,} observations of {columns} columns in {survey.path}")
        if not survey.repeats:
            return
        same = sum(repeat.same for repeat in survey.repeats)
        self.say(
            f"{len(survey.repeats):,} of them repeat an id ({same:,} with the same cells): the outbox keeps the first "
            "of each id and refuses the rest."
        )
        for repeat in survey.repeats[:MOST_NAMED]:
            what = "the same as" if repeat.same else "not the same as"
            self.say(f"  line {repeat.line}, id {repeat.id!r}: {what} line {repeat.first_line}")
        if len(survey.repeats) > MOST_NAMED:
            self.say(f"  and {len(survey.repeats) - MOST_NAMED:,} more")

    def table(self, figures: Figures, plan: Plan) -> None:
        """The figures, and where the outbox lies."""
        table = Table(title="What happened", title_justify="left", show_header=False)
        table.add_column("what", no_wrap=True)
        table.add_column("how many", overflow="fold")
        killed, server_killed = figures.killed_after, figures.server_killed_after
        rows: list[tuple[str, object]] = [
            ("observed", figures.observed),
            ("refused, their id repeats", figures.repeats),
            ("collector killed after", "done before the kill came" if killed is None else killed),
            ("acknowledged and lost", figures.lost),
            ("stored", figures.stored),
            ("sent", figures.sent),
            ("requests made", figures.requests),
            ("server killed after", "never" if server_killed is None else server_killed),
            ("acknowledgements lost", figures.acks_lost),
            ("answered 'already there'", figures.repeated),
            ("duplicates at the server", figures.duplicates),
            ("passes while offline", figures.offline_passes),
            ("left", figures.left),
            ("failed", figures.failed),
            ("seconds", f"{figures.seconds:.1f}"),
            ("outbox", plan.outbox),
        ]
        for what, number in rows:
            table.add_row(what, Text(f"{number:,}" if isinstance(number, int) else str(number)))
        self._console.print(table)

    def verdict(self, figures: Figures, plan: Plan) -> None:
        """Whether the server's records and the file agree, and what is left on disk."""
        found = figures.comparison
        if found.agrees:
            self.say(f"The server's records agree with the file: {found.cells:,} cells compared, none differs.")
        else:
            self.say(
                f"The server's records do not agree with the file: of {found.cells:,} cells {found.differing:,} "
                f"differ, {found.missing:,} observations are missing, {found.unexpected:,} records are unexpected."
            )
        for example in found.examples:
            self.say(f"  {example}")
        if not figures.good:
            self.say("A promise was broken: something was lost, doubled, left or parked; see the table.")
        self.say(
            f"Kept: {plan.directory} (the outbox, the server's records, the logs). Delete it when you have looked."
        )
