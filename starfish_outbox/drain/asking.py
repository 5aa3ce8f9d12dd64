"""What a send said: the call, and its answer as one verdict an entry."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from starfish_outbox import codec
from starfish_outbox.drain.options import DrainOptions
from starfish_outbox.drain.settling import Answer
from starfish_outbox.entry import StoredEntry
from starfish_outbox.errors import UnackedError
from starfish_outbox.outcomes import outcome_of


@dataclass(frozen=True)
class _Raised:
    """A send that raised, rather than answer an exception."""

    error: Exception


async def ask(options: DrainOptions, entries: Sequence[StoredEntry]) -> list[Answer]:
    """What became of each entry, judged by the rule.

    Raises:
        TypeError: what ``send`` answered is no sign of success; or the caller's rule is broken, and raised this.
        BaseException: it was cancelled or interrupted: whether it arrived is unknown.
    """
    try:
        said = await _call(options, entries)
    except Exception as error:  # noqa: BLE001  # whatever a send raises is judged by the rule
        said = _Raised(error)
    return [_judged(options, one) for one in _one_each(options, said, len(entries))]


async def _call(options: DrainOptions, entries: Sequence[StoredEntry]) -> object:
    """What ``send`` answers: of one entry whatever it returned, of many a sequence."""
    copies = [codec.public(entry) for entry in entries]
    argument = copies if options.batch_size else copies[0]
    if options.timeout is None:
        answer = options.send(argument)
        return await answer if inspect.isawaitable(answer) else answer
    clock = asyncio.timeout(options.timeout)
    try:
        async with clock:
            answer = options.send(argument)
            return await answer if inspect.isawaitable(answer) else answer
    except TimeoutError as error:
        if clock.expired():
            raise UnackedError(f"no answer within {options.timeout:g} s") from error
        raise


def _one_each(options: DrainOptions, said: object, count: int) -> Sequence[object]:
    if isinstance(said, _Raised):
        return [said.error] * count
    if not options.batch_size:
        return [said]
    if said is None:
        return [None] * count
    if not isinstance(said, Sequence) or isinstance(said, str | bytes) or len(said) != count:
        raise TypeError(
            f"with batch_size= a send answers a list with one answer for each of its {count} entries (an exception "
            f"for one that did not get through), or None for all sent; it answered {type(said).__name__}"
        )
    return said


def _judged(options: DrainOptions, said: object) -> Answer:
    if isinstance(said, Exception):
        return Answer(outcome_of(said, options.rule), said)
    if isinstance(said, BaseException):  # a send that was cancelled, as asyncio.gather may list it
        return Answer("unacked", UnackedError(f"the send ended with {type(said).__name__}"))
    if inspect.isawaitable(said) or (isinstance(said, type) and issubclass(said, BaseException)):
        name = said.__name__ if isinstance(said, type) else type(said).__name__
        raise TypeError(f"a send answered {name}, which nobody awaited or raised: that is no sign of success")
    return Answer("sent", None, said)
