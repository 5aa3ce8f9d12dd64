"""What a drain can be told, checked before anything is touched."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, TypeAlias

from starfish_outbox.backoff import Backoff
from starfish_outbox.checks import check_limit, check_max_attempts
from starfish_outbox.drain.results import DrainProgress
from starfish_outbox.entry import OutboxEntry
from starfish_outbox.outcomes import Classify, classify as default_rule

Send: TypeAlias = Callable[[OutboxEntry[Any]], Awaitable[object] | object]
SendMany: TypeAlias = Callable[[list[OutboxEntry[Any]]], Awaitable[object] | object]
"""With ``batch_size``: takes entries, and answers for each in that order: an exception, or anything else for sent."""

Lane: TypeAlias = Callable[[OutboxEntry[Any]], Hashable]
OnParked: TypeAlias = Literal["free", "hold"]


@dataclass(frozen=True)
class DrainOptions:
    """The options of `drain_outbox`, which says what they mean.

    Raises:
        ValueError, TypeError: one is unfit, or two do not go together.
    """

    send: Callable[..., Awaitable[object] | object]
    max_attempts: int = 5
    limit: int | None = None
    timeout: float | None = None
    on_progress: Callable[[DrainProgress], object] | None = None
    classify: Classify | None = None
    backoff: Backoff | None = None
    concurrency: int = 1
    lane: Lane | None = None
    on_parked: OnParked = "free"
    batch_size: int | None = None
    rate: float | None = None
    adaptive: bool = False
    receipts: bool = False
    dice: Callable[[], float] = field(default=random.random)

    def __post_init__(self) -> None:
        check_max_attempts(self.max_attempts)
        self._check_functions()
        limit = self.limit
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ValueError(f"limit is a whole number of at least 1, not {limit!r}")
        check_number("timeout", self.timeout, "seconds")
        check_number("rate", self.rate, "entries a second")
        if self.concurrency is None:
            raise TypeError("concurrency is a whole number, not None")
        check_limit("concurrency", self.concurrency)
        check_limit("batch_size", self.batch_size)
        if self.on_parked not in ("free", "hold"):
            raise ValueError(f"on_parked is 'free' or 'hold', not {self.on_parked!r}")
        if self.on_parked == "hold" and self.lane is None:
            raise ValueError("on_parked='hold' is about lanes: give lane= as well")
        if self.backoff is not None and not isinstance(self.backoff, Backoff):
            raise TypeError(f"backoff is a Backoff, not {type(self.backoff).__name__}")

    def _check_functions(self) -> None:
        if not callable(self.send):
            raise TypeError(f"send is a function that takes an entry, not {type(self.send).__name__}")
        if self.on_progress is not None and not callable(self.on_progress):
            raise TypeError(f"on_progress is a function, not {type(self.on_progress).__name__}")
        if inspect.iscoroutinefunction(self.on_progress):
            raise TypeError("on_progress is a plain function: nobody would await it")
        if self.lane is not None and (not callable(self.lane) or inspect.iscoroutinefunction(self.lane)):
            raise TypeError("lane is a plain function from an entry to the name of its lane")
        needy = {"timeout=": self.timeout is not None, "concurrency=": self.concurrency != 1}
        for name in (name for name, given in needy.items() if given and not is_async(self.send)):
            raise ValueError(
                f"{name} needs an async send: nothing can interrupt a plain function, or run two of it at a time; "
                "write `async def send`"
            )

    @property
    def rule(self) -> Classify:
        """What an exception of ``send`` stands for."""
        return self.classify or default_rule


def check_number(name: str, value: object, unit: str) -> None:
    """Raises unless it is None or a finite number above 0."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf):
        raise ValueError(f"{name} is a number of {unit} above 0, not {value!r}")


def is_async(send: Callable[..., object]) -> bool:
    """Whether it is an ``async def``, a partial of one, or an object whose ``__call__`` is one."""
    function: Any = send
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(type(function), "__call__", None)  # noqa: B004  # its code, not whether it can be called
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(code)
