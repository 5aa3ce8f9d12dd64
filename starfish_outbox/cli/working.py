"""``retry`` and ``drain``: they open the queue, and change it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from starfish_outbox import transitions
from starfish_outbox.caches.base import Update
from starfish_outbox.cli import exits
from starfish_outbox.cli.frame import IdentityOption, JsonOption, KeyOption, NoColorOption, StoreOption, command
from starfish_outbox.cli.output import Screen, ago, counted, printable
from starfish_outbox.cli.stores import Place, RefusedError, quoted, store_at, to_change
from starfish_outbox.cli.transfer import opened
from starfish_outbox.drain import DrainProgress, DrainResult, drain_outbox
from starfish_outbox.entry import FAILED, SENDING
from starfish_outbox.queue import OutboxQueue
from starfish_outbox.senders.http import HttpSender, http_post
from starfish_outbox.state import Counts

_MOST = 20


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    command(app, "retry")(retry)
    command(app, "drain")(drain)


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


def drain(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="Where to post each item.", show_default=False)],
    *,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            metavar="K:V",
            help="A header for every request, such as a token; @FILE reads one a line, out of sight of other users. "
            "May be repeated.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Entries to take at most.")] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="Seconds to wait for each answer.")
    ] = 30.0,
    max_attempts: Annotated[
        int,
        typer.Option(
            "--max-attempts", metavar="N", min=1, help="Failed attempts after which an entry is parked as failed."
        ),
    ] = 5,
    store: StoreOption = None,
    identity: IdentityOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Send what is queued to an HTTP endpoint: one POST an entry, its item as JSON, its id as Idempotency-Key.

    One pass, oldest first. An endpoint that is out of reach or busy, or that wants other credentials, ends the pass and
    costs no attempt; an answer that refuses an entry parks it as failed. Ctrl-C puts the entry that is on its way back,
    marked as maybe sent.
    """
    screen = Screen(as_json=as_json, no_color=no_color)
    place = to_change(store_at(store), identity, key)
    try:
        sender = http_post(to, headers=_headers(header or []), timeout=timeout)
    except (ValueError, ImportError) as error:
        raise RefusedError(str(error)) from error
    run = _Run(screen, place, sender)
    asyncio.run(run.run(limit=limit, timeout=timeout, max_attempts=max_attempts))
    return run.tell(to)


class _Run:
    """One pass, with its picture."""

    def __init__(self, screen: Screen, place: Place, sender: HttpSender) -> None:
        self._screen = screen
        self._place = place
        self._sender = sender
        self._result = DrainResult(0, 0)
        self._interrupted = False
        self._counts = Counts()

    async def run(self, *, limit: int | None, timeout: float, max_attempts: int) -> None:
        """Drain; an interruption ends it in good order."""
        async with opened(self._place) as queue, self._sender:
            hidden = self._screen.as_json or not self._screen.err.is_terminal
            words = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*words, console=self._screen.err, transient=True, disable=hidden) as progress:
                task = progress.add_task("sending", total=None)

                def show(state: DrainProgress) -> None:
                    self._result.sent, self._result.failed = state.sent, state.failed
                    total = state.total if limit is None else min(state.total, limit)
                    words = f"sending, {state.failed:,} failed" if state.failed else "sending"
                    progress.update(task, completed=state.done, total=total, description=words)

                try:
                    self._result = await drain_outbox(
                        queue, self._sender, max_attempts=max_attempts, limit=limit, timeout=timeout, on_progress=show
                    )
                except asyncio.CancelledError:  # Ctrl-C: by now the entry that was on its way is put back
                    self._interrupted = True
            self._counts = await _counts(queue)

    def tell(self, to: str) -> int:
        """Say what happened; the exit code."""
        result, counts, say = self._result, self._counts, self._screen.say
        say(f"{result.sent:,} sent, {result.failed:,} failed, {counts.total:,} left: {self._place}")
        if self._interrupted:
            self._screen.note(
                "interrupted; an entry that was on its way is queued again, marked as maybe sent", "yellow"
            )
        elif result.stopped != "finished":
            self._screen.note(f"stopped ({result.stopped}): {printable(result.reason)}", "yellow")
        if result.retry_after is not None:
            self._screen.note(f"the server asks to wait {ago(1, 1 + int(result.retry_after * 1000))}", "yellow")
        if result.superseded:
            self._screen.note(f"{result.superseded:,} sent, but changed here meanwhile: nothing was recorded of them")
        if counts.failed:
            self._screen.note(
                f"{counts.failed:,} failed: `list --status failed` says why, `retry` puts them back", "red"
            )
        self._screen.emit(
            {
                "store": str(self._place.store.path),
                "kind": self._place.store.kind,
                "key": self._place.key,
                "to": urlunsplit((*urlsplit(to)[:3], "", "")),
                "sent": result.sent,
                "failed": result.failed,
                "superseded": result.superseded,
                "stopped": "interrupted" if self._interrupted else result.stopped,
                "reason": result.reason,
                "retryAfter": result.retry_after,
                "left": counts._asdict(),
            }
        )
        if self._interrupted:
            return exits.INTERRUPTED
        return exits.LEFT if counts.total else exits.DONE


async def _counts(queue: OutboxQueue[Any]) -> Counts:
    await queue.refresh()
    return queue.counts()


def _headers(given: list[str]) -> dict[str, str]:
    """The headers that were given, those in files included.

    Raises:
        RefusedError: one has no colon; the message does not repeat it, since it may be a secret.
    """
    lines = []
    for one in given:
        if one.startswith("@"):
            lines += [line for line in Path(one[1:]).expanduser().read_text("utf-8").splitlines() if line.strip()]
        else:
            lines.append(one)
    headers = {}
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        if not colon:
            raise RefusedError(f"header {number} has no colon: it is to be like 'Authorization: Bearer …'")
        headers[name.strip()] = value.strip()
    return headers
