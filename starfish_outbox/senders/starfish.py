"""``starfish_push`` and ``starfish_append``: entries through the client of Starfish's Python SDK.

The client is the caller's and is only called, never imported: anything with the SDK's ``push``, ``append`` and ``pull``
will do. What its answers mean for an entry stands in `starfish_client`.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import inspect
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from starfish_outbox.backoff import Backoff
from starfish_outbox.errors import BusyError, ConflictError, RejectedError
from starfish_outbox.senders.starfish_client import (
    DROPPED,
    Body,
    Document,
    Path,
    asked,
    canonical,
    checked,
    checked_path,
    document_of,
    equal,
    hash_of_the_protocol,
    path_for,
    plain,
    pull_path,
    receipt_of,
)

if TYPE_CHECKING:
    from starfish_outbox.entry import OutboxEntry

Merge: TypeAlias = Callable[[Document, Document], Document]
"""From what the server has and the item to what it shall have. The same twice must change nothing the second time."""

_BETWEEN_TRIES: Final = Backoff(base=0.05, cap=0.8, longest=0.8)

log: Final = logging.getLogger("starfish_outbox")


def starfish_push(
    client: Any,
    *,
    path: Path,
    merge: Merge | None = None,
    body: Body | None = None,
    base_hash: Callable[[OutboxEntry[Any]], str | None] | None = None,
    tries: int = 5,
) -> StarfishPush:
    """A ``send`` for `drain_outbox` that pushes each entry's item as one Starfish document, exactly once.

    ```python
    send = starfish_push(client, path="/push/observations/{id}")
    print(await drain_outbox(queue, send))
    ```

    One entry, one document is the way to have it there exactly once: the server's hash tells whether it is. Where
    many entries go into one document, an item holds what is to be added, with an id in it, and ``merge`` adds it.

    Args:
        client: a ``StarfishClient``, or anything with its ``push`` and ``pull``; it is not closed here.
        path: the push path, in which ``{id}`` stands for the entry's id; or a function from entry to path.
        merge: from the server's document (``{}`` where there is none) and the item to the new document, such as
            `union_by_id`; it is pushed if nobody changed the document meanwhile, else merged again.
        body: from entry to what to push instead of the item: a dict of JSON.
        base_hash: from entry to the hash of the version that it replaces; by default there must be none.
        tries: how often a document that others change meanwhile is merged before the server counts as busy.

    Raises:
        ValueError, TypeError: an argument cannot work for any entry.
    """
    return StarfishPush(client, path=path, merge=merge, body=body, base_hash=base_hash, tries=tries)


def starfish_append(
    client: Any,
    *,
    path: Path,
    id_field: str = "_id",
    body: Body | None = None,
    since: int = 0,
) -> StarfishAppend:
    """A ``send`` for `drain_outbox` that appends each entry's item, with its id in it, to an append-only collection.

    An append that is sent twice is there twice, so an entry that may have been sent is looked for in the log before it
    is sent again. Where nobody may look (a write-only credential, a log whose past is closed) it is sent all the same,
    and a warning says so once. Readers who drop what has an ``_id`` that they know are right in every case.

    Args:
        client: a ``StarfishClient``, or anything with its ``append`` and ``pull``; it is not closed here.
        path: the push path of the log; ``{id}`` and functions as for `starfish_push`.
        id_field: the field of the element that takes the entry's id.
        body: from entry to what to append instead of the item: a dict of JSON, the same each time.
        since: by the server's clock, in milliseconds since the Unix epoch: nothing of this outbox is in the log before.
            From here on is looked for entries that an earlier process may have sent.

    Raises:
        ValueError, TypeError: an argument cannot work for any entry.
    """
    return StarfishAppend(client, path=path, id_field=id_field, body=body, since=since)


def union_by_id(field: str, key: str) -> Merge:
    """A ``merge`` for documents that hold a list: what the server's list has not is added at its end.

    Nothing is ever overwritten: where both have an element with the same id, or another field, they must be equal.

    Args:
        field: the document's field that holds the list.
        key: the field that tells one element from another.

    Raises:
        (The merge) ConflictError: both have something under one name and it is not the same.
        (The merge) RejectedError: the item's list is no list of dicts with that key.
    """

    def merge(remote: Document, mine: Document) -> Document:
        there = remote.get(field, [])
        if not isinstance(there, list):
            raise ConflictError(f"the server's {field!r} is no list")
        known = {canonical(element[key]): element for element in there if isinstance(element, dict) and key in element}
        added = []
        ours = mine.get(field, [])
        if not isinstance(ours, list) or not all(isinstance(element, dict) and key in element for element in ours):
            raise RejectedError(f"the item's {field!r} must be a list of dicts, each with {key!r}")
        for element in ours:
            same = known.setdefault(canonical(element[key]), element)
            if same is element:
                added.append(element)
            elif not equal(same, element):
                raise ConflictError(f"the server has another element in {field!r} under the same {key!r}")
        for name in (mine.keys() & remote.keys()) - {field}:
            if not equal(mine[name], remote[name]):
                raise ConflictError(f"the server has another {name!r}")
        return {**remote, **mine, field: [*there, *added]}

    return merge


class StarfishPush:
    """What `starfish_push` returns: called with an entry it pushes it. Use it with ``lane=`` where paths are shared."""

    def __init__(
        self,
        client: Any,
        *,
        path: Path,
        merge: Merge | None,
        body: Body | None,
        base_hash: Callable[[OutboxEntry[Any]], str | None] | None,
        tries: int,
    ) -> None:
        if merge is not None and (not callable(merge) or inspect.iscoroutinefunction(merge)):
            raise TypeError("merge is a plain function from two documents to one")
        if merge is not None and base_hash is not None:
            raise ValueError("merge= starts from what the server has, base_hash= from a version known before: give one")
        if isinstance(tries, bool) or not isinstance(tries, int) or tries < 1:
            raise ValueError(f"tries is a whole number of at least 1, not {tries!r}")
        self._client = client
        self._path = checked_path(path)
        self._merge = merge
        self._body = body
        self._base_hash = base_hash
        self._tries = tries
        self._compute_hash = hash_of_the_protocol()

    def __repr__(self) -> str:
        """Where it pushes, where that is one place."""
        return f"starfish_push({self._path!r})" if isinstance(self._path, str) else "starfish_push(...)"

    async def __call__(self, entry: OutboxEntry[Any]) -> dict[str, Any]:
        """Pushes one entry; returns the hash and time that the server gave it when the server has it, or had it.

        Raises:
            SendError: what happened otherwise; the table in ``starfish_client`` says which of its classes.
        """
        path = path_for(entry, self._path)
        mine = document_of(entry, self._body)
        if self._merge is not None:
            return await self._push_merged(path, mine, self._merge)
        try:
            return await self._push(path, mine, self._base_hash(entry) if self._base_hash else None)
        except ConflictError as conflict:
            ours = await self._ours(path, mine, conflict.remote)
            if ours is None:
                raise
            return {"hash": ours}

    async def _push(self, path: str, document: Document, base: str | None) -> dict[str, Any]:
        return receipt_of(await asked(self._client.push(path, document, base)))

    async def _ours(self, path: str, mine: Document, there: str | None) -> str | None:
        """The hash of what the server has, where that is this very body.

        The hash that it told can say so at once; another hash proves nothing, since a version of the protocol may make
        it otherwise: then it is looked at.
        """
        if there and self._compute_hash is not None and there == self._compute_hash(mine):
            return there
        try:
            pulled = await asked(self._client.pull(pull_path(path)))
        except RejectedError:
            return None  # who may not look cannot know
        return pulled.hash if pulled.hash and equal(plain(pulled.data), mine) else None

    async def _push_merged(self, path: str, mine: Document, merge: Merge) -> dict[str, Any]:
        for turn in range(self._tries):
            if turn:
                await asyncio.sleep(_BETWEEN_TRIES.delay(turn, random.random()))  # noqa: S311  # a dice, no secret
            pulled = await asked(self._client.pull(pull_path(path)))
            remote = plain(pulled.data)
            merged = checked(merge(copy.deepcopy(remote), copy.deepcopy(mine)), "what merge returned")
            if pulled.hash and equal(merged, remote):
                return {"hash": pulled.hash}
            try:
                return await self._push(path, merged, pulled.hash)
            except ConflictError as conflict:
                lost = conflict
        raise BusyError(f"others changed the document during each of {self._tries} tries to merge") from lost


@dataclass
class _Seen:
    """What is in a log after ``start`` and up to ``end`` (the server's clock): ids, and when each element was taken."""

    start: int
    end: int
    ids: set[str] = field(default_factory=set)
    times: dict[bytes, int] = field(default_factory=dict)


@dataclass
class _Log:
    """What is known of one log.

    Attributes:
        latest: the time of the last element of ours; what is appended from here on is later: the server counts upwards.
        tried: of each entry whose first try began here and is not known to have worked, what was the latest then.
        seen: what the last look found.
    """

    latest: int
    tried: dict[str, int] = field(default_factory=dict)
    seen: _Seen | None = None
    closed: bool = False


class StarfishAppend:
    """What `starfish_append` returns: called with an entry it appends it, after a look where it may be there."""

    def __init__(
        self,
        client: Any,
        *,
        path: Path,
        id_field: str,
        body: Body | None,
        since: int,
    ) -> None:
        if not isinstance(id_field, str) or not id_field or id_field in DROPPED:
            raise ValueError(f"id_field is the name of a field that the server keeps, not {id_field!r}")
        if isinstance(since, bool) or not isinstance(since, int) or since < 0:
            raise ValueError(f"since is a whole number of milliseconds from 0, not {since!r}")
        self._client = client
        self._path = checked_path(path)
        self._id_field = id_field
        self._body = body
        self._since = since
        self._logs: dict[str, _Log] = {}

    def __repr__(self) -> str:
        """Where it appends, where that is one place."""
        return f"starfish_append({self._path!r})" if isinstance(self._path, str) else "starfish_append(...)"

    async def __call__(self, entry: OutboxEntry[Any]) -> dict[str, Any]:
        """Appends one entry; returns the hash and time that the server gave it, or its time where it was there.

        Raises:
            SendError: what happened otherwise; the table in ``starfish_client`` says which of its classes.
        """
        path = path_for(entry, self._path)
        element = document_of(entry, self._body)
        if element.setdefault(self._id_field, entry.id) != entry.id:
            raise RejectedError(f"the item has another {self._id_field!r} than its entry: choose another id_field=")
        known = self._logs.setdefault(path, _Log(self._since))
        if entry.maybe_sent_ms is None and entry.attempts == 0:
            known.tried[entry.id] = known.latest
        elif (there := await self._look(known, path, entry.id, element)) is not None:
            known.tried.pop(entry.id, None)
            return {"timestamp": there}
        try:
            receipt = receipt_of(await asked(self._client.append(path, element)))
        except ConflictError as error:  # a document has a hash to mismatch, a log has none
            raise RejectedError(f"{path} is no append-only collection: {error}") from error
        known.tried.pop(entry.id, None)
        known.latest = max(known.latest, receipt["timestamp"])
        return receipt

    async def _look(self, known: _Log, path: str, id: str, element: Document) -> int | None:
        """When the server took this element, or None; None also where nobody may look.

        Raises:
            ConflictError: another element is there under this id: the entry was edited after its first try.
        """
        start = known.tried.get(id, self._since)
        seen = known.seen
        if seen is None or not seen.start <= start <= seen.end:  # what lies between is nobody's business
            seen = known.seen = _Seen(start, start)
        try:
            # Without append_field=: a wrong one would make the SDK answer that nothing is there.
            pulled = await asked(self._client.pull(pull_path(path), max(seen.end, 1)))
        except RejectedError as refusal:
            if not known.closed:
                known.closed = True
                log.warning("%s cannot be looked at, so a lost answer can make a duplicate there: %s", path, refusal)
            return None
        for envelope in _elements(pulled.data):
            data = plain(envelope["data"])
            if isinstance(id_there := data.get(self._id_field), str):
                seen.ids.add(id_there)
                seen.times.setdefault(_digest(data), envelope["ts"])
            seen.end = max(seen.end, envelope["ts"])
        there = seen.times.get(_digest(element))
        if there is None and id in seen.ids:
            raise ConflictError(f"the log has another element with this {self._id_field!r}: an earlier version of it?")
        return there


def _elements(data: Document) -> list[dict[str, Any]]:
    """What a log holds, each with its time; it is the one list of the document, whatever its field is called."""
    lists = (value for value in data.values() if isinstance(value, list))
    return [envelope for elements in lists for envelope in elements if isinstance(envelope, dict) and "ts" in envelope]


def _digest(element: Document) -> bytes:
    return hashlib.sha256(canonical(element).encode()).digest()
