"""A durable, per-identity offline write-queue whose stored form a TypeScript program can read and write.

```python
from starfish_outbox import drain_outbox, open_outbox

async with open_outbox("me") as queue:
    await queue.enqueue("reading-1", {"celsius": 21.5})  # stored before this returns
    print(await drain_outbox(queue, send))  # later, when there is a network
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Now, not when first used: a later import of the module of the same name would put itself in the function's place.
from starfish_outbox.schema import schema as schema

if TYPE_CHECKING:
    from starfish_outbox.backoff import Backoff as Backoff
    from starfish_outbox.caches.base import LocalCache as LocalCache
    from starfish_outbox.caches.file import FileCache as FileCache
    from starfish_outbox.caches.memory import MemoryCache as MemoryCache
    from starfish_outbox.caches.sqlite import SQLiteCache as SQLiteCache
    from starfish_outbox.codec import content_id as content_id
    from starfish_outbox.drain import (
        DrainProgress as DrainProgress,
        DrainResult as DrainResult,
        DrainState as DrainState,
        drain_outbox as drain_outbox,
        keep_draining as keep_draining,
    )
    from starfish_outbox.entry import (
        LastError as LastError,
        OutboxEntry as OutboxEntry,
        OutboxStatus as OutboxStatus,
        reset_sending_to_queued as reset_sending_to_queued,
    )
    from starfish_outbox.errors import (
        AuthNeededError as AuthNeededError,
        BusyError as BusyError,
        CacheError as CacheError,
        CacheWriteError as CacheWriteError,
        ConflictError as ConflictError,
        CorruptQueueError as CorruptQueueError,
        DuplicateIdError as DuplicateIdError,
        ItemError as ItemError,
        NotHydratedError as NotHydratedError,
        OfflineError as OfflineError,
        OutboxError as OutboxError,
        OutboxFullError as OutboxFullError,
        QueueLockedError as QueueLockedError,
        RejectedError as RejectedError,
        SendError as SendError,
        UnackedError as UnackedError,
    )
    from starfish_outbox.knowing import QueueStatus as QueueStatus
    from starfish_outbox.opening import open_outbox as open_outbox
    from starfish_outbox.queue import OutboxQueue as OutboxQueue
    from starfish_outbox.state import Counts as Counts

_HOME = {
    "backoff": "Backoff",
    "caches.base": "LocalCache",
    "caches.file": "FileCache",
    "caches.memory": "MemoryCache",
    "caches.sqlite": "SQLiteCache",
    "codec": "content_id",
    "drain": "DrainProgress DrainResult DrainState drain_outbox keep_draining",
    "entry": "LastError OutboxEntry OutboxStatus reset_sending_to_queued",
    "errors": "AuthNeededError BusyError CacheError CacheWriteError ConflictError CorruptQueueError "
    "DuplicateIdError ItemError "
    "NotHydratedError OfflineError OutboxError OutboxFullError QueueLockedError RejectedError SendError UnackedError",
    "knowing": "QueueStatus",
    "opening": "open_outbox",
    "queue": "OutboxQueue",
    "state": "Counts",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = sorted([*_MODULE_OF, "schema"])  # noqa: PLE0605  # the names above, each imported when it is first used
# What ``%load_ext starfish_outbox`` looks for; names for nobody else.
_MODULE_OF |= dict.fromkeys(("load_ipython_extension", "unload_ipython_extension"), "notebook.magics")


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
