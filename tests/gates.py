"""A real ``LocalCache`` whose calls can be held, failed or left hanging, and stored texts in short."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

Call = Literal["get", "set"]


class Gate:
    """Where one call stops: ``await gate.reached()``, then ``gate.open()`` or ``gate.open(error)``.

    With ``landed`` the call has taken effect when it stops there.
    """

    def __init__(self, *, landed: bool = False) -> None:
        self.landed = landed
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()
        self._error: BaseException | None = None

    async def reached(self) -> None:
        async with asyncio.timeout(10):
            await self._reached.wait()

    def open(self, error: BaseException | None = None) -> None:
        self._error = error
        self._opened.set()

    async def stop(self) -> None:
        self._reached.set()
        await self._opened.wait()
        if self._error is not None:
            raise self._error


class GatedCache:
    """Texts in a dict; ``hold`` and ``fail`` say what happens to the next call of a kind, each call taking one plan.

    Attributes:
        texts: what is stored; a test may put in what no cache should hold.
        broken: while set, every ``set_item`` raises it, having done nothing.
        log: every call that was made, such as ``("set", "outbox.ana")``, when it began.
        most_at_once: how many ``set_item`` were ever under way together.
    """

    def __init__(self, texts: Mapping[str, Any] | None = None) -> None:
        self.texts: dict[str, Any] = dict(texts or {})
        self.broken: BaseException | None = None
        self.log: list[tuple[str, str]] = []
        self.most_at_once = 0
        self._under_way = 0
        self._plans: dict[str, deque[Gate | BaseException]] = {"get": deque(), "set": deque()}

    def hold(self, call: Call, *, landed: bool = False) -> Gate:
        """The next call of this kind (behind those already planned) stops at the gate that this answers."""
        gate = Gate(landed=landed)
        self._plans[call].append(gate)
        return gate

    def fail(self, call: Call, error: BaseException) -> None:
        """The next call of this kind raises, having done nothing."""
        self._plans[call].append(error)

    def calls(self, call: str) -> int:
        return sum(1 for kind, _ in self.log if kind == call)

    async def get_item(self, key: str) -> Any:
        self.log.append(("get", key))
        plan = self._plan("get")
        text = self.texts.get(key)
        if isinstance(plan, Gate):
            await plan.stop()
        return text if isinstance(plan, Gate) and plan.landed else self.texts.get(key)

    async def set_item(self, key: str, value: str) -> None:
        self.log.append(("set", key))
        if self.broken is not None:
            raise self.broken
        plan = self._plan("set")
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            if isinstance(plan, Gate) and not plan.landed:
                await plan.stop()
            self.texts[key] = value
            if isinstance(plan, Gate) and plan.landed:
                await plan.stop()
        finally:
            self._under_way -= 1

    async def remove_item(self, key: str) -> None:
        self.log.append(("remove", key))
        self.texts.pop(key, None)

    def _plan(self, call: Call) -> Gate | None:
        if not self._plans[call]:
            return None
        plan = self._plans[call].popleft()
        if isinstance(plan, BaseException):
            raise plan
        return plan


class PlainFunctions:
    """A cache of plain functions, as a wrapper of a synchronous storage is; ``error`` is raised by the next write."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.error: Exception | None = None

    def get_item(self, key: str) -> str | None:
        return self.texts.get(key)

    def set_item(self, key: str, value: str) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.texts[key] = value

    def remove_item(self, key: str) -> None:
        self.texts.pop(key, None)


def array(*entries: str, status: str = "queued") -> str:
    """A stored text with these ids, whose items name them."""
    members = [
        {"id": id, "item": f"item of {id}", "status": status, "attempts": 0, "enqueuedAt": 1_700_000_000_000}
        for id in entries
    ]
    return json.dumps(members)


def ids(text: str | None) -> list[str]:
    """The ids in a stored text, in order."""
    return [element["id"] for element in json.loads(text or "[]")]


def short(text: str | None) -> list[str]:
    """``id:status`` of each stored entry, in order."""
    return [f"{element['id']}:{element['status']}" for element in json.loads(text or "[]")]
