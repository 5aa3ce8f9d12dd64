"""``export`` and ``import``: copies between databases, directories of files and the JSON file that TypeScript reads."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from starfish_outbox.caches.peek import Look
from starfish_outbox.caches.peek_text import key_of_file
from starfish_outbox.cli import exits
from starfish_outbox.cli.frame import IdentityOption, JsonOption, KeyOption, NoColorOption, StoreOption, command
from starfish_outbox.cli.output import Screen, write
from starfish_outbox.cli.stores import Place, RefusedError, Store, existing, key_for, named, store_at
from starfish_outbox.cli.transfer import (
    Copied,
    copies_of,
    foresee,
    insert,
    move_aside,
    owned,
    stored_text,
    write_new,
)
from starfish_outbox.showing import counted, printable

_MOST = 20

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only count what would be done; change nothing.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    command(app, "export")(export)
    command(app, "import")(import_entries)


def export(
    to: Annotated[
        str,
        typer.Argument(
            metavar="TO",
            help="A .json file, which TypeScript reads as it is; a database or a directory; or - for standard output.",
            show_default=False,
        ),
    ],
    *,
    store: StoreOption = None,
    identity: IdentityOption = None,
    key: KeyOption = None,
    to_identity: Annotated[
        str | None, typer.Option("--to-identity", metavar="NAME", help="Whose queue to copy into; the same by default.")
    ] = None,
    to_key: Annotated[str | None, typer.Option("--to-key", metavar="KEY", help="Its key; the same by default.")] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Copy a queue into another store. The queue itself is only looked at, and may be in use.

    Order, statuses, attempts and unknown keys are kept. Where the target exists already, ids that are there are left
    alone. An entry that is just being sent is queued in the copy, marked as maybe sent.
    """
    screen = Screen(as_json=as_json, no_color=no_color)
    source, peek = existing(store_at(store), identity, key)
    look = peek.look(source.key)
    if to == "-":
        if as_json or dry_run:
            raise RefusedError("standard output takes the entries themselves: leave --json and --dry-run out")
        entries, copied = copies_of(look)
        write(stored_text(entries) + "\n")
        copied.taken = len(entries)
        return _tell(screen, "exported", source, None, copied, dry_run=False)
    target_store = store_at(to)
    wanted = key_for(target_store, to_identity, to_key)
    target = Place(
        target_store, wanted or (key_of_file(target_store.path) if target_store.kind == "file" else source.key)
    )
    if target_store.kind == "file" and not target_store.exists:
        entries, copied = copies_of(look)
        copied.taken = len(entries)
        text = stored_text(entries)
        if not dry_run:
            write_new(target_store.path, text)
    else:
        copied = asyncio.run(_copy(look, source, target, dry_run=dry_run))
    return _tell(screen, "exported", source, target, copied, dry_run=dry_run)


def import_entries(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FROM",
            help="A cache file of the published packages, of any name; or a database, or a directory.",
            show_default=False,
        ),
    ],
    *,
    from_identity: Annotated[
        str | None,
        typer.Option("--from-identity", metavar="NAME", help="Whose queue to copy, where FROM holds several."),
    ] = None,
    from_key: Annotated[
        str | None, typer.Option("--from-key", metavar="KEY", help="Its key, where FROM holds several.")
    ] = None,
    store: StoreOption = None,
    identity: IdentityOption = None,
    key: KeyOption = None,
    dry_run: DryRunOption = False,
    move: Annotated[
        bool,
        typer.Option(
            "--move", help="Afterwards rename the file FROM to FROM.imported, so that nobody sends its entries again."
        ),
    ] = False,
    as_json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Copy the entries of a file or of another store into a queue, which is named by --identity or --key.

    Order, statuses, attempts and unknown keys are kept; ids that are there already, or were delivered before, are left
    alone; everything new is durable before it is reported. FROM is not changed, unless --move is given.
    """
    screen = Screen(as_json=as_json, no_color=no_color)
    place, peek = existing(store_at(source), from_identity, from_key)
    target = named(store_at(store), identity, key, suggestion=place.key)
    if not move:
        copied = asyncio.run(_copy(peek.look(place.key), place, target, dry_run=dry_run))
        return _tell(screen, "imported", place, target, copied, dry_run=dry_run)
    if dry_run:
        raise RefusedError("--dry-run changes nothing: leave --move out")
    copied, moved = asyncio.run(_move(place, target))
    return _tell(screen, "imported", place, target, copied, dry_run=False, moved=moved)


async def _copy(look: Look, source: Place, target: Place, *, dry_run: bool) -> Copied:
    if source.store.path == target.store.path and source.key == target.key:
        raise RefusedError(f"{source} is both the source and the target")
    entries, copied = copies_of(look)
    if dry_run:
        foresee(target, target.store.peek() if target.store.exists else None, entries, copied)
    else:
        await insert(target, entries, copied)
    return copied


async def _move(source: Place, target: Place) -> tuple[Copied, str | None]:
    async with owned(source) as (cache, look):
        copied = await _copy(look, source, target, dry_run=False)
        if copied.left:
            return copied, None
        moved = await move_aside(cache, source.key)
        if moved is None:
            copied.left.append(f"{cache.path(source.key)} was written meanwhile: not moved; import it again")
        return copied, None if moved is None else str(moved)


def _tell(
    screen: Screen,
    done: str,
    source: Place,
    target: Place | None,
    copied: Copied,
    *,
    dry_run: bool,
    moved: str | None = None,
) -> int:
    where = "standard output" if target is None else str(target)
    verb = f"would be {done}" if dry_run else done
    say = screen.note if target is None else screen.say  # standard output holds the entries
    say(f"{counted(copied.taken, 'entry', 'entries')} {verb}: {source} → {where}")
    if copied.there:
        say(f"{copied.there:,} left alone: the id is there already")
    if copied.sent:
        say(f"{copied.sent:,} left alone: delivered before, says the ledger")
    if moved is not None:
        say(f"the file is now {moved}")
    for title, lines in (("note", copied.notes), ("left behind", copied.left)):
        for line in lines[:_MOST]:
            screen.note(f"{title}: {printable(line)}", "yellow")
        if len(lines) > _MOST:
            screen.note(f"{title}: … and {len(lines) - _MOST:,} more", "yellow")
    screen.emit(
        {
            "from": _named(source),
            "to": None if target is None else _named(target),
            "dryRun": dry_run,
            "taken": copied.taken,
            "there": copied.there,
            "sent": copied.sent,
            "left": copied.left,
            "notes": copied.notes,
            "moved": moved,
        }
    )
    return exits.LEFT if copied.left else exits.DONE


def _named(place: Place) -> dict[str, Any]:
    store: Store = place.store
    return {"store": str(store.path), "kind": store.kind, "key": place.key}
