"""Where ``drain`` and ``watch`` send to: the endpoint with its headers, batches, lanes, whether it is within reach."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Hashable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies

from starfish_outbox.cli.stores import RefusedError
from starfish_outbox.drain import Lane, Probe
from starfish_outbox.entry import QUEUED, OutboxEntry
from starfish_outbox.errors import AuthNeededError, BusyError, OfflineError, SendError, UnackedError
from starfish_outbox.jsontext import encode_foreign
from starfish_outbox.senders.http import HttpSender, http_post

_NOT_NOW: Final = (OfflineError, BusyError, AuthNeededError)
"""What is about the endpoint, and holds for all that it would be asked next."""


class Target:
    """A ``send`` that posts to one URL; ``async with`` gives its connections back.

    Args:
        to: the URL.
        headers: as on the command line: ``name: value``, or ``@FILE`` with one a line.
        timeout: seconds for each step of a request.

    Raises:
        RefusedError: nothing could be sent there, or with these headers.
        OSError: a file of headers cannot be read.
    """

    def __init__(self, to: str, headers: Sequence[str], timeout: float) -> None:
        self._to = to
        self._headers = headers
        self._timeout = timeout
        self._send = self._made()

    def __str__(self) -> str:
        """The URL without its query, which may hold a token."""
        return urlunsplit((*urlsplit(self._to)[:3], "", ""))

    async def __call__(self, entry: OutboxEntry[Any]) -> object:
        """See `HttpSender`."""
        return await self._send(entry)

    async def many(self, entries: list[OutboxEntry[Any]]) -> list[object]:
        """Posts entries as one array of ``{"id": …, "item": …}``; what became of each of them.

        An array that the server refuses or fails at is halved, so that only what it cannot take is held against it.
        """
        try:
            await self._send(_as_one(entries))
        except (*_NOT_NOW, UnackedError) as error:
            return [error] * len(entries)
        except SendError as error:
            if len(entries) == 1:
                return [error]
        else:
            return [None] * len(entries)
        half = len(entries) // 2
        answers = await self.many(entries[:half])
        if isinstance(answers[-1], _NOT_NOW):
            return answers + answers[-1:] * (len(entries) - half)
        return answers + await self.many(entries[half:])

    async def __aenter__(self) -> Self:
        """The target itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the connections back."""
        await self._send.aclose()

    @property
    def host(self) -> str:
        """Host and port, as they stand in the URL."""
        return urlsplit(self._to).netloc

    async def read_headers_again(self) -> None:
        """Send with what the files of headers hold by now.

        Raises:
            RefusedError, OSError: as at first; the headers stay as they were.
        """
        before, self._send = self._send, self._made()
        await before.aclose()

    def probe(self) -> Probe | None:
        """Connects to host and port and hangs up; None where a proxy stands between, through which only requests go."""
        parts = urlsplit(self._to)
        if {parts.scheme, "all"} & getproxies().keys():
            return None
        port = parts.port or (443 if parts.scheme == "https" else 80)

        async def connect() -> None:
            _, writer = await asyncio.open_connection(parts.hostname, port, happy_eyeballs_delay=0.25)
            writer.close()
            with suppress(OSError):  # somebody answered: how they hang up is all the same
                await writer.wait_closed()

        return connect

    def _made(self) -> HttpSender:
        try:
            return http_post(self._to, headers=_read(self._headers), timeout=self._timeout)
        except (ValueError, ImportError) as error:
            raise RefusedError(str(error)) from error


def lane_of(member: str) -> Lane:
    """The lane that a member of the item names: entries in which it says the same follow one another.

    Args:
        member: its name, or a JSON Pointer (RFC 6901) such as ``/place/site``.
    """
    names = [part.replace("~1", "/").replace("~0", "~") for part in member[1:].split("/")]
    path = names if member.startswith("/") else [member]

    def lane(entry: OutboxEntry[Any]) -> Hashable:
        value = entry.item
        for name in path:
            if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            elif isinstance(value, dict) and name in value:
                value = value[name]
            else:
                return None  # all that have no such member follow one another too
        return encode_foreign(value)  # 1, "1" and true are three lanes, and lists are as good as any

    return lane


def _as_one(entries: Sequence[OutboxEntry[Any]]) -> OutboxEntry[Any]:
    """Entries as a single one to post; the same ones under the same idempotency key when they are asked for again."""
    items = [{"id": entry.id, "item": entry.item} for entry in entries]
    key = hashlib.sha256(encode_foreign(items).encode()).hexdigest()
    maybe_sent = [entry.maybe_sent_ms for entry in entries if entry.maybe_sent_ms is not None]
    first = entries[0].enqueued_at
    return OutboxEntry(key, items, QUEUED, 0, first, maybe_sent_ms=max(maybe_sent, default=None))


def _read(given: Sequence[str]) -> dict[str, str]:
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
