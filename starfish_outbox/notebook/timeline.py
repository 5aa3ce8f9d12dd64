"""What a drain did against time, as a picture: sent, to be retried and parked as bars, what waits as a line."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from math import floor, log10
from pathlib import Path
from typing import Any, Final

from starfish_outbox.drain import DrainProgress
from starfish_outbox.queue import OutboxQueue

_MOST_BINS: Final = 160
_MOST_MARKS: Final = 40
_WIDTH, _HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 700, 44, 250
# Told apart without their colour too: by their place in the stack, by fill or outline, and in the table of the words.
_KINDS: Final = (("sent", "#2f7ed8"), ("retry", "#d98200"), ("parked", "#d0342c"))


@dataclass
class Bin:
    """What happened in one stretch of time; ``waiting`` is how many waited at its end, None: as many as before."""

    sent: int = 0
    retry: int = 0
    parked: int = 0
    waiting: int | None = None

    @property
    def height(self) -> int:
        """How many entries were settled."""
        return self.sent + self.retry + self.parked


@dataclass
class Timeline:
    """Collects what drains do: give it as ``on_progress=``. Costs the same however long it goes on.

    ```python
    timeline = Timeline(queue)
    await drain_outbox(queue, send, on_progress=timeline)
    timeline  # in a notebook: the picture
    ```

    Attributes:
        queue: how many of its entries wait is drawn too.
        seconds: width of a bin: it doubles when there are too many.
        bins: what happened, from the first moment on.
        marks: seconds since the first moment, and what began then (``offline``, ``paused``).
    """

    queue: OutboxQueue[Any]
    seconds: float = 0.125
    bins: list[Bin] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    _began_ms: int | None = None

    def __call__(self, progress: DrainProgress) -> None:
        """One entry was settled."""
        kind = {"sent": "sent", "failed": "parked"}.get(progress.outcome, "retry")
        bin_now = self._bin_now()
        setattr(bin_now, kind, getattr(bin_now, kind) + 1)
        bin_now.waiting = self._waiting()

    def look(self) -> None:
        """Note how many wait now."""
        self._bin_now().waiting = self._waiting()

    def mark(self, text: str) -> None:
        """Something else began that explains what is seen."""
        self._bin_now()
        if len(self.marks) < _MOST_MARKS:
            self.marks.append((self._elapsed(), text))

    @property
    def totals(self) -> dict[str, int]:
        """How many entries were ``sent``, put back for a ``retry``, and ``parked``."""
        return {kind: sum(getattr(one, kind) for one in self.bins) for kind, _ in _KINDS}

    def svg(self) -> str:
        """The picture, as a document of its own or to stand in a page; nothing in it comes from an entry."""
        return _drawn(self)

    def save(self, path: str | Path) -> None:
        """Write the picture into a file, for slides.

        Raises:
            OSError: it cannot be written.
        """
        Path(path).write_text(self.svg(), "utf-8")

    def _repr_html_(self) -> str:
        return self.svg()

    def __repr__(self) -> str:
        """The picture in words."""
        return f"<Timeline: {_words(self)}>"

    def _waiting(self) -> int:
        counts = self.queue.counts()
        return counts.queued + counts.sending

    def _elapsed(self) -> float:
        now = self.queue.now_ms()
        if self._began_ms is None:
            self._began_ms = now
        return max(0.0, (now - self._began_ms) / 1000)

    def _bin_now(self) -> Bin:
        number = floor(self._elapsed() / self.seconds)
        while number >= _MOST_BINS:
            self.seconds *= 2
            number //= 2
            self.bins = [_joined(self.bins[at : at + 2]) for at in range(0, len(self.bins), 2)]
        if number < len(self.bins):  # now, or the clock was put back
            return self.bins[-1]
        self.bins += [Bin() for _ in range(number + 1 - len(self.bins))]
        return self.bins[-1]


_seen: weakref.WeakKeyDictionary[OutboxQueue[Any], Timeline] = weakref.WeakKeyDictionary()


def timeline_of(queue: OutboxQueue[Any]) -> Timeline:
    """The one timeline of a queue, which all its panels fill."""
    timeline = _seen.get(queue)
    if timeline is None:
        timeline = _seen[queue] = Timeline(weakref.proxy(queue))
    return timeline


def plot(outbox: Any) -> Timeline:
    """The picture of what panels drained: of a queue, a ``BlockingOutbox`` or an ``OutboxPanel``.

    ``plot(queue).save("drain.svg")`` puts it into a file.
    """
    queue = outbox if isinstance(outbox, OutboxQueue) else getattr(outbox, "queue", None)
    if not isinstance(queue, OutboxQueue):
        raise TypeError(f"plot takes a queue, a BlockingOutbox or an OutboxPanel, not {type(outbox).__name__}")
    return timeline_of(queue)


def _joined(bins: Sequence[Bin]) -> Bin:
    waiting = [one.waiting for one in bins if one.waiting is not None]
    return Bin(
        sum(one.sent for one in bins),
        sum(one.retry for one in bins),
        sum(one.parked for one in bins),
        waiting[-1] if waiting else None,
    )


def _drawn(timeline: Timeline) -> str:
    bins = timeline.bins
    span = max(len(bins), 1) * timeline.seconds
    top = _round_up(max((one.height for one in bins), default=0))
    most = _round_up(max((one.waiting or 0 for one in bins), default=0))
    across = (_RIGHT - _LEFT) / max(len(bins), 1)

    def x(seconds: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * seconds / span

    parts = [*_axes(span, top, most, x, timeline.seconds)]
    for number, one in enumerate(bins):
        parts += _bar(one, _LEFT + number * across, across, top)
    parts += _line(bins, across, most)
    for at, text in timeline.marks:
        side, anchor = (-3, "end") if x(at) > _RIGHT - 60 else (3, "start")
        parts.append(
            f'<path d="M{x(at):.1f} {_TOP}V{_BOTTOM}" stroke="currentColor" stroke-dasharray="2 3" opacity=".6"/>'
            f'<text x="{x(at) + side:.1f}" y="{_TOP + 10}" font-size="11" text-anchor="{anchor}">{escape(text)}</text>'
        )
    words = escape(_words(timeline))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{words}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="currentColor" '
        f'style="max-width:{_WIDTH}px;width:100%;height:auto">{"".join(parts)}{_legend()}</svg>'
    )


def _axes(span: float, top: int, most: int, x: Callable[[float], float], seconds: float) -> list[str]:
    parts = [
        f'<path d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}V{_TOP}" fill="none" stroke="currentColor" opacity=".5"/>',
        f'<text x="{_LEFT - 6}" y="{_TOP + 4}" text-anchor="end">{top:,}</text>',
        f'<text x="{_LEFT - 6}" y="{_BOTTOM + 4}" text-anchor="end">0</text>',
        f'<text x="{_RIGHT + 6}" y="{_TOP + 4}">{most:,}</text>',
        f'<text x="{_RIGHT + 6}" y="{_BOTTOM + 4}">0</text>',
        f'<text x="14" y="{(_TOP + _BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(_TOP + _BOTTOM) / 2})">entries in {seconds:g} s</text>',
        f'<text x="{_WIDTH - 14}" y="{(_TOP + _BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(90 {_WIDTH - 14} {(_TOP + _BOTTOM) / 2})">waiting</text>',
    ]
    step = _step(span)
    for number in range(floor(span / step) + 1):
        at = number * step
        parts.append(
            f'<path d="M{x(at):.1f} {_BOTTOM}v5" stroke="currentColor" opacity=".5"/>'
            f'<text x="{x(at):.1f}" y="{_BOTTOM + 19}" text-anchor="middle">{at:g} s</text>'
        )
    return parts


def _bar(one: Bin, left: float, across: float, top: int) -> list[str]:
    parts, base = [], float(_BOTTOM)
    width = max(across * 0.86, 1.0)
    for kind, colour in _KINDS:
        count = getattr(one, kind)
        if count:
            height = (_BOTTOM - _TOP) * count / top
            base -= height
            look = f'fill="none" stroke="{colour}"' if kind == "retry" else f'fill="{colour}"'
            parts.append(f'<rect x="{left:.1f}" y="{base:.1f}" width="{width:.1f}" height="{height:.1f}" {look}/>')
            if kind == "parked":
                middle = left + width / 2
                parts.append(
                    f'<path d="M{middle - 4:.1f} {base - 10:.1f}l8 8m0 -8l-8 8" stroke="{colour}" stroke-width="2"/>'
                )
    return parts


def _line(bins: Sequence[Bin], across: float, most: int) -> list[str]:
    points, waiting = [], None
    for number, one in enumerate(bins):
        waiting = one.waiting if one.waiting is not None else waiting
        if waiting is not None:
            points.append(f"{_LEFT + (number + 0.5) * across:.1f},{_BOTTOM - (_BOTTOM - _TOP) * waiting / most:.1f}")
    return [f'<polyline points="{" ".join(points)}" fill="none" stroke="currentColor" stroke-width="2"/>']


def _legend() -> str:
    parts = []
    for number, (kind, colour) in enumerate(_KINDS):
        left = _LEFT + 120 * number
        look = f'fill="none" stroke="{colour}"' if kind == "retry" else f'fill="{colour}"'
        parts.append(f'<rect x="{left}" y="12" width="11" height="11" {look}/>')
        if kind == "parked":
            parts.append(f'<path d="M{left + 14} 13l8 8m0 -8l-8 8" stroke="{colour}" stroke-width="2"/>')
        words = "to be retried" if kind == "retry" else kind
        parts.append(f'<text x="{left + (28 if kind == "parked" else 17)}" y="22">{words}</text>')
    parts.append(
        f'<path d="M{_LEFT + 360} 18h18" stroke="currentColor" stroke-width="2"/>'
        f'<text x="{_LEFT + 384}" y="22">waiting</text>'
    )
    return "".join(parts)


def _words(timeline: Timeline) -> str:
    if not timeline.bins:
        return "nothing was drained yet"
    totals = timeline.totals
    waiting = next((one.waiting for one in reversed(timeline.bins) if one.waiting is not None), 0)
    return (
        f"in {len(timeline.bins) * timeline.seconds:g} s: {totals['sent']:,} sent, {totals['retry']:,} to be retried, "
        f"{totals['parked']:,} parked; {waiting:,} waiting"
    )


def _round_up(number: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on."""
    if number <= 1:
        return 1
    unit = int(10 ** floor(log10(number)))
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= number)


def _step(span: float) -> float:
    """Seconds between two ticks, so that there are at most ten."""
    rough = span / 8
    unit = 10.0 ** floor(log10(rough))
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
