"""What of a panel changes while it is looked at, as HTML; every text of others is escaped and made visible."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starfish_outbox.entry import FAILED, SENDING
from starfish_outbox.knowing import moment
from starfish_outbox.notebook.board import LogLine, PanelState
from starfish_outbox.notebook.details import Details
from starfish_outbox.notebook.page import Html, cut, facts, joined, tag, value
from starfish_outbox.showing import counted, duration

_ID: Final = 100
_TEXT: Final = 600
_LOG_SHOWN: Final = 40
_KIND: Final = {"draining": SENDING, "pausing": SENDING, "stopping": SENDING, "offline": FAILED, "paused": FAILED}
_ADVICE: Final = {
    "draining": "Sending, the oldest first.",
    "paused": "Resume goes on, Stop ends it.",
    "offline": "Nothing is lost: it tries again by itself.",
    "closed": "Run the cell again for another panel.",
}


def headline(key: str | None, state: PanelState, now_ms: int) -> str:
    """What it is doing, as a status that is read out when it changes."""
    chip = tag("span", state.mode, class_=f"chip {_KIND.get(state.mode, '')}".rstrip())
    network = None if state.online else tag("span", "network off", class_="chip failed")
    title = tag("strong", "Outbox ", value(key or "(bound to nothing)", _ID))
    return tag("header", title, chip, network, role="presentation") + tag(
        "p", _said(state, now_ms), role="status", class_="said"
    )


def _said(state: PanelState, now_ms: int) -> str:
    advice = _ADVICE.get(state.mode, "")
    if state.mode == "offline" and not state.keeps:
        advice = "Nothing is lost: Drain tries again."
    if state.mode == "idle" and not state.counts.queued:
        parked = state.counts.failed
        if not parked:
            return "Nothing is waiting."
        return f"Nothing is waiting, and {counted(parked, 'entry is', 'entries are')} parked: look at why, or retry."
    if state.mode == "idle" and not (state.running or state.reason):
        advice = "Drain sends what is queued."
    wait = ""
    if state.until_ms is not None and state.until_ms > now_ms:
        wait = f"It goes on at {_clock(state.until_ms)}."
    reason = f"{cut(state.reason, _TEXT).rstrip('.')}." if state.reason else ""
    return " ".join(filter(None, (reason[:1].upper() + reason[1:], wait, advice)))


def numbers(state: PanelState) -> str:
    """How far the pass is, and how many entries have which status."""
    progress = state.progress
    done, total = (0, 0) if progress is None else (progress.done, progress.total)
    words = "no pass yet" if progress is None else f"{done:,} of {counted(total, 'entry', 'entries')} done"
    if progress is not None and state.mode == "draining" and progress.rate and progress.seconds_left is not None:
        words += f", {_rate(progress.rate)}, {duration(progress.seconds_left + 0.999)} left"
    share = 100 * done / total if total else 0
    bar = tag(
        "div",
        tag("div", style=f"width:{share:.1f}%", class_="done"),
        role="progressbar",
        aria_label="Progress of the pass",
        aria_valuemin="0",
        aria_valuemax=str(max(total, 1)),
        aria_valuenow=str(done),
        aria_valuetext=words,
        class_="bar",
    )
    return tag("p", words, class_="soft words") + bar + _counts(state)


def _rate(rate: float) -> str:
    return f"{rate:,.0f} a second" if rate >= 10 else f"{rate:.1f} a second"


def _counts(state: PanelState) -> Html:
    counts = state.counts
    shown = [
        (counts.queued, "queued", ""),
        (counts.sending, "sending", SENDING if counts.sending else ""),
        (counts.failed, "failed", FAILED if counts.failed else ""),
        (state.sent, "sent", "fine" if state.sent else ""),
    ]
    shown += [(state.retried, "to be retried", "")] if state.retried else []
    shown += [(state.turned_away, "found no network", "")] if state.turned_away else []
    shown += [(state.lost, "answers lost", "")] if state.lost else []
    chips = (
        tag("li", tag("b", f"{number:,}"), f" {name}", class_=f"chip {kind}".rstrip(), data_count=name)
        for number, name, kind in shown
    )
    return tag("ul", *chips, class_="counts", aria_label="Entries by status")


def error(state: PanelState) -> str:
    """The error strip; empty where there is nothing to tell."""
    return tag("div", cut(state.error, _TEXT), role="alert", class_="alarm strip") if state.error else ""


def log(lines: Iterable[LogLine]) -> str:
    """What happened, the latest first. Not read out by itself: what matters is a status or an alert too."""
    latest = list(lines)[: -_LOG_SHOWN - 1 : -1]
    rows = (tag("li", tag("span", _clock(line.at_ms), class_="soft"), " ", cut(line.text, _TEXT)) for line in latest)
    body = tag("ol", *rows) if latest else tag("p", "Nothing has happened yet.", class_="soft")
    return tag("div", body, role="log", aria_label="Log", aria_live="off", tabindex="0", class_="log")


def _clock(at_ms: int) -> str:
    return moment(at_ms)[-len("12:00:00 UTC") :]


def details(shown: Details) -> str:
    """One entry, closely."""
    if shown.status == "gone":
        what = f"is not in the queue: it {cut(shown.reason, _TEXT).removeprefix('it ')}"
        return tag("p", value(shown.id, _TEXT), f" {what}", role="status")
    chip = tag("span", cut(shown.status, 24), class_=f"chip {shown.status if shown.parked else ''}".rstrip())
    history = tag("ol", *(tag("li", cut(line, _TEXT)) for line in shown.history), class_="history")
    pairs = [("attempts", f"{shown.attempts:,}"), ("why", f"it {cut(shown.reason, 2 * _TEXT)}"), ("history", history)]
    return tag("header", tag("strong", value(shown.id, _TEXT)), chip, role="presentation") + joined((facts(pairs),))
