"""What an error of a database driver means for an entry. Pure; knows drivers by what their errors carry.

psycopg (2 and 3) errors carry a SQLSTATE (PostgreSQL's Appendix A), sqlite3 errors a result code; errors of other
drivers go by the class names of DB-API 2.0 (PEP 249). PostgreSQL's own words about data repeat the data ("invalid
input syntax for type integer: …", "Failing row contains …"), and so do drivers; of such errors only the code and the
names of table, column and constraint are told.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from starfish_outbox.errors import (
    AuthNeededError,
    BusyError,
    OfflineError,
    RejectedError,
    SendError,
    UnackedError,
)
from starfish_outbox.senders.answers import clean

_LOST: Final = "lost"
_GAVE_UP: Final = "gave up"
_PLACE: Final = "place"  # credentials, or a table that is not as the program believes: no entry's fault
_BUSY: Final = "busy"
_REJECTED: Final = "rejected"
_ATTEMPT: Final = "attempt"

_STATES: Final = {
    "08": _LOST,
    "0A": _PLACE,  # such as a table that takes no ON CONFLICT
    "22": _REJECTED,  # data exceptions
    "23": _REJECTED,  # integrity constraints
    "25006": _BUSY,  # read-only transaction: a standby, for as long as it is one
    "26": _PLACE,  # prepared statements behind a pooler that does not keep sessions
    "28": _PLACE,
    "3D": _PLACE,
    "3F": _PLACE,
    "40": _BUSY,  # serialization failures and deadlocks
    "40002": _REJECTED,
    "40003": _LOST,  # statement completion unknown
    # The statement is the same for each entry. Parking all that waits for a misspelt table would help nobody.
    "42": _PLACE,
    "42804": _REJECTED,  # a value of a type that the column does not take
    "44": _REJECTED,
    "53": _BUSY,  # too many connections, out of memory, disk full
    "54": _REJECTED,  # such as an id that is too long for an index
    "55": _PLACE,  # such as a unique constraint that is deferrable
    "55006": _BUSY,
    "55P03": _BUSY,
    "57014": _GAVE_UP,  # statement_timeout: by the entry's fault or not, as for any other answer that does not come
    "57P": _LOST,  # shut down, crashed, starting up
}
"""By the longest prefix of a SQLSTATE; what is not here costs an attempt."""

_SAYS_NO_DATA: Final = frozenset({"08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "55", "57"})
"""Classes in which PostgreSQL's primary message has names and types, and no values."""

_SQLITE: Final = {
    3: _PLACE,  # PERM
    5: _BUSY,  # BUSY
    6: _BUSY,  # LOCKED
    8: _PLACE,  # READONLY
    10: _BUSY,  # IOERR
    11: _PLACE,  # CORRUPT
    13: _BUSY,  # FULL
    14: _LOST,  # CANTOPEN: a volume that is not there
    18: _REJECTED,  # TOOBIG
    19: _REJECTED,  # CONSTRAINT
    20: _REJECTED,  # MISMATCH
    23: _PLACE,  # AUTH
    26: _PLACE,  # NOTADB
}
_SQLITE_UNIQUE: Final = frozenset({1555, 2067, 2579})  # PRIMARYKEY, UNIQUE, ROWID
_SQLITE_STATEMENT: Final = re.compile(
    r"no such table|no such column|has no column named|ON CONFLICT clause does not match|near \".*syntax error"
)
_SQLITE_SAYS_DATA: Final = 1811  # a trigger's RAISE, in words of its own

# libpq gives no SQLSTATE for a connection that was not made, only the server's words.
_REFUSED: Final = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|(role|user|database) .+ does not exist"
    r"|permission denied for database|not permitted to log in|invalid (\w+ value|connection option|port number)"
)
_FULL: Final = re.compile(r"too many (clients|connections)|connection slots")


class Verdict(NamedTuple):
    """What an error means.

    Attributes:
        error: what `send` answers.
        lost: the connection is of no use any more.
        unique: a unique constraint was broken: perhaps the row is there.
    """

    error: Exception
    lost: bool = False
    unique: bool = False


def judge(error: Exception, *, closed: bool) -> Verdict:
    """What an error of a statement or a commit means: the request was under way.

    Args:
        error: of the driver.
        closed: whether the driver says that the connection is of no use any more.
    """
    state, code, names = _state(error), getattr(error, "sqlite_errorcode", None), _classes(error)
    what = _words(error, state, code)
    if state is not None:
        kind = _by_state(state)
        return Verdict(_raised(kind, what), closed or kind == _LOST, unique=state == "23505")
    if isinstance(code, int):
        return Verdict(_raised(_by_code(code, str(error)), what), unique=code in _SQLITE_UNIQUE)
    if closed or isinstance(error, OSError) or "OperationalError" in names:
        return Verdict(_raised(_LOST, f"{what}: {clean(str(error))}"), lost=True)
    if names & {"DataError", "IntegrityError"}:
        return Verdict(_raised(_REJECTED, what), unique="IntegrityError" in names)
    # What the driver itself says before anything is sent: a type, a number or a text that it cannot store.
    kinds = UnicodeError | OverflowError | TypeError | ValueError
    if isinstance(error, kinds) or names & {"ProgrammingError", "InterfaceError", "NotSupportedError"}:
        return Verdict(_raised(_REJECTED, f"a value that this driver cannot store ({what})"))
    return Verdict(_raised(_ATTEMPT, what) if "DatabaseError" in names else error)


def judge_connecting(error: Exception) -> SendError:
    """What an error means that came while connecting: nothing was sent, and no entry is to blame.

    What is no word of a database, such as a connection string that cannot be read, is not repeated: it may hold the
    password.
    """
    state, code, names = _state(error), getattr(error, "sqlite_errorcode", None), _classes(error)
    if not (isinstance(error, OSError) or state or isinstance(code, int) or "OperationalError" in names):
        return AuthNeededError(f"connect raised {type(error).__name__}: see what it gives to the driver")
    text = clean(str(error))
    if state is not None:
        kind = _by_state(state)
    elif isinstance(code, int):
        kind = _by_code(code, text)
    else:
        kind = _PLACE if _REFUSED.search(text) else _BUSY if _FULL.search(text) else _LOST
    if kind in (_PLACE, _BUSY):
        return _raised(kind, f"no connection to the database: {text}")
    return OfflineError(f"no connection to the database: {text}")


def _raised(kind: str, what: str) -> SendError:
    match kind:
        case "lost":
            return UnackedError(f"the connection to the database was lost: {what}")
        case "gave up":
            return UnackedError(f"the database gave up: {what}")
        case "place":
            return AuthNeededError(f"{what}. This is about the database, not about this entry")
        case "busy":
            return BusyError(what)
        case "rejected":
            return RejectedError(f"the database does not take this entry: {what}")
        case _:
            return SendError(what)


def _by_state(state: str) -> str:
    return next((_STATES[state[:size]] for size in (5, 3, 2) if state[:size] in _STATES), _ATTEMPT)


def _by_code(code: int, text: str) -> str:
    if code == 1 and _SQLITE_STATEMENT.search(text):
        return _PLACE
    return _SQLITE.get(code & 0xFF, _ATTEMPT)


def _state(error: Exception) -> str | None:
    """The SQLSTATE: psycopg calls it ``sqlstate``, psycopg2 ``pgcode``."""
    for name in ("sqlstate", "pgcode"):
        state = getattr(error, name, None)
        if isinstance(state, str) and len(state) == 5:
            return state
    return None


def _classes(error: Exception) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _words(error: Exception, state: str | None, code: object) -> str:
    """What can be told of an error without telling the item."""
    kind = type(error).__name__
    if state is not None:
        diag: Any = getattr(error, "diag", None)
        parts = [f"{state} {kind}"]
        if state[:2] in _SAYS_NO_DATA and (said := getattr(diag, "message_primary", None)):
            parts.append(clean(said))
        names = {name: getattr(diag, f"{name}_name", None) for name in ("table", "column", "constraint")}
        parts += [f"{name} {clean(given)!r}" for name, given in names.items() if given]
        return ", ".join(parts)
    if isinstance(code, int):
        name = getattr(error, "sqlite_errorname", kind)
        said = code & 0xFF in _SQLITE or (code == 1 and _SQLITE_STATEMENT.search(str(error)))
        return f"{name}: {clean(str(error))}" if said and code != _SQLITE_SAYS_DATA else name
    return kind
