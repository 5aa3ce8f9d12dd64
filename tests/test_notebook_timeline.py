"""The picture of a drain: what was done, when, and how much waited."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from starfish_outbox import MemoryCache, OutboxQueue, RejectedError, drain_outbox
from starfish_outbox.drain import DrainProgress
from starfish_outbox.notebook.timeline import Timeline, plot, timeline_of
from tests.conftest import ManualClock
from tests.drains import Server, in_virtual_time, opened_with

SVG = "{http://www.w3.org/2000/svg}"


def settled(id: str, outcome: str) -> DrainProgress:
    return DrainProgress(0, 0, 0, 0, id, outcome)


async def test_what_a_drain_did_is_counted_where_it_happened() -> None:
    clock = ManualClock()
    queue = OutboxQueue[Any](MemoryCache(), clock=clock)
    await queue.hydrate("outbox.me")
    await queue.enqueue_many([(f"e{number}", number) for number in range(7)])
    timeline = Timeline(queue)
    timeline(settled("e0", "sent"))
    clock.now_ms += 1000
    timeline(settled("e1", "attempt"))
    timeline(settled("e2", "failed"))
    timeline.mark("offline")
    clock.now_ms += 1000
    timeline.look()

    assert [(at * timeline.seconds, one) for at, one in enumerate(timeline.bins) if one.height] == [
        (0.0, timeline.bins[0]),
        (1.0, timeline.bins[8]),
    ]
    assert (timeline.bins[8].retry, timeline.bins[8].parked) == (1, 1)
    assert timeline.totals == {"sent": 1, "retry": 1, "parked": 1}
    assert timeline.bins[-1].waiting == 7
    assert timeline.marks == [(1.0, "offline")]
    assert repr(timeline) == "<Timeline: in 2.125 s: 1 sent, 1 to be retried, 1 parked; 7 waiting>"


def test_a_long_drain_costs_no_more_than_a_short_one() -> None:
    async def main() -> None:
        queue = await opened_with(1)
        timeline = Timeline(queue)
        for number in range(5000):
            timeline(settled(f"e{number}", "sent"))
            await asyncio.sleep(7.3)
        assert len(timeline.bins) <= 160
        assert timeline.totals["sent"] == 5000
        assert timeline.seconds * len(timeline.bins) >= 4999 * 7.3

    in_virtual_time(main())


async def test_a_clock_that_is_put_back_breaks_nothing() -> None:
    clock = ManualClock()
    timeline = Timeline(OutboxQueue[Any](MemoryCache(), clock=clock))
    timeline(settled("e0", "sent"))
    clock.now_ms -= 86_400_000
    timeline(settled("e1", "sent"))
    assert timeline.totals["sent"] == 2
    assert len(timeline.bins) == 1


async def test_the_picture_has_a_bar_for_what_happened_and_says_in_words_what_it_shows(tmp_path: Path) -> None:
    queue, server = await opened_with(5), Server()
    server.script["e1"].append(RejectedError("no"))
    server.script["e2"].append(LookupError("later"))
    timeline = Timeline(queue)
    await drain_outbox(queue, server.send, on_progress=timeline)
    timeline.mark("<offline>")
    timeline.save(tmp_path / "drain.svg")

    root = ET.parse(tmp_path / "drain.svg").getroot()
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert "3 sent, 1 to be retried, 1 parked; 1 waiting" in (root.get("aria-label") or "")
    bars = [bar for bar in root.iter(f"{SVG}rect") if bar.get("y") != "12"]  # those of the legend stand at 12
    assert len(bars) >= 3
    assert {bar.get("fill") for bar in bars} > {"none"}
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"sent", "to be retried", "parked", "waiting", "<offline>"} <= set(words)
    assert timeline._repr_html_() == timeline.svg()


def test_an_empty_picture_is_one_too() -> None:
    timeline = Timeline(OutboxQueue[Any](MemoryCache()))
    assert "nothing was drained yet" in timeline.svg()
    ET.fromstring(timeline.svg())


async def test_all_panels_of_a_queue_fill_one_picture_that_goes_with_the_queue() -> None:
    queue = await opened_with(0)
    assert plot(queue) is timeline_of(queue) is plot(queue)
    with pytest.raises(TypeError, match="plot takes a queue"):
        plot("outbox.me")
    gone = weakref.ref(queue)
    del queue
    gc.collect()
    assert gone() is None
