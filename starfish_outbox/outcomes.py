"""What an exception out of ``send`` means for the entry: the default rule that `drain_outbox` follows, and its words.

The rule (`classify`), in the order in which it decides:

1. A `SendError` of ours says it itself.
2. *Maybe sent* (`UnackedError`): anywhere in the chain of causes stands a reset, a broken pipe, a timeout, or a class
   by which an HTTP library says that a request was under way.
3. *Certainly not sent* (`OfflineError`): nothing of the second kind, and somewhere a refused connection, a name that
   does not resolve, a network or host without a route, a certificate that we refused, or a class by which a library
   says that it was still connecting.
4. Anything else is a failed attempt (None).

"Maybe" wins over "not": a chain that holds both tells of two tries, and the entry may have arrived in one of them.

What the libraries chain was read from real failures on loopback (tests/test_outcomes.py). They are why rules 2 and 3
know some classes by name:

- httpcore, below httpx, ends with ``raise error from None``: the ``OSError`` is there, but hidden, so the hidden
  context of its errors is followed too. A server that closes without an answer gives httpx and aiohttp no ``OSError``
  at all.
- A connection that times out chains a bare ``TimeoutError`` in every library. Only the class's name tells it from a
  request that timed out, and a network that drops every packet is the common way of being offline.
- ``EHOSTUNREACH`` on an established connection (the kernel's word after minutes of silence) comes under a class that
  says "reading".
- asyncio puts the refusals of several addresses into the text of one bare ``OSError``.

What it cannot know: a library that tries again by itself and shows the last failure only (urllib3's ``Retry(read=…)``).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, Literal, TypeAlias

from starfish_outbox.errors import (
    AuthNeededError,
    BusyError,
    OfflineError,
    RejectedError,
    SendError,
    UnackedError,
)

Outcome: TypeAlias = Literal["offline", "unacked", "busy", "auth", "rejected", "attempt"]
"""What a pass does next (DESIGN section 5); ``attempt`` counts one failed attempt and goes on."""

Classify: TypeAlias = Callable[[Exception], type[SendError] | None]
"""The type of ``drain_outbox(..., classify=)``: from an exception to the `SendError` class that it stands for, or to
None for a failed attempt.

A rule of your own can hand what it does not know to the default one:

```python
from starfish_outbox import AuthNeededError
from starfish_outbox.outcomes import classify


def mine(error: Exception) -> type[SendError] | None:
    return AuthNeededError if isinstance(error, TokenExpiredError) else classify(error)
```
"""

MAX_MESSAGE: Final = 500
"""How many characters of an exception's text are kept with an entry."""

_OUTCOMES: Final[tuple[tuple[type[SendError], Outcome], ...]] = (
    (OfflineError, "offline"),
    (UnackedError, "unacked"),
    (BusyError, "busy"),
    (AuthNeededError, "auth"),
    (RejectedError, "rejected"),
)

_NOT_SENT: Final = frozenset(
    # macOS says EHOSTDOWN where Linux says EHOSTUNREACH.
    {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
)
_MAYBE_SENT: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ETIMEDOUT})

_CONNECTING: Final = frozenset(
    {
        ("socket", "gaierror"),
        # We refuse a certificate before a byte of the request leaves: another server answers, such as a login page.
        ("ssl", "SSLCertVerificationError"),
        ("httpx", "ConnectError"),
        ("httpx", "ConnectTimeout"),
        ("httpx", "PoolTimeout"),
        ("httpcore", "ConnectError"),
        ("httpcore", "ConnectTimeout"),
        ("httpcore", "PoolTimeout"),
        ("urllib3", "ConnectTimeoutError"),
        ("urllib3", "NewConnectionError"),
        ("aiohttp", "ClientConnectorError"),
        ("aiohttp", "ConnectionTimeoutError"),
    }
)
"""Classes, by top-level package and name, that are raised only before anything of a request was written."""

_UNDER_WAY: Final = frozenset(
    {
        ("httpx", "ReadError"),
        ("httpx", "ReadTimeout"),
        ("httpx", "WriteError"),
        ("httpx", "WriteTimeout"),
        ("httpx", "CloseError"),
        ("httpx", "RemoteProtocolError"),
        ("httpcore", "ReadError"),
        ("httpcore", "ReadTimeout"),
        ("httpcore", "WriteError"),
        ("httpcore", "WriteTimeout"),
        ("httpcore", "RemoteProtocolError"),
        ("urllib3", "ReadTimeoutError"),
        ("urllib3", "ProtocolError"),
        ("aiohttp", "ServerDisconnectedError"),
        ("aiohttp", "SocketTimeoutError"),
        ("aiohttp", "ClientPayloadError"),
        ("http", "BadStatusLine"),
        ("http", "IncompleteRead"),
    }
)
"""Classes that say: a request was under way, and no whole answer came back."""


class _Evidence(Enum):
    NOT_SENT = auto()
    MAYBE_SENT = auto()


def classify(error: Exception) -> type[SendError] | None:
    """The `SendError` class that an exception out of ``send`` stands for by the default rule; None is a failed attempt.

    Args:
        error: what ``send`` raised. Its causes are walked (``__cause__``, else ``__context__`` unless it is suppressed,
            and the members of exception groups), each exception once.
    """
    if isinstance(error, SendError):
        return type(error) if isinstance(error, tuple(kind for kind, _ in _OUTCOMES)) else None
    if isinstance(error, ExceptionGroup) and len(said := {classify(member) for member in error.exceptions}) == 1:
        kind = said.pop()  # a task group around one request, or all alike
        if kind is not None and not issubclass(kind, OfflineError):
            return kind
    match _evidence(error, set(), connecting=False):
        case _Evidence.MAYBE_SENT:
            return UnackedError
        case _Evidence.NOT_SENT:
            return OfflineError
        case None:
            return None


def outcome_of(error: Exception, rule: Classify = classify) -> Outcome:
    """What a pass does after ``send`` raised: a `SendError` says it itself, for anything else the rule decides.

    Raises:
        TypeError: the rule answered something that is neither a `SendError` class nor None.
    """
    kind: object = type(error) if isinstance(error, SendError) else rule(error)
    if kind is None:
        return "attempt"
    if not (isinstance(kind, type) and issubclass(kind, SendError)):
        raise TypeError(f"classify must answer a SendError class or None, not {type(kind).__name__}")
    return next((outcome for known, outcome in _OUTCOMES if issubclass(kind, known)), "attempt")


def describe(error: BaseException) -> tuple[str, str]:
    """The class name of an exception and what it says, cut at 500 characters: what ``lastError`` keeps.

    A group of one is its member, and an exception that says nothing (httpx's ``ReadError``, a bare ``TimeoutError``)
    borrows the words of the first of its causes that says something.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    node: BaseException | None = error
    seen: set[int] = set()
    message = ""
    while node is not None and not message and id(node) not in seen:
        seen.add(id(node))
        message = _text(node)
        node = _cause(node)
    # A lone surrogate is no Unicode text, and servers choke on it.
    words = message[:MAX_MESSAGE].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return type(error).__name__, words


def _evidence(error: BaseException | None, seen: set[int], *, connecting: bool) -> _Evidence | None:
    """What a chain of causes proves. ``connecting`` explains the next timeout or reset: a class above it said so."""
    found: _Evidence | None = None
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        names = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
        if isinstance(error, UnackedError) or names & _UNDER_WAY:
            return _Evidence.MAYBE_SENT
        if isinstance(error, OfflineError) or names & _CONNECTING:
            connecting = True
            found = _Evidence.NOT_SENT
        elif isinstance(error, BaseExceptionGroup):
            said = {_evidence(member, seen.copy(), connecting=connecting) for member in error.exceptions}
            if _Evidence.MAYBE_SENT in said:
                return _Evidence.MAYBE_SENT
            if said == {_Evidence.NOT_SENT}:  # one member that failed otherwise may have reached somebody
                found = _Evidence.NOT_SENT
            connecting = False
        elif isinstance(error, OSError):
            said_by_os = _os_evidence(error)
            if said_by_os is _Evidence.MAYBE_SENT and not connecting:
                return _Evidence.MAYBE_SENT
            if said_by_os is not None:
                found = _Evidence.NOT_SENT
                connecting = False  # what lies below is an earlier try
        error = _cause(error)
    return found


def _os_evidence(error: OSError) -> _Evidence | None:
    """What one ``OSError`` proves by its class, its number or, for asyncio, the numbers in its text."""
    if isinstance(error, ConnectionRefusedError) or error.errno in _NOT_SENT:
        return _Evidence.NOT_SENT
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError | TimeoutError):
        return _Evidence.MAYBE_SENT
    if error.errno in _MAYBE_SENT:  # aiohttp's ClientOSError carries the number without the class
        return _Evidence.MAYBE_SENT
    if type(error) is OSError and error.errno is None and str(error).startswith("Multiple exceptions: [Errno "):
        # What asyncio.create_connection raises when no address of a name can be reached: one text for all of them.
        numbers = {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))}
        return _Evidence.NOT_SENT if numbers <= _NOT_SENT | {errno.ETIMEDOUT} else None
    return None


def _cause(error: BaseException) -> BaseException | None:
    """The exception that led to this one, if it is shown, or if it is httpcore that hides it."""
    if error.__cause__ is not None:
        return error.__cause__
    if error.__suppress_context__ and type(error).__module__.partition(".")[0] != "httpcore":
        return None
    return error.__context__


def _text(error: BaseException) -> str:
    """What an exception says; nothing where its own ``__str__`` fails, since the pass must go on."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001  # a broken __str__ of somebody else's class may raise anything
        return ""
