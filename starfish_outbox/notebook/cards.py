"""How our objects look in a notebook, without any front end of ours: cards of plain HTML.

Each costs the same however long a queue is, but for one look at the state of its entries: ten items are decoded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from starfish_outbox.entry import FAILED, SENDING, LastError, OutboxEntry
from starfish_outbox.knowing import Explanation, History, QueueStatus, moment
from starfish_outbox.notebook.page import Content, Html, alarm, card as drawn, cut, facts, joined, table, tag, value
from starfish_outbox.showing import ago, counted, duration, size
from starfish_outbox.state import Counts

if TYPE_CHECKING:
    from starfish_outbox.conformance.reports import Report
    from starfish_outbox.drain import DrainResult, KeepDraining
    from starfish_outbox.notebook.frames import Enqueued, Requeued
    from starfish_outbox.queue import OutboxQueue

ROWS: Final = 10
"""Entries that the card of a queue shows."""

PREVIEW: Final = 80
"""Characters of an item that are shown, at most."""

_ID: Final = 100
_ERROR: Final = 160
_STATUS: Final = 24
_WHOLE: Final = 600
_STOPPED: Final = {
    "offline": "nobody was reached",
    "unacked": "no answers came",
    "busy": "the server asked to wait",
    "auth": "credentials are needed",
    "switched": "the queue left the identity",
    "limit": "so many were asked for",
    "asked": "it was asked to stop",
}
_SAID: dict[str, bool] = {}


def previews(on: bool | None = None) -> bool:
    """Whether cards show the beginnings of items, which may be private.

    Args:
        on: show them, or not, from now on; None only asks. Until it is said, STARFISH_OUTBOX_PREVIEWS=0 in the
            environment switches them off.
    """
    if on is not None:
        _SAID["on"] = on
    return _SAID.get("on", os.environ.get("STARFISH_OUTBOX_PREVIEWS", "1") != "0")


def card(thing: object) -> str:
    """The HTML of anything of ours that a notebook can show.

    Raises:
        TypeError: it has no card.
    """
    for kind in type(thing).__mro__:
        if kind.__name__ in _CARDS and kind.__module__.startswith("starfish_outbox."):
            return _CARDS[kind.__name__](thing)
    raise TypeError(f"there is no card for {type(thing).__name__}")


def preview(item: Any, most: int = PREVIEW) -> str:
    """The beginning of an item as JSON, in at most so many characters; no more of it is looked at than that takes."""
    pieces, length = [], 0
    encoder = json.JSONEncoder(ensure_ascii=False, default=lambda other: f"({type(other).__name__})")
    try:
        for piece in encoder.iterencode(item):
            pieces.append(piece[: most + 1])
            length += len(pieces[-1])
            if length > most:
                break
    except (TypeError, ValueError, RecursionError):  # whatever somebody put into an entry that was never stored
        return "(an item that is no JSON)"
    return cut("".join(pieces), most)


def _queue(queue: OutboxQueue[Any]) -> str:
    status, now = queue.status(), queue.now_ms()
    if status.key is None:
        what = "It is bound to no identity: await queue.hydrate(key), or open it anew with open_outbox."
        return drawn("Outbox", [("bound to nothing", "")], facts(_places(status)), tag("p", what))
    entries = queue.page(limit=ROWS)
    below = _rows(entries, status.counts.total, now) if entries else tag("p", "Nothing is waiting.")
    return _outbox(status, now, below)


def _status(status: QueueStatus) -> str:
    return _outbox(status, None, None)


def _outbox(status: QueueStatus, now: int | None, below: Content) -> str:
    age = "" if now is None or status.oldest_ms is None else f", {ago(status.oldest_ms, now)} ago"
    oldest = "" if status.oldest_ms is None else f"{moment(status.oldest_ms)}{age}"
    failure = None
    if status.last_error is not None and status.last_error_id is not None:
        failure = joined((value(status.last_error_id, _ID), ": ", _error(status.last_error)))
    pairs: list[tuple[str, Content]] = [
        ("oldest", oldest),
        ("items", size(status.bytes) if status.counts.total else ""),
        ("last error", failure),
        *_places(status),
    ]
    aside = [f"set aside: {note}" for note in status.set_aside]
    title = joined(("Outbox ", value(status.key or "", _ID)))
    foot = "" if now is None else f"as of {moment(now)}"
    return drawn(title, _chips(status.counts), facts(pairs), alarm(aside), alarm(status.stuck), below, foot=foot)


def _places(status: QueueStatus) -> list[tuple[str, Content]]:
    return [("where", value(status.where, _WHOLE)), ("durable", cut(status.durability, _WHOLE))]


def _chips(counts: Counts) -> Iterator[tuple[str, str]]:
    yield f"{counts.queued:,} queued", ""
    if counts.sending:
        yield f"{counts.sending:,} sending", SENDING
    if counts.failed:
        yield f"{counts.failed:,} failed", FAILED
    if counts.other:
        yield f"{counts.other:,} other", ""


def _rows(entries: Sequence[OutboxEntry[Any]], total: int, now: int) -> Html:
    what = [*["item"] * previews(), *["last error"] * any(entry.last_error for entry in entries)]
    heads = [("id", "name"), ("status", "status"), ("attempts", "short number"), ("age", "short")]
    heads += [(" and ".join(what), "rest")] if what else []
    rows = ([*_cells(entry, now), *[_told(entry)] * bool(what)] for entry in entries)
    rest = total - len(entries)
    caption = f"The {len(entries):,} oldest of {total:,} entries" if rest else counted(total, "entry", "entries")
    more = tag("p", f"… and {rest:,} more", class_="soft") if rest else None
    return joined((table(caption, heads, rows), more))


def _cells(entry: OutboxEntry[Any], now: int) -> Iterator[Content]:
    yield value(entry.id, _ID)
    yield _badge(entry)
    yield f"{entry.attempts:,}"
    yield ago(entry.enqueued_at, now)


def _told(entry: OutboxEntry[Any]) -> Html:
    """The item, in one line, and below it why the last try failed."""
    item = tag("div", value(preview(entry.item), PREVIEW), class_="line") if previews() else None
    return joined((item, tag("div", _error(entry.last_error)) if entry.last_error else None))


def _badge(entry: OutboxEntry[Any]) -> Html:
    status = entry.status if isinstance(entry.status, str) else preview(entry.status, _STATUS)
    kind = status if status in (FAILED, SENDING) else ""
    return tag("span", cut(status, _STATUS), class_=f"chip {kind}".rstrip())


def _error(error: LastError, most: int = _ERROR) -> Html:
    return value(f"{error.type}: {error.message}" if error.message else error.type, most)


def _entry(entry: OutboxEntry[Any]) -> str:
    kind = entry.status if entry.status in (FAILED, SENDING) else ""
    error, waits = entry.last_error, entry.replacement
    pairs: list[tuple[str, Content]] = [
        ("attempts", f"{entry.attempts:,}"),
        ("enqueued", moment(entry.enqueued_at)),
        ("item", value(preview(entry.item), PREVIEW) if previews() else None),
        ("maybe sent", _when(entry.maybe_sent_ms)),
        ("not before", _when(entry.next_attempt_ms)),
        ("last error", joined((_error(error, _WHOLE), f", {moment(error.at_ms)}")) if error else None),
        (
            "replaced by",
            f"a newer item, enqueued {moment(waits.enqueued_at)}, once the send has ended" if waits else None,
        ),
        ("other keys", value(", ".join(entry.extra), _WHOLE) if entry.extra else None),
    ]
    status = entry.status if isinstance(entry.status, str) else preview(entry.status, _STATUS)
    return drawn(joined(("Entry ", value(entry.id, _WHOLE))), [(cut(status, _STATUS), kind)], facts(pairs))


def _when(at_ms: int | None) -> str:
    return "" if at_ms is None else moment(at_ms)


def _result(result: DrainResult) -> str:
    ended = result.stopped == "finished"
    chips = [(f"{result.sent:,} sent", "fine" if result.sent else "")]
    chips += [(f"{result.failed:,} failed", FAILED)] if result.failed else []
    chips += [(f"{result.left:,} left", "")] if result.left else []
    return drawn(
        "Drain", chips, facts(_of_result(result)), None if ended or result.left else tag("p", "Nothing is left.")
    )


def _of_result(result: DrainResult) -> Iterator[tuple[str, Content]]:
    if result.stopped != "finished":
        yield "stopped", f"{result.stopped}: {_STOPPED.get(result.stopped, '')}".removesuffix(": ")
    yield "reason", value(result.reason, _WHOLE) if result.reason else None
    yield "asked to wait", "" if result.retry_after is None else duration(result.retry_after)
    yield "passed over", f"{counted(result.waiting, 'entry', 'entries')} not due yet" if result.waiting else ""
    yield "next is due", _when(result.next_attempt_ms)
    yield "changed meanwhile", f"{result.superseded:,}" if result.superseded else ""


def _draining(draining: KeepDraining) -> str:
    state = draining.state
    chips: list[tuple[str, str]] = [
        (state.name, SENDING if state.name == "draining" else FAILED if state.name == "paused" else "")
    ]
    chips += [(f"{draining.sent:,} sent", "fine" if draining.sent else "")]
    chips += [(f"{draining.failed:,} failed", FAILED)] if draining.failed else []
    pairs: list[tuple[str, Content]] = [
        ("because", value(state.reason, _WHOLE) if state.reason else None),
        ("goes on", _when(state.until_ms)),
        ("last pass", cut(repr(state.result), _WHOLE) if state.result else None),
    ]
    return drawn("Keeps draining", chips, facts(pairs))


def _explanation(told: Explanation) -> str:
    kind = told.situation if told.situation in (FAILED, SENDING) else "fine" if told.situation == "sent" else ""
    said = tag("p", value(told.id, _ID), f" {cut(told.reason, 2 * _WHOLE)}")
    return drawn("Why it is not sent", [(told.situation, kind)], said)


def _history(events: History) -> str:
    heads = [("when", "short"), ("what", "short"), ("more", "")]
    rows = ([moment(one.at_ms), one.event, _detail(one.detail)] for one in events[:_WHOLE])
    return drawn("History", (), table(counted(len(events), "event", "events"), heads, rows))


def _detail(detail: Any) -> Html | None:
    if detail in ("", None):
        return None
    if isinstance(detail, str):
        return value(detail, _WHOLE)
    return value(preview(detail), PREVIEW) if previews() else tag("span", "a receipt", class_="soft")


def _report(report: Report) -> str:
    odd = report.surprises
    chips = [("as listed", "fine")] if report.ok else [(f"{len(odd):,} not as listed", FAILED)]
    asked = [(f"{hello.name} {hello.version}", report.counts(hello.name)) for hello in report.hellos]
    heads = [("program", ""), *((verdict, "short number") for verdict in asked[0][1])] if asked else []
    rows = (
        [value(name, _ID), *(f"{number:,}" if number else "–" for number in found.values())] for name, found in asked
    )
    randomly = len(report.pairs) + len(report.schedules)
    pairs: list[tuple[str, Content]] = [
        ("random runs", counted(randomly, "kind", "kinds") if randomly else ""),
        ("seed", str(report.seed)),
        ("runner", cut(report.version, _ID)),
        ("started", report.started.strftime("%Y-%m-%d %H:%M:%S %Z")),
        ("took", duration(report.seconds)),
    ]
    wrong = [f"{' + '.join(one.drivers)}: {one.subject.id}: {one.surprise}" for one in odd]
    cases = table("Cases by verdict", heads, rows) if heads else None
    return drawn("Conformance", chips, facts(pairs), cases, alarm(wrong, 5), alarm(report.notes))


def _enqueued(done: Enqueued) -> str:
    chips = [(f"{len(done.added):,} added", "fine" if done.added else "")]
    chips += [(f"{len(done.known):,} known already", "")] if done.known else []
    chips += [(f"{done.repeated:,} repeated", "")] if done.repeated else []
    chips += [(f"{len({bad.number for bad in done.skipped}):,} left out", FAILED)] if done.skipped else []
    return drawn("Frame enqueued", chips, alarm(done.skipped))


def _requeued(done: Requeued) -> str:
    chips = [(f"{len(done.requeued):,} queued again", "fine" if done.requeued else "")]
    chips += [(f"{len(done.not_parked):,} not parked any more", "")] if done.not_parked else []
    chips += [(f"{len({bad.number for bad in done.skipped}):,} left out", FAILED)] if done.skipped else []
    known = facts([("not parked", value(", ".join(done.not_parked[:ROWS]), _WHOLE) if done.not_parked else None)])
    return drawn("Frame queued again", chips, known, alarm(done.skipped))


_CARDS: Final[dict[str, Callable[[Any], str]]] = {
    "OutboxQueue": _queue,
    "QueueStatus": _status,
    "OutboxEntry": _entry,
    "DrainResult": _result,
    "KeepDraining": _draining,
    "Explanation": _explanation,
    "History": _history,
    "Report": _report,
    "Enqueued": _enqueued,
    "Requeued": _requeued,
}
"""By the names of the classes, so that none of them is imported to draw another."""
