"""Arguments that a queue refuses, with a reason, before anything is touched."""

from __future__ import annotations

from starfish_outbox.caches.base import SET_ASIDE
from starfish_outbox.jsontext import MAX_SAFE_INTEGER


def check_limit(name: str, value: object) -> None:
    """Raises unless it is None or a whole number of at least 1."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} is at least 1, not {value}")


def check_max_attempts(value: object) -> None:
    """Raises unless it is a whole number of at least 1."""
    if value is None:
        raise TypeError("max_attempts is a whole number, not None")
    check_limit("max_attempts", value)


def check_key(key: object) -> None:
    """Raises unless it can be the cache key of a queue."""
    if not isinstance(key, str):
        raise TypeError(f"a cache key is a string, not {type(key).__name__}")
    if not key:
        raise ValueError("the cache key is empty; choose one for each identity")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the cache key {key!r} holds a lone surrogate, which is no Unicode text") from error
    if SET_ASIDE.search(key):
        raise ValueError(f"{key!r} names a quarantine; choose another cache key")


def check_id_type(id: object) -> None:
    """Raises unless it is a string: another program may have stored an id that we would not accept as new."""
    if not isinstance(id, str):
        raise TypeError(
            f"an id is a string, not {type(id).__name__} (languages compare other types differently): use str(id), or "
            "content_id(item)"
        )


def check_id(id: str) -> None:
    """Raises unless it can be the id of a new entry."""
    check_id_type(id)
    if not id:
        raise ValueError("the id is empty; content_id(item) makes a stable one")
    if not id.isascii():
        try:
            id.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the id {id!r} holds a lone surrogate, which is no Unicode text") from error


def check_ts(ts: object) -> None:
    """Raises unless it is None or whole milliseconds since the Unix epoch."""
    if ts is None:
        return
    if isinstance(ts, bool) or not isinstance(ts, int):
        raise TypeError(f"ts is whole milliseconds since the Unix epoch, not {type(ts).__name__}")
    if not 0 <= ts <= MAX_SAFE_INTEGER:
        raise ValueError(f"ts is milliseconds since the Unix epoch, not {ts}")
