"""Data frames in and out of a queue, of pandas, Polars and Arrow; `notebook.frames_in` says what a cell is as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar, overload

from starfish_outbox.checks import check_id
from starfish_outbox.drawing import Drawn
from starfish_outbox.entry import FAILED, OutboxStatus
from starfish_outbox.errors import ItemError, OutboxError
from starfish_outbox.jsontext import encode_number
from starfish_outbox.notebook.frames_in import BadRow, Columns, columns_of
from starfish_outbox.notebook.frames_out import ITEM, Library, key_of, table_of
from starfish_outbox.queue import OutboxQueue

__all__ = ["BadRow", "Enqueued", "FrameError", "Requeued", "enqueue_frame", "requeue_frame", "to_frame"]

T = TypeVar("T")

OnDuplicate: TypeAlias = Literal["ignore", "raise"]
OnBad: TypeAlias = Literal["raise", "skip"]

_AT_ONCE: Final = 1000  # edits that are handed in together, so that they share a commit
_MOST_SAID: Final = 5


class FrameError(OutboxError, ValueError):
    """Rows of a frame that cannot be taken; nothing was changed.

    Attributes:
        rows: each of them, with the column and the reason.
    """

    def __init__(self, message: str, rows: Sequence[BadRow] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


class Portal(Protocol):
    """Runs coroutines on the loop of its queue."""

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Returns what the coroutine does."""
        ...


class Blocking(Protocol):
    """A queue without ``await``."""

    @property
    def queue(self) -> OutboxQueue[Any]:
        """The queue inside."""
        ...

    @property
    def portal(self) -> Portal:
        """Where its loop runs."""
        ...


@dataclass(frozen=True)
class Enqueued(Drawn):
    """What became of the rows of a frame.

    Attributes:
        added: ids of the entries that are new, in the order of the rows.
        known: ids that were not added, since they are live in the queue already or were delivered before.
        repeated: rows that say the same as an earlier one with the same id.
        skipped: rows that were left out (``on_bad="skip"``), and why.
    """

    added: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    repeated: int = 0
    skipped: tuple[BadRow, ...] = ()

    def __repr__(self) -> str:
        """In one line, by numbers."""
        known = f", {len(self.known):,} known already" if self.known else ""
        again = f", {self.repeated:,} repeated" if self.repeated else ""
        bad = f", {len({bad.number for bad in self.skipped}):,} left out" if self.skipped else ""
        return f"<Enqueued: {len(self.added):,} added{known}{again}{bad}>"


@dataclass(frozen=True)
class Requeued(Drawn):
    """What became of rows that were to be sent again.

    Attributes:
        requeued: ids of the entries that wait again, with the item of the row.
        not_parked: ids that are not parked (any more): requeued or removed by somebody else, or never there.
        skipped: rows that were left out (``on_bad="skip"``), and why.
    """

    requeued: tuple[str, ...] = ()
    not_parked: tuple[str, ...] = ()
    skipped: tuple[BadRow, ...] = ()

    def __repr__(self) -> str:
        """In one line, by numbers."""
        gone = f", {len(self.not_parked):,} not parked any more" if self.not_parked else ""
        bad = f", {len({bad.number for bad in self.skipped}):,} left out" if self.skipped else ""
        return f"<Requeued: {len(self.requeued):,} queued again{gone}{bad}>"


@overload
def enqueue_frame(
    queue: OutboxQueue[Any],
    frame: Any,
    id: str | Sequence[str],
    *,
    prefix: str = ...,
    drop_id: bool = ...,
    on_duplicate: OnDuplicate = ...,
    on_bad: OnBad = ...,
) -> Coroutine[Any, Any, Enqueued]: ...


@overload
def enqueue_frame(
    queue: Blocking,
    frame: Any,
    id: str | Sequence[str],
    *,
    prefix: str = ...,
    drop_id: bool = ...,
    on_duplicate: OnDuplicate = ...,
    on_bad: OnBad = ...,
) -> Enqueued: ...


def enqueue_frame(
    queue: OutboxQueue[Any] | Blocking,
    frame: Any,
    id: str | Sequence[str],
    *,
    prefix: str = "",
    drop_id: bool = False,
    on_duplicate: OnDuplicate = "ignore",
    on_bad: OnBad = "raise",
) -> Any:
    """Enqueue each row of a frame as one entry, all in one commit, and say what became of them.

    ``await`` it with an ``OutboxQueue``; with a ``BlockingOutbox`` it answers at once. The item of a row is a dict of
    its columns. Its id is the text of its id column: a text as it is, a number as JSON spells it (``7`` and ``7.0`` are
    both ``7``), an instant in ISO 8601. Of several id columns the texts are joined by ``/``, and within them ``%`` and
    ``/`` are written ``%25`` and ``%2F``, so that no two combinations make the same id.

    Args:
        queue: where to.
        frame: a pandas or Polars ``DataFrame``, or an Arrow ``Table``. Named levels of a pandas index are columns too.
        id: the column, or the columns, that tell the rows apart.
        prefix: put before each id.
        drop_id: leave the id columns out of the items.
        on_duplicate: ``ignore``: an id that is live in the queue is not added again, and a row that says the same as an
            earlier one is passed over; the answer counts them. ``raise``: both are refused. Two rows with one id that
            say different things are always refused. What was delivered before is never enqueued again where a ledger
            knows it, whatever this says.
        on_bad: ``raise``: if any row cannot be taken, none is. ``skip``: those are left out and named in the answer.

    Raises:
        FrameError: rows cannot be taken; it names each with its column and the reason. Nothing was enqueued.
        ValueError, TypeError: there is no such column, or it is no frame.
        OutboxFullError, NotHydratedError, CacheWriteError: as ``enqueue_many``; nothing was enqueued.
    """
    columns = [id] if isinstance(id, str) else list(id)
    if not columns:
        raise ValueError("id names no column; an id is what tells one row from another")
    if on_duplicate not in ("ignore", "raise") or on_bad not in ("raise", "skip"):
        raise ValueError("on_duplicate is 'ignore' or 'raise', and on_bad 'raise' or 'skip'")
    return _run(queue, lambda inside: _enqueue(inside, frame, columns, prefix, drop_id, on_duplicate, on_bad))


def to_frame(
    queue: OutboxQueue[Any] | Blocking, *, status: OutboxStatus | None = None, library: Library = "pandas"
) -> Any:
    """The entries of a queue as a frame, oldest first.

    Columns: ``id status attempts enqueued_at last_error next_attempt`` (instants in UTC, to the millisecond), then the
    items, flattened one level: a column for each key that any item has, and ``item`` for items that are no dicts. A
    key that is named like one of those, or begins with ``item.``, gets ``item.`` before its name. A key that an item
    does not have and a null are both missing. Columns of one kind get its dtype (JSON has one kind of number, so that
    whole numbers come back as integers, and instants stay texts); of a mix, the values as they are.

    Args:
        queue: where from.
        status: only the entries with this one: ``failed`` for those that are parked.
        library: of the frame: ``pandas``, ``polars`` or ``pyarrow``. The last two hold a mix of kinds as JSON text.

    Raises:
        ModuleNotFoundError: the library is not installed.
    """
    if isinstance(queue, OutboxQueue):
        return table_of(queue.page(limit=None, status=status), library)
    return _run(queue, lambda inside: _read(inside, status, library))


@overload
def requeue_frame(queue: OutboxQueue[Any], frame: Any, *, on_bad: OnBad = ...) -> Coroutine[Any, Any, Requeued]: ...


@overload
def requeue_frame(queue: Blocking, frame: Any, *, on_bad: OnBad = ...) -> Requeued: ...


def requeue_frame(queue: OutboxQueue[Any] | Blocking, frame: Any, *, on_bad: OnBad = "raise") -> Any:
    """Give parked entries the values of a frame and queue them again, their attempts forgotten.

    The frame is one of ``to_frame(queue, status="failed")`` with its values put right, or any with a column ``id`` and
    the columns that change. Keys for which there is no column keep their value; a missing value is null, unless the
    item has no such key. ``await`` it with an ``OutboxQueue``; with a ``BlockingOutbox`` it answers at once.

    Args:
        queue: where the entries are parked.
        frame: the rows, by id.
        on_bad: as for `enqueue_frame`.

    Raises:
        FrameError: rows cannot be taken; nothing was changed.
        ValueError, TypeError: it has no column ``id``, or is no frame.
        CacheWriteError, OutboxFullError: as ``edit``; some may be queued again already, and doing it anew is safe.
    """
    if on_bad not in ("raise", "skip"):
        raise ValueError("on_bad is 'raise' or 'skip'")
    return _run(queue, lambda inside: _requeue(inside, frame, on_bad))


def _run(queue: OutboxQueue[Any] | Blocking, work: Any) -> Any:
    return work(queue) if isinstance(queue, OutboxQueue) else queue.portal.run(work(queue.queue))


async def _read(queue: OutboxQueue[Any], status: OutboxStatus | None, library: Library) -> Any:
    return table_of(queue.page(limit=None, status=status), library)


async def _enqueue(
    queue: OutboxQueue[Any],
    frame: Any,
    id: list[str],
    prefix: str,
    drop_id: bool,
    on_duplicate: OnDuplicate,
    on_bad: OnBad,
) -> Enqueued:
    columns = columns_of(frame)
    if absent := [name for name in id if name not in columns.values]:
        raise ValueError(f"there is no column {absent[0]!r}; the frame has {', '.join(map(repr, columns.values))}")
    ids = list(_ids(columns, id, prefix))
    items = {name: values for name, values in columns.values.items() if not (drop_id and name in id)}
    if on_duplicate == "raise":
        await queue.refresh()
    chosen, repeated = _chosen(queue, columns, ids, items, strict=on_duplicate == "raise")

    async def taken() -> Enqueued:
        answers = await queue.enqueue_many((ids[row], _item(items, row)) for row in chosen)
        done = [(ids[row], answer) for row, answer in zip(chosen, answers, strict=True)]
        known = tuple(id for id, answer in done if not answer)
        return Enqueued(tuple(id for id, answer in done if answer), known, repeated, columns.refused())

    if not columns.bad:
        try:
            return await taken()
        except ItemError:  # it names one row; all that cannot be taken are wanted
            pass
    _examine(queue, columns, ((row, ids[row], _item(items, row)) for row in chosen))
    if on_bad == "raise":
        raise _refusal(columns, "enqueued")
    chosen = columns.good(chosen)
    return await taken()


def _ids(columns: Columns, names: list[str], prefix: str) -> Iterator[str]:
    """The id of each row; empty where none can be made, and then the row is spoilt. The rule: `enqueue_frame`."""
    for row, cells in enumerate(zip(*(columns.values[name] for name in names), strict=True)):
        texts = []
        for name, cell in zip(names, cells, strict=True):
            text = _text(cell)
            if text is None:
                reason = "is missing" if cell is None else f"is of type {type(cell).__name__}, which makes no id"
                columns.spoil(row, name, f"{reason}, and it is part of the id")
                break
            texts.append(text if len(names) == 1 else text.replace("%", "%25").replace("/", "%2F"))
        else:
            made = prefix + "/".join(texts)
            try:
                check_id(made)
            except ValueError as error:
                columns.spoil(row, names[0], str(error))
            else:
                yield made
                continue
        yield ""


def _text(cell: Any) -> str | None:
    """What a cell adds to an id; None: nothing that could."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return str(int(cell))
    return encode_number(cell) if isinstance(cell, float) and abs(cell) != float("inf") else None


def _chosen(
    queue: OutboxQueue[Any], columns: Columns, ids: list[str], items: dict[str, list[Any]], *, strict: bool
) -> tuple[list[int], int]:
    """The rows to enqueue, and how many say the same as an earlier one; those that cannot be are spoilt."""
    first: dict[str, int] = {}
    repeated = 0
    for row, id in enumerate(ids):
        if not id:
            continue
        if strict and id in queue:
            columns.spoil(row, None, f"its id {id!r} is live in the queue already")
        elif id not in first:
            first[id] = row
        elif strict or not _same(queue, items, first[id], row):
            columns.spoil(row, None, f"its id {id!r} is that of row {first[id]} too")
        else:
            repeated += 1
    return list(first.values()), repeated


def _same(queue: OutboxQueue[Any], items: dict[str, list[Any]], one: int, other: int) -> bool:
    """Whether two rows say the same, as JSON."""
    try:
        return queue.encode("", _item(items, one)) == queue.encode("", _item(items, other))
    except ItemError:  # said of the first; until that one is put right, nobody knows
        return False


def _item(items: dict[str, list[Any]], row: int) -> dict[str, Any]:
    return {name: values[row] for name, values in items.items()}


def _examine(queue: OutboxQueue[Any], columns: Columns, rows: Iterable[tuple[int, str, Any]]) -> None:
    """Spoil each row whose item the queue refuses, with the columns that are to blame."""
    for row, id, item in rows:
        if _complaint(queue, id, item) is None:
            continue
        alone = ((name, {name: value}) for name, value in item.items()) if isinstance(item, dict) else ()
        found = [(name, why) for name, part in alone if (why := _complaint(queue, id, part)) is not None]
        for name, why in found or [(None, _complaint(queue, id, item) or "")]:
            columns.spoil(row, name, why)


def _complaint(queue: OutboxQueue[Any], id: str, item: Any) -> str | None:
    try:
        queue.encode(id, item)
    except ItemError as error:
        return str(error).partition(f", id {id!r}: ")[2]  # whose item it is, is said by the row
    return None


def _refusal(columns: Columns, what: str) -> FrameError:
    rows = columns.refused()
    number = len({bad.number for bad in rows})
    said = "; ".join(map(str, rows[:_MOST_SAID]))
    more = f"; and {len(rows) - _MOST_SAID:,} more in .rows" if len(rows) > _MOST_SAID else ""
    return FrameError(f"{number:,} of {len(columns):,} rows cannot be {what}, and none was: {said}{more}", rows)


async def _requeue(queue: OutboxQueue[Any], frame: Any, on_bad: OnBad) -> Requeued:
    columns = columns_of(frame)
    if "id" not in columns.values:
        raise ValueError(f"there is no column 'id'; the frame has {', '.join(map(repr, columns.values))}")
    await queue.refresh()
    parked = {entry.id: entry.item for entry in reversed(queue.page(limit=None, status=FAILED))}
    first: dict[str, int] = {}
    not_parked: list[str] = []
    edits: list[tuple[int, str, Any]] = []
    for row, id in enumerate(columns.values["id"]):
        if not isinstance(id, str):
            columns.spoil(row, "id", "is no text")
        elif id in first:
            columns.spoil(row, "id", f"{id!r} stands in row {first[id]} too")
        elif id not in parked:
            first[id] = row
            not_parked.append(id)
        else:
            first[id] = row
            edits.append((row, id, _fixed(columns, row, parked[id])))
    _examine(queue, columns, edits)
    if columns.bad and on_bad == "raise":
        raise _refusal(columns, "queued again")
    good = set(columns.good(row for row, _, _ in edits))
    edits = [edit for edit in edits if edit[0] in good]
    requeued: list[str] = []
    for start in range(0, len(edits), _AT_ONCE):
        part = edits[start : start + _AT_ONCE]
        answers = await asyncio.gather(*(queue.edit(id, item) for _, id, item in part))
        for (_, id, _), answer in zip(part, answers, strict=True):
            (requeued if answer else not_parked).append(id)
    return Requeued(tuple(requeued), tuple(not_parked), columns.refused())


def _fixed(columns: Columns, row: int, item: Any) -> Any:
    """The item with what the row says; the inverse of how `to_frame` names its columns."""
    if not isinstance(item, dict):
        return columns.values[ITEM][row] if ITEM in columns.values else item
    fixed = dict(item)
    for name, values in columns.values.items():
        key = key_of(name)
        if key is not None and (values[row] is not None or key in fixed):
            fixed[key] = values[row]
    return fixed
