"""What stands between a panel and the world: bad weather around its ``send``, and how often it is drawn."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from starfish_outbox import OutboxEntry
from starfish_outbox.notebook.throttle import UPDATES_PER_SECOND, Throttle
from starfish_outbox.notebook.weather import Weather
from tests.drains import in_virtual_time, now, opened_with


class Forgetful(Throttle):
    """The broken variant: what comes too soon after something that was drawn is dropped."""

    def _rested(self) -> None:
        self._handle = None


@pytest.mark.parametrize(("kind", "right"), [(Throttle, True), (Forgetful, False)])
def test_twenty_thousand_changes_are_told_8_times_a_second_the_first_at_once_and_the_last_for_sure(
    kind: type[Throttle], right: bool
) -> None:
    async def main() -> tuple[list[float], int]:
        told: list[float] = []
        shown = changes = 0

        def draw() -> None:
            nonlocal shown
            told.append(now())
            shown = changes

        throttle = kind(draw)
        for _ in range(20_000):
            changes += 1
            throttle.touch()
            await asyncio.sleep(0.0001)
        await asyncio.sleep(1)
        return told, shown

    told, shown = in_virtual_time(main())
    assert told[0] == 0.0
    gaps = [later - sooner for sooner, later in pairwise(told)]
    assert min(gaps) >= 1 / UPDATES_PER_SECOND - 1e-9
    assert len(told) in (16, 17, 18)  # 2 seconds, and the last
    assert (shown == 20_000) is right


async def test_the_weather_knows_lists_and_loses_the_answers_of_what_got_through_only() -> None:
    async def send(entries: list[OutboxEntry[Any]]) -> list[object]:
        return [ValueError("bad") if entry.item == 1 else None for entry in entries]

    queue = await opened_with(3)
    weather = Weather(send)
    weather.lose_answers = 1.0
    answers: Any = await weather(queue.get())
    assert [type(answer).__name__ for answer in answers] == ["UnackedError", "ValueError", "UnackedError"]
    assert weather.lost == 2
    weather.lose_answers = 0.0
    assert [type(answer).__name__ for answer in await weather(queue.get())] == ["NoneType", "ValueError", "NoneType"]  # type: ignore[attr-defined]
