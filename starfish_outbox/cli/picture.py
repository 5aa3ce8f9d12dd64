"""What a delivery is doing, on standard error: redrawn in place where somebody looks, else a line now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from starfish_outbox.caches.base import wall_clock_ms
from starfish_outbox.cli.output import Screen, moment
from starfish_outbox.drain import DrainProgress
from starfish_outbox.showing import duration, printable

_LINE_EVERY: Final = 10.0  # seconds between lines about one pass, where nobody looks
_VERBS: Final = {"idle": "looks again", "offline": "next try", "paused": "next try"}
_STYLES: Final = {"offline": "yellow", "waiting": "yellow", "paused": "bold red", "ending": "yellow"}


class Picture:
    """Told what happens, it shows it while ``shown`` is entered.

    Args:
        screen: where to.
        about: what is told below, such as which queue goes where.
        get_time: seconds, for rates.
    """

    def __init__(self, screen: Screen, about: str, get_time: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen
        self._about = about
        self._get_time = get_time
        self._live = screen.err.is_terminal and not screen.err.is_dumb_terminal
        self._bar = Progress(
            _Words(lambda task: f"{task.description:<9}"),
            BarColumn(bar_width=None),
            _Words(lambda task: f"{task.completed:,.0f}/{task.total or 0:,.0f}"),
            _Words(_rate),
            _Words(_left),
            console=screen.err,
            expand=True,
            auto_refresh=False,
            disable=True,  # it is drawn as a part of this picture
            get_time=get_time,
        )
        self._task = self._bar.add_task("sending", total=None)
        self._moves = False  # whether the bar, rather than the words, says what is going on
        self._name = self._text = ""
        self._until_ms: int | None = None
        self._totals = ""
        self._last_line = get_time()
        self._said = ""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows it for as long as it is entered; nothing of it stays on a terminal."""
        if not self._live:
            yield
            return
        with Live(get_renderable=self._drawn, console=self._screen.err, refresh_per_second=4, transient=True):
            yield

    def begins(self, name: str, total: int, totals: str) -> None:
        """A pass begins, over about so many entries; one without any is not worth showing."""
        self._bar.reset(self._task, description=name, total=total)
        self._last_line = self._get_time()
        if total:
            self._moves, self._totals = True, totals

    def moved(self, progress: DrainProgress, total: int, totals: str) -> None:
        """An entry of the pass was settled, one of so many."""
        self._bar.update(self._task, completed=progress.done, total=total)
        self._moves, self._totals, self._said = True, totals, ""
        now = self._get_time()
        if not self._live and now - self._last_line >= _LINE_EVERY:
            self._last_line = now
            task = self._bar.tasks[0]
            words = filter(None, (f"{progress.done:,} of {total:,}", totals, _rate(task), _left(task)))
            self._line(f"{task.description}: {', '.join(words)}")

    def rests(self, name: str, text: str, until_ms: int | None, totals: str) -> None:
        """It sends nothing, for the reason in ``text``; and goes on by itself at that instant, or not."""
        self._moves = False
        self._name, self._text, self._until_ms, self._totals = name, printable(text), until_ms, totals
        if not self._live and self._said != (said := f"{name}: {self._text}"):
            self._said = said
            self._line(f"{said}{self._when()}; {totals}")

    def _line(self, text: str) -> None:
        self._screen.note(f"{moment(wall_clock_ms())}  {text}")

    def _when(self) -> str:
        if self._until_ms is None:
            return ""
        verb = _VERBS.get(self._name, "goes on")
        return f" ({verb} in {duration(max(1, math.ceil((self._until_ms - wall_clock_ms()) / 1000)))})"

    def _drawn(self) -> RenderableType:
        """The picture as of now; drawn several times a second, so that it counts down."""
        below = Text(" · ".join(filter(None, (self._totals, self._about))), "dim", no_wrap=True, overflow="ellipsis")
        if self._moves:
            return Group(self._bar, below)
        if not self._name:
            return below
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True, width=9)
        grid.add_column(overflow="fold")
        grid.add_row(Text(self._name, _STYLES.get(self._name, "green")), Text(f"{self._text}{self._when()}"))
        return Group(grid, below)


class _Words(ProgressColumn):
    """Words about a task; rich's own columns know neither thousands nor entries a second."""

    def __init__(self, words: Callable[[Task], str]) -> None:
        super().__init__()
        self._words = words

    def render(self, task: Task) -> Text:
        """See `ProgressColumn`."""
        return Text(self._words(task), no_wrap=True)


def rate_in_words(speed: float) -> str:
    """Entries a second, or a minute where that is less than one."""
    if speed < 1:
        return f"{speed * 60:.1f}/min"
    return f"{speed:.1f}/s" if speed < 9.95 else f"{speed:,.0f}/s"


def _rate(task: Task) -> str:
    return rate_in_words(task.speed) if task.speed else ""


def _left(task: Task) -> str:
    """How long it will take at that rate."""
    seconds = task.time_remaining
    return "" if not seconds else f"{duration(seconds)} left"
