"""Systems that are wrong, which the checks of the benchmark must catch."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.adapters.base import Pair, Remote
from tests.bench.adapters.raw import RawLog, RawSQLite


class Unsynced(RawLog):
    """Said to be of class A, and never asks the disk."""

    def sync(self, descriptor: int) -> None:
        pass


class Forgetful(RawSQLite):
    """Acknowledges what it has not committed."""

    def _insert(self, pairs: Sequence[Pair]) -> None:
        if len(pairs) > 1:  # as it is filled
            super()._insert(pairs)


class Disordered(RawSQLite):
    """Sends the newest first."""

    async def drain(self, number: int, concurrency: int, remote: Remote) -> None:
        newest = self.connection.execute("SELECT seq, id FROM entries ORDER BY seq DESC LIMIT ?", (number,)).fetchall()
        for seq, id in newest:
            remote.take(id)
            self.connection.execute("DELETE FROM entries WHERE seq = ?", (seq,))


class Doubling(RawSQLite):
    """Sends the oldest, and keeps it."""

    async def drain(self, number: int, concurrency: int, remote: Remote) -> None:
        oldest = self.connection.execute("SELECT id FROM entries ORDER BY seq LIMIT ?", (number,)).fetchall()
        for (id,) in oldest:
            remote.take(id)
