"""What the client of Starfish's Python SDK takes, and what its answers mean for an entry.

The client is only called, never imported: its errors are known by their attributes, those of httpx below it by name.

| what the client did | what is raised |
|---|---|
| returned | nothing: delivered |
| 409 ``hash_mismatch`` with the hash of our own body, or a look finds it there | nothing: it was there already |
| 409 ``hash_mismatch`` otherwise, or a 409 that does not say why | `ConflictError` |
| any other 409 (``append_limit_exceeded``) | `RejectedError` |
| 3xx, 401, 407, 511 | `AuthNeededError`; 401 is also what a clock gets that is off by more than 5 minutes |
| 408, 425, 429, 502, 503, 504 | `BusyError`; Starfish sends no ``Retry-After`` |
| other 4xx; a URL or a body that cannot be sent | `RejectedError` |
| other 5xx | `SendError`, a failed attempt: a body that always breaks the server must not block the others |
| no connection | `OfflineError` |
| a request under way and no whole answer, or an answer that is not Starfish's | `UnackedError` |

Anything else, such as what a function of the caller raises, comes through as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from starfish_outbox.errors import (
    AuthNeededError,
    BusyError,
    ConflictError,
    ItemError,
    OfflineError,
    RejectedError,
    SendError,
    UnackedError,
)
from starfish_outbox.jsontext import decode, encode_foreign, encode_item
from starfish_outbox.senders.answers import REASON, clean

if TYPE_CHECKING:
    from starfish_outbox.entry import OutboxEntry

Document: TypeAlias = dict[str, Any]
Path: TypeAlias = "str | Callable[[OutboxEntry[Any]], str]"
Body: TypeAlias = "Callable[[OutboxEntry[Any]], Document]"

DROPPED: Final = frozenset({"__proto__", "constructor", "prototype", "__class__", "__dict__"})
"""Keys that the server drops from dicts, though not from dicts within lists; the hash is that of what is left."""

_AUTH: Final = frozenset({401, 407, 511})
_BUSY: Final = frozenset({408, 425, 429, 502, 503, 504})
_CONNECTING: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"})  # of httpx
_UNFIT: Final = frozenset({"UnsupportedProtocol", "LocalProtocolError", "InvalidURL"})
# What the server takes in a path; one that does not begin with "/" could change the host.
_PATH: Final = re.compile(r"(?:/[\w.:@-]+)*?/push(?:/[\w.:@-]+)+", re.ASCII)
_PART: Final = re.compile(r"[\w.:@-]+", re.ASCII)
_LARGEST: Final = 1 << 30


async def asked(answer: Awaitable[Any]) -> Any:
    """What the client answers.

    Raises:
        SendError: what it raised, where that is known; the rest comes through.
    """
    try:
        return await answer
    except SendError:
        raise
    except Exception as error:  # what no rule knows is raised as it came
        known = _meaning(error)
        if known is None:
            raise
        raise known from error


def _meaning(error: Exception) -> SendError | None:
    """What an error of the SDK (by its attributes) or of httpx (by its name) says about the entry; None: nothing."""
    said = getattr(error, "server_response", None)  # ConflictError of the SDK
    if isinstance(said, str):
        return _conflict(said)
    status, said = getattr(error, "status", None), getattr(error, "body", None)  # StarfishHttpError of the SDK
    if isinstance(status, int) and isinstance(said, str):
        return _conflict(said) if status == 409 else _refusal(status, said)
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) or (
        isinstance(error, KeyError) and error.args[:1] in {("hash",), ("timestamp",), ("data",)}
    ):
        return UnackedError("what answered is no Starfish server: perhaps a login page of this network")
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0] == "httpx"}
    if not names:
        return None
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if names & _CONNECTING:
        return OfflineError(f"nobody was reached: {words}")
    if names & _UNFIT:
        return RejectedError(f"this cannot be sent: {words}")
    return UnackedError(f"no whole answer came: {words}") if "RequestError" in names else None


def _conflict(said: str) -> RejectedError:
    """What a 409 says: whose version is there is only known where it tells the hash."""
    answer = _object(said)
    kind, there = answer.get("error"), answer.get("currentHash")
    if isinstance(kind, str) and kind != "hash_mismatch":
        return RejectedError(_words(409, said))
    if not isinstance(there, str):
        return ConflictError(f"another version is there. {_words(409, said)}")
    version = clean(there) if there else "no document"  # where a base was given and what it replaces is gone
    return ConflictError(f"another version is there: {version}. {_words(409, said)}", there)


def _refusal(status: int, said: str) -> SendError:
    """What a status other than 200 and 409 says."""
    words = _words(status, said)
    if status < 300:
        return UnackedError(f"{words}, which Starfish does not")
    if status == 401:
        advice = "Check the credentials, and this computer's clock: more than 5 minutes off look the same"
        return AuthNeededError(f"{words}. {advice}")
    if status in _AUTH or 300 <= status < 400:
        return AuthNeededError(f"{words}. A proxy or this network wants a login, or the server moved")
    if status in _BUSY:
        return BusyError(words)
    return SendError(words) if status >= 500 else RejectedError(words)


def _words(status: int, said: str) -> str:
    """What the server answered, without what it repeats of the item: that is somebody's data.

    A schema's own words hold the value that it refuses, so only the place of it is told; and what is neither words nor
    told by a name that we know (FastAPI's list of details holds the input) is left out.
    """
    answer = _object(said)
    if "validator" in answer and isinstance(path := answer.get("path"), list):
        words: Any = f"the schema of the collection refuses {'.'.join(['$', *map(str, path)])} ({answer['validator']})"
    elif said.lstrip()[:1] in ("{", "["):
        words = answer.get("error", answer.get("detail"))
    else:
        words = said  # a proxy's
    reason = clean(words[: 8 * REASON]) if isinstance(words, str) else ""
    return f"the server answered {status}{f': {reason}' if reason else ''}"


def _object(said: str) -> dict[str, Any]:
    """The JSON object that was said; empty where it was something else."""
    try:
        answer = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def receipt_of(success: Any) -> dict[str, Any]:
    """What is worth keeping of a success: the hash and the time that the server gave it."""
    return {"hash": success.hash, "timestamp": success.timestamp}


def checked_path(path: Path) -> Path:
    """The path, if it can be one.

    Raises:
        ValueError: it says how one looks.
    """
    if isinstance(path, str) and not _PATH.fullmatch(path.replace("{id}", "id")):
        raise ValueError(f"path must be like '/push/observations/{{id}}', not {path!r}")
    return path


def path_for(entry: OutboxEntry[Any], path: Path) -> str:
    """The push path of one entry.

    Raises:
        RejectedError: it could lead elsewhere, or no server takes it.
    """
    if isinstance(path, str):
        place, fits = path.replace("{id}", entry.id), "{id}" not in path or _PART.fullmatch(entry.id) is not None
    else:
        place, fits = path(entry), True
    if not fits or not _PATH.fullmatch(place) or any(part in (".", "..") for part in place.split("/")):
        raise RejectedError(
            "Starfish takes no such path for this entry: '/push/', then parts of plain letters, digits and . _ : @ -"
        )
    return place


def pull_path(path: str) -> str:
    """Where what was pushed to that path is pulled from."""
    return path.replace("/push/", "/pull/", 1)


def document_of(entry: OutboxEntry[Any], body: Body | None) -> Document:
    """What is to be sent of an entry: its item, or what ``body`` makes of it; checked."""
    return checked(entry.item if body is None else body(entry), "the item" if body is None else "what body returned")


def checked(value: object, what: str) -> Document:
    """The document as the server will read it and keep it.

    Raises:
        RejectedError: it is no object, or holds what the server takes and then cannot give back, such as NaN.
    """
    if not isinstance(value, dict):
        raise RejectedError(f"a Starfish document is a dict, and {what} is of type {type(value).__name__}")
    try:
        document: Document = decode(encode_item(value, big_ints=True, max_bytes=_LARGEST))
    except ItemError as error:
        raise RejectedError(f"{what} cannot be sent: {error}") from error
    return _kept(document)


def _kept(document: Document) -> Document:
    return {
        key: _kept(value) if isinstance(value, dict) else value for key, value in document.items() if key not in DROPPED
    }


def plain(value: Any) -> Document:
    """What the server has, its numbers read as ours are: 1.0 and 1 are one."""
    document: Document = decode(encode_foreign(value))
    return document


def canonical(value: Any) -> str:
    """One text for all JSON values that are equal."""
    return json.dumps(value, sort_keys=True)


def equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are; in Python ``True == 1``."""
    return canonical(one) == canonical(other)


def hash_of_the_protocol() -> Callable[[Document], str] | None:
    """``starfish_protocol.compute_hash`` where it is installed, as it is with the SDK."""
    try:
        from starfish_protocol import compute_hash
    except ImportError:
        return None
    function: Callable[[Document], str] = compute_hash
    return function
