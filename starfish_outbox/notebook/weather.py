"""Bad weather on purpose, around a ``send``: no network, and answers that get lost."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from starfish_outbox.drain.options import is_async
from starfish_outbox.errors import OfflineError, UnackedError
from starfish_outbox.notebook.sending import InThread, Threads

if TYPE_CHECKING:
    from starfish_outbox.drain import Send, SendMany


class Weather:
    """A ``send`` around another one, with a switch for the network and dice for its answers.

    Args:
        send: what delivers, one entry or a list of them. A plain function is called in a thread, so that a slow one
            does not hold up the notebook.
        seed: of the dice.

    Attributes:
        online: while it is False, nothing is sent: every call raises ``OfflineError``.
        lose_answers: how many of the deliveries lose their answer, from 0 to 1: the remote has it, and
            ``UnackedError`` is raised.
        latency: seconds that every call takes longer.
        turned_away: calls that found the network off.
        lost: answers that got lost.
    """

    def __init__(self, send: Send | SendMany, *, seed: int = 0) -> None:
        if not callable(send):
            raise TypeError(f"send is a function that takes an entry, not {type(send).__name__}")
        self._send = send if is_async(send) else InThread(send, Threads(), None, None)
        self._random = Random(seed)  # noqa: S311  # dice for a demonstration
        self.online = True
        self.lose_answers = 0.0
        self.latency = 0.0
        self.turned_away = 0
        self.lost = 0

    async def __call__(self, argument: Any) -> object:
        """Send, in the weather there is."""
        if self.latency:
            await asyncio.sleep(self.latency)
        if not self.online:
            self.turned_away += 1
            raise OfflineError("the network is switched off")
        answer = await self._deliver(argument)
        if not isinstance(argument, list):
            if self._loses():
                raise UnackedError("the answer got lost, as asked for")
            return answer
        each = answer if isinstance(answer, Sequence) and not isinstance(answer, str | bytes) else None
        if answer is not None and (each is None or len(each) != len(argument)):
            return answer  # the drain says what is wrong with it
        answers = [None] * len(argument) if each is None else each
        return [
            UnackedError("the answer got lost, as asked for")
            if not isinstance(one, BaseException) and self._loses()
            else one
            for one in answers
        ]

    async def _deliver(self, argument: Any) -> object:
        answer = self._send(argument)
        return await answer if inspect.isawaitable(answer) else answer

    def _loses(self) -> bool:
        if self._random.random() >= self.lose_answers:
            return False
        self.lost += 1
        return True
