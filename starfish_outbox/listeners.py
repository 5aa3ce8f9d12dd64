"""Who is told after every change: in the order of subscription, none disturbed by another."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Final, cast

from starfish_outbox.caches.base import log

_MOST_ROUNDS: Final = 100


class Listeners:
    """Subscriptions of one queue."""

    def __init__(self) -> None:
        self._listeners: dict[int, Callable[[], None]] = {}
        self._given = 0
        self._notifying = False
        self._again = False

    def add(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Subscribe; the answer ends this subscription and no other, also of the same function.

        Raises:
            TypeError: the listener is not callable, or is a coroutine function, which nobody would await.
        """
        if not callable(listener) or inspect.iscoroutinefunction(listener):
            raise TypeError("a listener is a plain function without arguments; start tasks from inside it")
        self._given += 1
        number = self._given
        self._listeners[number] = listener

        def unsubscribe() -> None:
            self._listeners.pop(number, None)

        return unsubscribe

    def notify(self) -> None:
        """Call everybody who is subscribed now; a change made by a listener is told in one more round."""
        if self._notifying:
            self._again = True
            return
        self._notifying = True
        try:
            for _ in range(_MOST_ROUNDS):
                self._again = False
                for listener in list(self._listeners.values()):
                    _call(listener)
                if not self._again:
                    return
            log.error("listeners keep changing the queue that they are told about; stopped telling them")
        finally:
            self._notifying = False


def _call(listener: Callable[[], None]) -> None:
    try:
        answer = cast("Callable[[], object]", listener)()
    except Exception:  # noqa: BLE001  # one listener must not disturb the others
        log.exception("a listener of the outbox failed")
        return
    if isinstance(answer, Awaitable):
        log.error("a listener of the outbox answered a coroutine, which nobody awaits")
        if inspect.iscoroutine(answer):
            answer.close()
