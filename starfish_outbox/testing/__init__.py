"""What you need to test your own ``send`` and your own cache: bad networks, broken disks and wrong clocks, on purpose.

- `FlakySender`: a ``send`` that fails as planned, around yours or around a remote in memory.
- `MisbehavingServer`: an HTTP server on loopback that loses answers, hangs, refuses and limits.
- `FaultyCache`: any cache, failing as planned; `CacheContract`: the tests that a cache of your own has to pass.
- `ManualClock`: a clock that jumps when it is told.

All take their faults from one vocabulary: `Lost`, `Slow`, `Hang`, exceptions, and for the server `Answer` and
`Truncated`; by ``plan(...)``, one a call, or by ``odds=`` and ``seed=``. Nothing here needs an installed package.
"""

from __future__ import annotations

from starfish_outbox.testing.cache import FaultyCache
from starfish_outbox.testing.clock import ManualClock
from starfish_outbox.testing.contract import CacheContract
from starfish_outbox.testing.faults import Answer, Hang, Lost, Slow, Truncated
from starfish_outbox.testing.sender import FlakySender
from starfish_outbox.testing.server import MisbehavingServer

__all__ = [
    "Answer",
    "CacheContract",
    "FaultyCache",
    "FlakySender",
    "Hang",
    "Lost",
    "ManualClock",
    "MisbehavingServer",
    "Slow",
    "Truncated",
]
