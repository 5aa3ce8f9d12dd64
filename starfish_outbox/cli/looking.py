"""``list``, ``show`` and ``status``: they look, take no lock and change nothing."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from starfish_outbox.caches.base import wall_clock_ms
from starfish_outbox.caches.peek import Peek
from starfish_outbox.cli import exits
from starfish_outbox.cli.frame import IdentityOption, JsonOption, KeyOption, NoColorOption, StoreOption, command
from starfish_outbox.cli.output import Screen, moment, pretty
from starfish_outbox.cli.stores import Place, RefusedError, existing, quoted, store_at
from starfish_outbox.entry import FAILED, QUEUED, SENDING, StoredEntry
from starfish_outbox.jsontext import decode, encode_foreign
from starfish_outbox.knowing import Explanation, Happened, explained, happened, held
from starfish_outbox.showing import ago, counted, printable, size
from starfish_outbox.state import State, size_of

_STYLES = {QUEUED: "", SENDING: "cyan", FAILED: "red"}
_NO_ID = "(id is no text)"
_GONE = "was being sent by a process that is gone; it is queued again at the next opening"
_MOST_STUCK = 20
_WHY = 30  # characters of the last error beside an item


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    command(app, "list")(list_entries)
    command(app, "show")(show)
    command(app, "status")(status)


def list_entries(
    *,
    store: StoreOption = None,
    identity: IdentityOption = None,
    key: KeyOption = None,
    only: Annotated[
        str | None,
        typer.Option("--status", metavar="STATUS", help="Only these: queued, sending, failed, or other for the rest."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="Entries to show at most; 0 for all.")] = 50,
    offset: Annotated[
        int, typer.Option("--offset", metavar="N", min=0, help="Entries to leave out before the first.")
    ] = 0,
    items: Annotated[bool, typer.Option("--items", help="Show the items too; they may be private.")] = False,
    as_json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """The entries that wait, oldest first.

    Takes no lock and changes nothing; a live queue is not disturbed. Without --items no item is shown.
    """
    screen = Screen(as_json=as_json, no_color=no_color)
    if only not in (None, QUEUED, SENDING, FAILED, "other"):
        raise RefusedError(f"--status is queued, sending, failed, or other for the rest, not {quoted(only)}")
    place, peek = existing(store_at(store), identity, key)
    look = peek.page(place.key, status=only, offset=offset, limit=limit or None)
    now_ms = wall_clock_ms()
    names = ["id", "status", "attempts", "age", "size", "last error", *(["item"] if items else [])]
    lines = [_cells(peek, place.key, entry, now_ms, items=items) for entry in look.entries]
    if lines:
        screen.listing(names, lines, ("attempts", "age", "size"))
        screen.say()
    what = "entry" if only is None else f"{only} entry"
    many = "entries" if only is None else f"{only} entries"
    shown = "" if len(look.entries) == look.total else f"{len(look.entries):,} of "
    screen.say(f"{shown}{counted(look.total, what, many)}: {place}", "dim")
    rest = look.total - offset - len(look.entries)
    if rest > 0:
        screen.say(f"{rest:,} more; go on with --offset {offset + len(look.entries)}, or --limit 0 for all", "dim")
    for reason in look.unread:
        screen.note(f"note: {printable(reason)}; it is not in the list")
    screen.emit(
        {
            **_head(place),
            "total": look.total,
            "offset": offset,
            "entries": [_fields(peek, place.key, entry, items=items) for entry in look.entries],
            "unread": list(look.unread),
        }
    )
    return exits.DONE


def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The entry's id.", show_default=False)],
    *,
    store: StoreOption = None,
    identity: IdentityOption = None,
    key: KeyOption = None,
    item: Annotated[bool, typer.Option("--item/--no-item", help="Show the item; it may be private.")] = True,
    as_json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """One entry with everything that is known of it: why it is not sent, what happened to it, and its item.

    Of an entry that was delivered, a database tells when, and what the server answered where receipts are kept. Takes
    no lock and changes nothing.
    """
    screen = Screen(as_json=as_json, no_color=no_color)
    place, peek = existing(store_at(store), identity, key)
    found = peek.find(place.key, id)
    why, events = _known(peek, place.key, id, found)
    for entry in found:
        screen.pairs(_described(peek, place.key, entry, wall_clock_ms()))
        for name, text in entry.extra:
            screen.say(f"{printable(name)}  {pretty(decode(text))}")
        if item:
            screen.say("item", "bold")
            screen.say(pretty(decode(entry.item)))
            if entry.replacement is not None:
                screen.say("newer item", "bold")
                screen.say(pretty(decode(entry.replacement.item)))
        screen.say()
    if not found:
        gone = "not in the queue any more" if events else "no entry"
        screen.note(f"{gone}: {quoted(id)} ({place})", "red")
    elif len(found) > 1:
        screen.note(f"note: {len(found)} entries share this id; what is asked by id acts on the first")
    if found or events:
        screen.say(str(why))
    for event in events:
        screen.say(f"  {moment(event.at_ms)}  {event.event}{_detail(event)}")
    screen.emit(
        {
            **_head(place),
            "entries": [
                {
                    **_fields(peek, place.key, entry, items=item),
                    "extra": {name: decode(text) for name, text in entry.extra},
                }
                for entry in found
            ],
            "situation": why.situation,
            "reason": why.reason,
            "history": [{"at": event.at_ms, "event": event.event, "detail": event.detail} for event in events],
        }
    )
    return exits.DONE if found else exits.LEFT


def status(
    *,
    store: StoreOption = None,
    identity: IdentityOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """How many entries wait, where they lie, how safe they are there, and what needs a person.

    Takes no lock and changes nothing.
    """
    screen = Screen(as_json=as_json, no_color=no_color)
    place, peek = existing(store_at(store), identity, key)
    look = peek.look(place.key)
    state = State(look.entries)
    counts = state.counts()
    oldest = look.entries[0].enqueued_at if look.entries else None
    now_ms = wall_clock_ms()
    owners, aside = peek.owners(place.key), peek.set_aside(place.key)
    stuck = [why for entry in look.entries if (why := _stuck(peek, place.key, entry))]
    unread = ([f"the text is no JSON array: {look.damage}"] if look.damage else []) + [*look.notes, *look.unread]

    named = {QUEUED: counts.queued, SENDING: counts.sending, FAILED: counts.failed, "other": counts.other}
    rows: list[tuple[str, Text | str]] = [("queue", str(place))]
    for name, number in named.items():
        if number or name != "other":
            rows.append((name, Text(f"{number:,}", _STYLES.get(name, "") if number else "")))
    rows.append(("items", size(state.bytes)))
    if oldest is not None:
        rows.append(("oldest", f"{moment(oldest)}, {ago(oldest, now_ms)} ago"))
    rows += [("durability", peek.durability), ("open in", ", ".join(map(printable, owners)) or "no process")]
    screen.pairs(rows)
    for title, lines in (("set aside", aside), ("unread", unread), ("stuck", stuck), ("note", peek.notes)):
        if lines:
            screen.say()
            screen.say(title, "bold yellow")
            for line in lines[:_MOST_STUCK]:
                screen.say(f"  {printable(line)}")
            if len(lines) > _MOST_STUCK:
                screen.say(f"  … and {len(lines) - _MOST_STUCK:,} more")
    screen.emit(
        {
            **_head(place),
            **named,
            "total": counts.total,
            "bytes": state.bytes,
            "oldest": oldest,
            "durability": peek.durability,
            "owners": owners,
            "setAside": aside,
            "unread": unread,
            "stuck": stuck,
            "notes": list(peek.notes),
        }
    )
    return exits.DONE


def _head(place: Place) -> dict[str, Any]:
    return {"store": str(place.store.path), "kind": place.store.kind, "key": place.key}


def _fields(peek: Peek, key: str, entry: StoredEntry, *, items: bool) -> dict[str, Any]:
    """An entry for programs: the names of the stored form, all of them always there."""
    error = entry.last_error
    fields: dict[str, Any] = {
        "id": entry.id,
        "status": entry.status,
        "attempts": entry.attempts,
        "enqueuedAt": entry.enqueued_at,
        "size": size_of(entry.item),
        "claimed": peek.claimed(key, entry) or None,
        "maybeSent": entry.maybe_sent_ms,
        "nextAttemptAt": entry.next_attempt_ms,
        "lastError": None if error is None else {"type": error.type, "message": error.message, "at": error.at_ms},
    }
    if items:
        fields["item"] = decode(entry.item)
    newer = entry.replacement
    fields["replacement"] = newer and {
        "enqueuedAt": newer.enqueued_at,
        "size": size_of(newer.item),
        **({"item": decode(newer.item)} if items else {}),
    }
    return fields


def _known(peek: Peek, key: str, id: str, found: list[StoredEntry]) -> tuple[Explanation, list[Happened]]:
    """Why an entry is not sent, and what happened under its id."""
    entry, sent, now_ms = found[0] if found else None, peek.delivery(key, id), wall_clock_ms()
    # What a server asked of all is kept with another entry: only there is everything looked at.
    wait = held(peek.look(key).entries, now_ms) if entry is not None and entry.status == QUEUED else 0.0
    why, events = explained(id, entry, sent, "", now_ms, wait), list(happened(entry, sent, ""))
    if entry is not None and peek.claimed(key, entry) == "gone":
        why = why._replace(reason=f"{_GONE}.")
        events = [one._replace(detail=_GONE) if one.event == "claimed" else one for one in events]
    return why, events


def _detail(event: Happened) -> str:
    """More about it, in one line: words, or what a server answered."""
    if event.detail in ("", None):
        return ""
    return f": {printable(event.detail if isinstance(event.detail, str) else encode_foreign(event.detail))}"


def _cells(peek: Peek, key: str, entry: StoredEntry, now_ms: int, *, items: bool) -> list[Text]:
    words, style = _status(peek, key, entry)
    error = entry.last_error
    why = "" if error is None else f"{error.type}: {error.message}" if error.message else error.type
    cells = [
        Text(_NO_ID if entry.id is None else printable(entry.id)),
        Text(words, style),
        Text(str(entry.attempts)),
        Text(ago(entry.enqueued_at, now_ms)),
        Text(size(size_of(entry.item))),
        Text(printable(why[:_WHY] if items else why)),
    ]
    return [*cells, Text(printable(entry.item))] if items else cells


def _status(peek: Peek, key: str, entry: StoredEntry) -> tuple[str, str]:
    """The status in words, and a style for it."""
    name = entry.status if isinstance(entry.status, str) else "(no text)"
    words = [printable(name)]
    if peek.claimed(key, entry) == "gone":
        words.append("its process is gone")
    if entry.maybe_sent_ms is not None:
        words.append("maybe sent")
    if entry.replacement is not None:
        words.append("a newer item waits")
    return ", ".join(words), _STYLES.get(name, "yellow")


def _described(peek: Peek, key: str, entry: StoredEntry, now_ms: int) -> list[tuple[str, Text | str]]:
    at, error = entry.enqueued_at, entry.last_error
    lines: list[tuple[str, Text | str]] = [
        ("id", _NO_ID if entry.id is None else printable(entry.id)),
        ("status", _status(peek, key, entry)[0]),
        ("attempts", str(entry.attempts)),
        ("enqueued", f"{moment(at)}, {ago(at, now_ms)} ago"),
        ("size", size(size_of(entry.item))),
    ]
    if entry.maybe_sent_ms is not None:
        lines.append(("maybe sent since", moment(entry.maybe_sent_ms)))
    if entry.next_attempt_ms is not None:
        lines.append(("not before", moment(entry.next_attempt_ms)))
    if entry.replacement is not None:
        at, length = entry.replacement.enqueued_at, size(size_of(entry.replacement.item))
        lines.append(("newer item", f"{moment(at)}, {ago(at, now_ms)} ago, {length}: it takes the place of this one"))
    if error is not None:
        lines.append(("last error", printable(f"{error.type}: {error.message}")))
        lines.append(("", moment(error.at_ms)))
    return lines


def _stuck(peek: Peek, key: str, entry: StoredEntry) -> str | None:
    """Why no drain sends this entry, or None; one whose process is gone goes back when the queue is opened next."""
    if entry.id is None:
        return "an entry whose id is no text: kept, never sent; another program wrote it"
    if entry.status == SENDING:
        if peek.claimed(key, entry) == "gone":
            return f"{quoted(entry.id)} {_GONE}"
        bare = entry.claim is not None and entry.claim.kind == "bare"
        return f"{quoted(entry.id)} is claimed by claim(), not by a drain" if bare else None
    if entry.status in (QUEUED, FAILED):
        return None
    return f"{quoted(entry.id)} has the unknown status {encode_foreign(entry.status)}: never sent; retry puts it back"
