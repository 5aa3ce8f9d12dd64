"""One entry, looked at closely: what it holds, why it is not sent, what happened to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from starfish_outbox import codec
from starfish_outbox.entry import FAILED
from starfish_outbox.jsontext import DamagedText, decode, encode_foreign
from starfish_outbox.queue import OutboxQueue


@dataclass(frozen=True)
class Details:
    """What is known of one entry.

    Attributes:
        id: its id.
        status: its status, or ``gone`` when it is not in the queue any more.
        attempts: how many sends of it failed.
        item: its item as JSON over several lines; empty when it is gone.
        reason: why it is not sent, in words.
        history: what happened to it, a line for each, the oldest first.
    """

    id: str
    status: str
    attempts: int
    item: str
    reason: str
    history: tuple[str, ...]

    @property
    def parked(self) -> bool:
        """Whether it waits for a person, who may correct it."""
        return self.status == FAILED


async def look_at(queue: OutboxQueue[Any], id: str) -> Details:
    """What is known now.

    Raises:
        NotHydratedError: the queue is bound to no identity.
        CacheError: the store cannot be read.
    """
    reason = (await queue.explain(id)).reason
    history = tuple(map(str, await queue.history(id)))
    binding = await queue.bound_or_none()
    entry = None if binding is None else binding.state.first(id)
    if entry is None:
        return Details(id, "gone", 0, "", reason, history)
    return Details(id, str(entry.status), entry.attempts, item_text(codec.public(entry).item), reason, history)


def item_text(item: Any) -> str:
    """The item as JSON that a person can read and edit."""
    try:
        return json.dumps(item, ensure_ascii=False, indent=2)
    except (TypeError, ValueError, RecursionError):
        return encode_foreign(item)


def read_item(text: str) -> Any:
    """The item that somebody typed.

    Raises:
        ValueError: it is not JSON; where, in words.
    """
    try:
        return decode(text)
    except DamagedText as error:
        raise ValueError(f"this is not JSON: {error}") from error
