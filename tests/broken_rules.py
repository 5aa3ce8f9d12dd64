"""Variants of the queue, each with one rule left out: a proof that does not find these proves nothing.

They are made by subclassing and patching at the seams between the parts, never by copying.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest.mock import patch

from starfish_outbox import LocalCache, OutboxQueue
from starfish_outbox.binding import Binding
from starfish_outbox.caches import adapter
from starfish_outbox.caches.adapter import AdaptedStore
from starfish_outbox.caches.base import Insert, Member, Op, Outcome, Update, settled
from starfish_outbox.drain.passes import Pass
from starfish_outbox.entry import Claim, StoredEntry
from starfish_outbox.transitions import let_go, remove
from tests.schedule_plan import Rules


class RemovesById(AdaptedStore):
    """What was sent is removed by its id, not by the token of its claim."""

    def __init__(self, cache: LocalCache) -> None:
        super().__init__(cache)
        self._ids: dict[int, str] = {}

    async def apply(self, key: str, member: Member, ops: Sequence[Op], *, late: bool = False) -> list[Outcome]:
        by_id = [
            Update(remove, id=self._ids[op.seq], sent=True)
            if isinstance(op, Update) and op.sent and op.seq in self._ids
            else op
            for op in ops
        ]
        outcomes = await super().apply(key, member, by_id, late=late)
        for op, outcome in zip(ops, outcomes, strict=True):
            if isinstance(op, Update) and op.seq is not None and outcome.entry is not None:
                self._ids[op.seq] = outcome.entry.id or ""
        return outcomes


class WritesTwoAtOnce(AdaptedStore):
    """Nobody waits for anybody: as many writes under way as there are callers."""

    def __init__(self, cache: LocalCache) -> None:
        super().__init__(cache)
        self._turn: Any = _NoTurn()

    async def _write(self, key: str, keyed: Any, **options: Any) -> None:
        await _write_now(self, key, keyed)


class ForgetsHungWrites(AdaptedStore):
    """A write that was given up is forgotten, though it may still land."""

    async def _write(self, key: str, keyed: Any, **options: Any) -> None:
        await _write_now(self, key, keyed)


class StoresClaimsLater(AdaptedStore):
    """A claim is answered at once and stored in the background; everything else is stored first."""

    async def apply(self, key: str, member: Member, ops: Sequence[Op], *, late: bool = False) -> list[Outcome]:
        self._later = all(isinstance(op, Update) and op.seq is not None and not op.sent for op in ops)
        return await super().apply(key, member, ops, late=late)

    async def _write(self, key: str, keyed: Any, **options: Any) -> None:
        if not self._later:
            await super()._write(key, keyed, **options)
            return
        writing = asyncio.ensure_future(super()._write(key, keyed, **options))
        writing.add_done_callback(lambda task: task.cancelled() or task.exception())


class SwallowsFailedWrites(AdaptedStore):
    """A failed write is taken for done, as the published packages do."""

    async def _write(self, key: str, keyed: Any, **options: Any) -> None:
        try:
            await super()._write(key, keyed, **options)
        except Exception:  # noqa: BLE001  # that is the rule left out
            keyed.stored = None


class KeepsDeadClaims(AdaptedStore):
    """A claim lives on when the pass that made it is over."""

    def drop_claimant(self, claimant: int) -> None:
        return


class GoesToWhoeverComes(OutboxQueue[Any]):
    """A call that waits for a hydrate belongs to whoever is signed in at the end."""

    async def bound_or_none(self) -> Binding | None:
        while self._hydrating is not None:
            await self._hydrating.wait()
        if self._binding is not None:
            self._binding.attach()
        return self._binding


class SeesNoSwitch(OutboxQueue[Any]):
    """A pass is not told that the queue moved on."""

    async def bound_or_none(self) -> Any:
        binding = await super().bound_or_none()
        return None if binding is None else _Undetached(binding)


class _Undetached:
    detached = False

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._binding, name)


class _NoTurn:
    def turn(self) -> _NoTurn:
        return self

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


async def _write_now(store: AdaptedStore, key: str, keyed: Any) -> None:
    text = keyed.text()
    await settled(store._cache.set_item(key, text))
    keyed.stored = text


def _on(store: Callable[[LocalCache], AdaptedStore]) -> Callable[..., OutboxQueue[Any]]:
    """Makes queues whose store is of this class, one for each cache."""
    stores: dict[int, tuple[LocalCache, AdaptedStore]] = {}

    def make(cache: LocalCache, **options: Any) -> OutboxQueue[Any]:
        queue = OutboxQueue[Any](cache, **options)
        if id(cache) not in stores:
            stores.clear()
            stores[id(cache)] = (cache, store(cache))
        queue._store = stores[id(cache)][1]
        return queue

    return make


async def _no_word(self: Pass, seq: int, step: object) -> None:
    """In place of ``_put_back``."""


def _patch(target: object, name: str, replacement: object) -> Callable[[], AbstractContextManager[object]]:
    return lambda: patch.object(target, name, replacement)


def _free_at_once(claim: Claim | None, owner: str, claimants: Iterable[int]) -> bool:
    return True


def _free_unmarked(entry: StoredEntry, owner: str, now_ms: int) -> StoredEntry:
    return let_go(entry) or entry


def _always_added(entry: StoredEntry) -> Insert:
    return Insert(entry)


BROKEN: Final[tuple[Rules, ...]] = (
    Rules("removes-by-id", _on(RemovesById), found_as="lost|never delivered"),
    Rules(
        "goes-on-after-a-switch", SeesNoSwitch, found_as="is sent while . is signed in|is sent while None is signed in"
    ),
    Rules("goes-to-whoever-comes", GoesToWhoeverComes, found_as="stored under|is sent while"),
    Rules("writes-two-at-once", _on(WritesTwoAtOnce), found_as="lost|stored again|sent again|sent by two"),
    Rules("forgets-hung-writes", _on(ForgetsHungWrites), found_as="lost|stored again|sent again"),
    Rules("stores-claims-later", _on(StoresClaimsLater), found_as="not marked"),
    Rules("swallows-failed-writes", _on(SwallowsFailedWrites), found_as="lost"),
    Rules(
        "skips-settlement-when-cancelled",
        _on(KeepsDeadClaims),
        _patch(Pass, "_put_back", _no_word),
        found_as="stuck in sending|did not drain",
    ),
    Rules(
        "hydrate-frees-every-claim",
        OutboxQueue,
        _patch(adapter, "is_free", _free_at_once),
        found_as="by two at once|held|unknown|known",
    ),
    Rules(
        "dead-claims-come-back-unmarked", OutboxQueue, _patch(adapter, "free", _free_unmarked), found_as="not marked"
    ),
    Rules(
        "a-cancelled-flush-tells-nobody",
        OutboxQueue,
        _patch(Binding, "_flushed", lambda *_: None),
        found_as="nothing will ever wake",
    ),
)
