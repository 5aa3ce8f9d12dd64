"""``sql_insert``: each entry as one row, inserted unless its id is there.

The statement is ``INSERT INTO table (id, …) VALUES (…) ON CONFLICT (id) DO NOTHING``, as PostgreSQL and SQLite have it;
the table needs a primary key or a unique constraint on the id. What was not inserted is looked up, in the same
transaction: "no row" alone is never taken for "already there".

| what happened | what is raised |
|---|---|
| inserted, or a row with the id is there | nothing |
| the row that is there holds another item (told only where the whole item is stored) | `ConflictError` |
| nobody reached; the server starts or shuts down | `OfflineError` |
| the connection was lost after a statement began: 08, 57P0x, no answer; the server gave up: 57014 | `UnackedError` |
| serialization failure, deadlock, locks, too many connections, disk full: 40, 53, 55P03, SQLite's BUSY | `BusyError` |
| name, password, privilege; no such table, column or unique constraint: 28, 42, no entry's fault | `AuthNeededError` |
| a value that does not fit, a constraint, such as another unique one: 22, 23, 42804 | `RejectedError` |
| anything else; a row that is neither inserted nor there, as a trigger can do it | `SendError`, a failed attempt |
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, overload

from starfish_outbox.errors import (
    AuthNeededError,
    BusyError,
    ConflictError,
    OfflineError,
    RejectedError,
    SendError,
    UnackedError,
)
from starfish_outbox.jsontext import DamagedText, decode, encode_foreign
from starfish_outbox.senders.sql_errors import judge, judge_connecting
from starfish_outbox.senders.workers import Worker, Workers

if TYPE_CHECKING:
    from starfish_outbox.entry import OutboxEntry

    Columns: TypeAlias = Sequence[str] | Mapping[str, Callable[[OutboxEntry[Any]], Any]]

MAX_NAME: Final = 63
"""Bytes of a name: PostgreSQL cuts a longer one, and would go on with another table."""

MAX_ROWS: Final = 500
"""Rows of one statement: SQLite combines no more SELECTs."""

MAX_PARAMETERS: Final = 30_000
"""Values of one statement: SQLite takes 32,766 of them, PostgreSQL 65,535."""

_MARKS: Final = {"qmark": "?", "format": "%s", "pyformat": "%s"}

Row: TypeAlias = "list[Any]"
"""The entry's id, then the values of the columns."""

Answer: TypeAlias = "Exception | None"


def sql_insert(
    connect: Callable[[], Any],
    table: str | Sequence[str],
    *,
    columns: Columns | None = None,
    id_column: str = "id",
    paramstyle: str | None = None,
) -> SqlSender:
    """A ``send`` for `drain_outbox` that inserts each entry as a row, unless a row with its id is there.

    ```python
    async with sql_insert(lambda: psycopg.connect(dsn), "observations", columns=["site", "mass"]) as send:
        print(await drain_outbox(queue, send, batch_size=100))
    ```

    It takes one entry, or with ``batch_size`` a list: up to 500 go in one transaction, and where one does not fit, the
    two halves in one each, and so on. The driver works in threads, a connection in each; a send that is cancelled goes
    on there to its end. Bound the waiting in what you connect with (``connect_timeout``, ``statement_timeout``);
    ``autocommit=True`` there makes one round trip of three, and is as safe, since a transaction is one statement.

    A row that is there stays as it is, so an id must not be used for two different things. With whole items another
    item under the id is a conflict; with ``columns`` it cannot be told, and passes for delivered.

    Args:
        connect: a function that makes a blocking DB-API connection (``psycopg``, ``sqlite3``); it is called when one
            is needed and when one was lost.
        table: its name, with a schema as ``"schema.table"`` or ``("schema", "table")``; quoted as it stands, so
            that upper and lower case count.
        columns: names of columns that take the item's values of the same keys (a missing one is NULL; lists and dicts
            go as JSON text); or from column to a function of the entry. None: the whole item, as JSON, in ``item``.
        id_column: the column for the entry's id.
        paramstyle: ``qmark`` or ``format``, where the driver does not say how it marks parameters.

    Raises:
        ValueError: a name cannot be one, or names a column twice.
        TypeError: an argument is no such thing.
    """
    return SqlSender(connect, table, columns=columns, id_column=id_column, paramstyle=paramstyle)


class SqlSender:
    """What `sql_insert` returns: called with an entry or a list; ``async with`` or `aclose` closes its connections.

    It goes on working after `aclose` or in another event loop.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        table: str | Sequence[str],
        *,
        columns: Columns | None,
        id_column: str,
        paramstyle: str | None,
    ) -> None:
        # A connection of sqlite3 can be called as well.
        if not callable(connect) or hasattr(connect, "cursor") or inspect.iscoroutinefunction(connect):
            raise TypeError(
                "connect is a function that makes a blocking connection, such as lambda: psycopg.connect(dsn), so that "
                f"a lost one can be replaced; not {'an async one' if callable(connect) else type(connect).__name__}"
            )
        parts = table.split(".") if isinstance(table, str) else list(table)
        self._connect = connect
        self._table = ".".join(_quoted("table", part) for part in parts)
        self._id = _quoted("id_column", id_column)
        self._values = _values_of(columns)
        if id_column in self._values:
            raise ValueError(f"columns holds {id_column!r}, which is the id_column: it takes the entry's id")
        self._columns = [self._id, *(_quoted("columns", name) for name in self._values)]
        self._whole = columns is None
        if paramstyle is not None and paramstyle not in _MARKS:
            raise ValueError(f"paramstyle is one of {', '.join(_MARKS)}, not {paramstyle!r}")
        self._style = paramstyle
        self._workers = Workers("starfish-outbox-sql")

    def __repr__(self) -> str:
        """Into which table it inserts."""
        return f"sql_insert({self._table})"

    async def __aenter__(self) -> Self:
        """The sender itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; one in which a cancelled send still goes on closes after it."""
        await asyncio.gather(*map(asyncio.wrap_future, self._workers.end()))

    @overload
    async def __call__(self, entry: OutboxEntry[Any], /) -> None: ...

    @overload
    async def __call__(self, entry: list[OutboxEntry[Any]], /) -> list[Answer]: ...

    async def __call__(self, entry: OutboxEntry[Any] | list[OutboxEntry[Any]], /) -> list[Answer] | None:
        """Inserts one entry; or a list of them, and answers for each: None where it is there, else why not.

        Raises:
            SendError: what happened otherwise; the table at the head of the module says which of its classes.
        """
        if isinstance(entry, list):
            return await self._send(entry)
        (answer,) = await self._send([entry])
        if answer is not None:
            raise answer
        return None

    async def _send(self, entries: list[OutboxEntry[Any]]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        rows: dict[int, Row] = {}
        for at, entry in enumerate(entries):
            try:
                rows[at] = [entry.id, *(value(entry) for value in self._values.values())]
            except Exception as error:  # noqa: BLE001  # it is this entry's answer; others of the batch go on
                answers[at] = error
        if rows:
            answers |= zip(rows, await self._workers.run(self._deliver, list(rows.values())), strict=True)
        return [answers[at] for at in range(len(entries))]

    # From here on everything runs in a worker's thread, which alone uses the connection that it keeps.

    def _deliver(self, worker: Worker, rows: list[Row]) -> list[Answer]:
        """The answers for these rows; the worker keeps a connection without a transaction afterwards, or none."""
        try:
            if worker.kept is None:
                worker.kept = self._connected()
            mark = _MARKS[self._style or _paramstyle_of(worker.kept)]
        except SendError as error:
            return [error] * len(rows)
        size = min(MAX_ROWS, MAX_PARAMETERS // len(self._columns))
        answers: list[Answer] = []
        for start in range(0, len(rows), size):
            answers += self._insert(worker, mark, rows[start : start + size])
        return answers

    def _connected(self) -> Any:
        try:
            connection = self._connect()
        except Exception as error:  # noqa: BLE001  # any driver's, or the caller's own
            meant = judge_connecting(error)
        else:
            if hasattr(connection, "cursor") and not inspect.iscoroutinefunction(getattr(connection, "commit", None)):
                return connection
            if inspect.iscoroutine(connection):
                connection.close()  # or Python complains that nobody awaited it
            meant = AuthNeededError(f"connect made a {type(connection).__name__}, which is no blocking connection")
        raise meant  # out of the handler: the driver's words may hold the connection string

    def _insert(self, worker: Worker, mark: str, rows: list[Row], *, again: bool = False) -> list[Answer]:
        """One transaction; where a row does not fit, one for each half of them."""
        connection = worker.kept
        if connection is None:
            return [OfflineError("not sent: the connection was lost with an entry before it")] * len(rows)
        try:
            with closing(connection.cursor()) as cursor:
                cursor.execute(self._inserting(mark, len(rows)), [value for row in rows for value in row])
                answers: list[Answer] = [None] * len(rows)
                if cursor.rowcount != len(rows):
                    answers = self._looked_up(cursor, mark, rows)
            connection.commit()
        except Exception as error:  # noqa: BLE001  # any driver's; what it means is judged
            verdict = judge(error, closed=bool(getattr(connection, "closed", False)))
        else:
            return answers
        if verdict.lost or not _rolled_back(connection):
            worker.drop()
            self._workers.end()  # the others are as old, and would cost an unanswered send each
            return [verdict.error] * len(rows)
        if isinstance(verdict.error, OfflineError | UnackedError | BusyError | AuthNeededError):
            return [verdict.error] * len(rows)
        if len(rows) > 1:
            half = len(rows) // 2
            return [*self._insert(worker, mark, rows[:half]), *self._insert(worker, mark, rows[half:])]
        if verdict.unique and not again:  # of another constraint; perhaps by a first try that ended while ours ran
            return self._insert(worker, mark, rows, again=True)
        return [verdict.error]

    def _looked_up(self, cursor: Any, mark: str, rows: list[Row]) -> list[Answer]:
        """For each whether a row with its id is there; and with its item, where that is stored whole."""
        cursor.execute(self._looking(mark, len(rows)), [row[0] for row in rows])
        found = (row.values() if isinstance(row, Mapping) else row for row in cursor.fetchall())  # as the caller has it
        there = dict(map(tuple, found))
        return [
            SendError("neither inserted nor there: a trigger or a rule of the table does something else")
            if place not in there
            else ConflictError("the table holds another item under this id")
            if self._whole and not _same(there[place], row[1])
            else None
            for place, row in enumerate(rows)
        ]

    def _inserting(self, mark: str, count: int) -> str:
        one = f"({', '.join([mark] * len(self._columns))})"
        table, id, columns = self._names(mark)
        # Names were quoted when the sender was made; everything else is a parameter.
        return (
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([one] * count)} "  # noqa: S608
            f"ON CONFLICT ({id}) DO NOTHING"
        )

    def _looking(self, mark: str, count: int) -> str:
        """Rows are told by their place, since the database may spell an id otherwise than we do (``uuid``)."""
        table, id, columns = self._names(mark)
        item = columns[1] if self._whole else "1"
        one = f"AS place, {item} AS stored FROM {table} WHERE {id} = {mark}"
        return " UNION ALL ".join(f"SELECT {place} {one}" for place in range(count))

    def _names(self, mark: str) -> tuple[str, str, list[str]]:
        """Table, id and columns, as they stand in a statement with these marks."""
        names = [self._table, *self._columns]
        table, *columns = (name.replace("%", "%%") for name in names) if mark == "%s" else names
        return table, columns[0], columns


def _rolled_back(connection: Any) -> bool:
    """Whether it has no transaction open any more."""
    try:
        connection.rollback()
    except Exception:  # noqa: BLE001  # what went wrong before is what is told
        return False
    return True


def _paramstyle_of(connection: Any) -> str:
    """How the driver marks parameters (PEP 249).

    Raises:
        AuthNeededError: it does not say, or in a way that is not known here.
    """
    for kind in type(connection).__mro__:
        module = sys.modules.get(kind.__module__.partition(".")[0])
        if (style := getattr(module, "paramstyle", None)) in _MARKS:
            return str(style)
    raise AuthNeededError(f"{type(connection).__name__} does not say how it marks parameters: give paramstyle=")


def _same(stored: Any, text: str) -> bool:
    """Whether what the driver read of a text or JSON column is the item."""
    try:
        return bool((decode(stored) if isinstance(stored, str) else stored) == decode(text))
    except DamagedText:
        return False


def _quoted(what: str, name: object) -> str:
    """A name as SQL writes it, whatever characters it has.

    Raises:
        TypeError, ValueError: it cannot be one.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what}: a name is a string, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{what}: {name!r} is no Unicode text") from error
    if not 0 < size <= MAX_NAME or "\0" in name:
        raise ValueError(f"{what}: a name has 1 to {MAX_NAME} bytes and no zero byte, unlike {name!r}")
    return '"' + name.replace('"', '""') + '"'


def _values_of(columns: Columns | None) -> dict[str, Callable[[OutboxEntry[Any]], Any]]:
    """From column to what stands in it for an entry."""
    if columns is None:
        return {"item": lambda entry: encode_foreign(entry.item)}
    if isinstance(columns, str):
        raise TypeError("columns is a list of names, or a dict from name to function, not a string")
    if not isinstance(columns, Mapping):
        if len(set(columns)) < len(columns):
            raise ValueError(f"columns names one column twice: {list(columns)}")
        return {name: partial(_value, name) for name in columns}
    for name, value in columns.items():
        if not callable(value):
            raise TypeError(f"columns: {name!r} goes to a function of the entry, not to {type(value).__name__}")
    return dict(columns)


def _value(name: str, entry: OutboxEntry[Any]) -> Any:
    if not isinstance(entry.item, dict):
        raise RejectedError(f"the item is no object, so it has no {name!r}")
    value = entry.item.get(name)
    return encode_foreign(value) if isinstance(value, dict | list) else value
