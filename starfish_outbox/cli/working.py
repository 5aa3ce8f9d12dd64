"""``retry``: it opens the queue, and changes it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from starfish_outbox import transitions
from starfish_outbox.caches.base import Update
from starfish_outbox.cli import exits
from starfish_outbox.cli.frame import IdentityOption, JsonOption, KeyOption, NoColorOption, StoreOption, command
from starfish_outbox.cli.output import Screen
from starfish_outbox.cli.stores import Place, RefusedError, quoted, store_at, to_change
from starfish_outbox.cli.transfer import opened
from starfish_outbox.entry import FAILED, SENDING
from starfish_outbox.showing import counted

_MOST = 20


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "retry")(retry)


def retry(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Which entries.", show_default=False)
    ] = None,
    *,
    all_failed: Annotated[bool, typer.Option("--all-failed", help="Every failed entry instead.")] = False,
    reset_attempts: Annotated[
        bool, typer.Option("--reset-attempts", help="Count their attempts from 0 again; they are kept otherwise.")
    ] = False,
    store: StoreOption = None,
    identity: IdentityOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Put failed entries back into the queue, all in one commit."""
    screen = Screen(as_json=as_json, no_color=no_color)
    if bool(ids) == all_failed:
        raise RefusedError(
            "name the entries, or give --all-failed" if not ids else "either ids or --all-failed, not both"
        )
    place = to_change(store_at(store), identity, key)
    done = asyncio.run(_retry(place, list(dict.fromkeys(ids or [])), reset_attempts=reset_attempts))
    screen.say(f"{counted(len(done['retried']), 'entry', 'entries')} queued again: {place}")
    for name, words in (("already", "queued already"), ("sending", "being sent"), ("unknown", "no such entry")):
        if done[name]:
            shown = ", ".join(map(quoted, done[name][:_MOST])) + (", …" if len(done[name]) > _MOST else "")
            screen.note(f"{words}: {shown}", "yellow")
    screen.emit({"store": str(place.store.path), "kind": place.store.kind, "key": place.key, **done})
    return exits.LEFT if done["sending"] or done["unknown"] else exits.DONE


async def _retry(place: Place, ids: list[str], *, reset_attempts: bool) -> dict[str, list[str]]:
    """Which ids were put back, and which not for which reason; without ids, every failed entry."""
    done: dict[str, list[str]] = {"retried": [], "already": [], "sending": [], "unknown": []}
    async with opened(place) as queue:
        await queue.refresh()
        binding = await queue.bound_or_none()
        if binding is None:
            raise RefusedError(f"{place}: it was closed meanwhile")
        if ids:
            found = [(id, binding.state.first(id)) for id in ids]
        else:
            found = [(e.id, e) for e in binding.state if e.id is not None and e.status == FAILED]
        done["unknown"] = [id for id, entry in found if entry is None]
        chosen = [(id, entry.seq) for id, entry in found if entry is not None]
        step = transitions.retry(reset_attempts=reset_attempts)
        outcomes = await asyncio.shield(binding.apply([Update(step, seq=seq) for _, seq in chosen])) if chosen else []
    for (id, _), outcome in zip(chosen, outcomes, strict=True):
        if outcome.applied:
            done["retried"].append(id)
        elif outcome.entry is None:
            done["unknown"].append(id)  # removed meanwhile
        else:
            done["sending" if outcome.entry.status == SENDING else "already"].append(id)
    return done
