"""Every exception of the package, grouped by what the caller can do next.

```
OutboxError
├── NotHydratedError   (RuntimeError)           call ``await queue.hydrate(key)`` first
├── ItemError          (ValueError, TypeError)  not JSON that both languages read back equal            .path
├── DuplicateIdError   (ValueError)             ``on_duplicate="raise"``: the id is live, or was sent       .id
├── OutboxFullError                             a limit the user set is reached
├── CacheError                                  the cause is __cause__
│   ├── CacheWriteError                         nothing changed in memory; on disk unknown; same id is safe
│   ├── CorruptQueueError                       set aside, or left untouched                            .moved_to
│   └── QueueLockedError                        another process owns it                                 .owner
└── SendError                                   raised by ``send`` to say what happened to one entry
    ├── OfflineError                            certainly not sent: nobody was reached
    ├── UnackedError                            maybe sent: no answer came back
    ├── BusyError                               later, and not because of this entry                    .retry_after
    ├── AuthNeededError                         credentials (or the clock) are wrong, not this entry
    └── RejectedError                           this entry will never be accepted
        └── ConflictError                       somebody else's version is there                        .remote
```

What code needs stands in attributes; the text is for people and says what happened, to which key and id, and what to
do. No message ever holds an item's content.
"""

from __future__ import annotations


class OutboxError(Exception):
    """Base of everything this package raises on purpose."""


class NotHydratedError(OutboxError, RuntimeError):
    """A change was asked of a queue that is bound to no identity."""


class ItemError(OutboxError, ValueError, TypeError):
    """An item that JSON in Python and JavaScript would not read back equal; nothing was stored.

    Attributes:
        path: where the offending value is, such as ``$.readings[3].value``; ``$`` is the item itself.
    """

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


class DuplicateIdError(OutboxError, ValueError):
    """``enqueue(..., on_duplicate="raise")``: the id is live, or was delivered before.

    Attributes:
        id: the id.
    """

    def __init__(self, message: str, id: str) -> None:
        super().__init__(message)
        self.id = id


class OutboxFullError(OutboxError):
    """A limit that the user set (``max_entries``, ``max_bytes``) is reached; nothing was stored."""


class CacheError(OutboxError):
    """The place where the queue lives failed; the original error is ``__cause__``."""


class CacheWriteError(CacheError):
    """A change could not be made durable.

    The queue in memory is as it was before the call. Whether the disk took the change is unknown (a failed
    fsync may still have stored it), so trying the same id again is always safe.
    """


class CorruptQueueError(CacheError):
    """A stored text that is not understood as a queue.

    Attributes:
        moved_to: the key or path of the copy that was set aside, or None when the original was left untouched.
    """

    def __init__(self, message: str, moved_to: str | None = None) -> None:
        super().__init__(message)
        self.moved_to = moved_to


class QueueLockedError(CacheError):
    """Another owner holds the queue, and this store allows one at a time.

    Attributes:
        owner: what is known of the owner, such as ``"pid 4711 on lab-3"``; empty when nothing is.
    """

    def __init__(self, message: str, owner: str = "") -> None:
        super().__init__(message)
        self.owner = owner


class SendError(OutboxError):
    """Raised by ``send``: what happened to this entry. Subclasses say what the drain does next."""


class OfflineError(SendError):
    """Certainly not sent. The entry goes back, no attempt is counted, the pass ends."""


class UnackedError(SendError):
    """Maybe sent. The entry is marked ``maybe_sent`` and asked once more; three in a row end the pass."""


class BusyError(SendError):
    """The server says "later". The entry goes back, no attempt is counted, the pass ends.

    Attributes:
        retry_after: seconds the server asked for, or None when it did not say.
    """

    def __init__(self, message: str = "the server is busy", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AuthNeededError(SendError):
    """The credentials are refused (or the clock is off). The entry goes back, the pass ends, the user is told."""


class RejectedError(SendError):
    """The server will never take this entry. It is parked as ``failed`` at once, with the reason."""


class ConflictError(RejectedError):
    """The server holds another version under this entry's id.

    Attributes:
        remote: what the server said of its version (a hash, an ETag), or None.
    """

    def __init__(self, message: str, remote: str | None = None) -> None:
        super().__init__(message)
        self.remote = remote
