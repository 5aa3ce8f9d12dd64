"""What happens in the demo, in order; `tell` runs it and returns the figures.

1. The server is down. A process collects row by row and says what was acknowledged; half-way it is killed (SIGKILL).
2. It is started again with the same rows: those that are there are refused by their id, the rest is added.
3. The server starts, and the outbox is drained into it over HTTP. The server loses a share of its acknowledgements
   after storing, and is killed once, half-way, in the middle of a request; passes go on while it is down.
4. What the server stored is held against the file, cell by cell.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from starfish_outbox import DrainProgress, DrainResult, OutboxEntry, OutboxQueue, drain_outbox, open_outbox
from starfish_outbox.demo import collect, server
from starfish_outbox.demo.processes import Child, ChildError, child, free_port
from starfish_outbox.demo.report import Screen
from starfish_outbox.demo.survey import Comparison, Survey, compare
from starfish_outbox.senders import idempotency_key

IDENTITY: Final = "demo"
COLLECTING: Final = 2.0
"""Seconds of rest while collecting the first time, so that the kill comes in the middle of it on any machine."""

WAIT: Final = 0.3
"""Seconds between two passes while the server is down. A pass itself never waits."""

STALLED: Final = 20
"""Passes in a row without a delivery, after which the demo gives up."""


@dataclass
class Plan:
    """What to run.

    Attributes:
        directory: where the outbox, the server's records and the logs go.
        id: the columns that name a row.
        na: the marks that stand for nothing.
        lose: the share of acknowledgements that the server loses.
        seed: of the server's dice.
    """

    directory: Path
    id: str
    na: list[str]
    lose: float = 0.03
    seed: int = 7

    @property
    def outbox(self) -> Path:
        """Where the outbox lies."""
        return self.directory / "outbox.db"

    @property
    def records(self) -> Path:
        """Where the server stores what it gets."""
        return self.directory / "server"


@dataclass
class Figures:
    """What happened, in numbers.

    Attributes:
        observed: rows of the file.
        repeats: rows whose id an earlier row has.
        killed_after: acknowledged rows when the collector was killed; None when it was done before that.
        lost: acknowledged entries that were not in the outbox after the kill. The promise is 0.
        stored: entries in the outbox before the first was sent.
        sent: entries that left the outbox, delivered.
        requests: how often an entry was posted, tries that reached nobody included.
        acks_lost: answers that the server dropped after storing.
        repeated: requests that the server answered with "already there".
        duplicates: records that the server holds twice. With the ids as idempotency keys it is 0.
        server_killed_after: records at the server when it was killed.
        offline_passes: passes that ended because nobody was reached.
        left: entries still queued at the end.
        failed: entries parked as failed at the end.
        seconds: from the first row collected to the last record compared.
        comparison: the server's records against the file.
    """

    observed: int = 0
    repeats: int = 0
    killed_after: int | None = None
    lost: int = 0
    stored: int = 0
    sent: int = 0
    requests: int = 0
    acks_lost: int = 0
    repeated: int = 0
    duplicates: int = 0
    server_killed_after: int | None = None
    offline_passes: int = 0
    left: int = 0
    failed: int = 0
    seconds: float = 0.0
    comparison: Comparison = field(default_factory=Comparison)

    @property
    def good(self) -> bool:
        """Every promise of the demo was kept."""
        return self.comparison.agrees and not (self.lost or self.duplicates or self.left or self.failed)


async def tell(survey: Survey, plan: Plan, screen: Screen) -> Figures:
    """Runs the whole story.

    Raises:
        ChildError: a process did not do its part.
        OutboxError: the outbox cannot be used.
    """
    figures = Figures(observed=len(survey.observations), repeats=len(survey.repeats))
    started = time.monotonic()
    port = free_port()
    url = f"http://127.0.0.1:{port}/observations"
    await _collect(survey, plan, url, figures, screen)
    async with open_outbox(IDENTITY, plan.outbox) as queue:
        figures.stored = queue.counts().queued
        screen.say(f"The outbox holds {figures.stored:,} entries, all queued. Now the server starts.")
        await _Delivery(queue, plan, port, figures, screen).run(url)
        counts = queue.counts()
        figures.left, figures.failed = counts.queued + counts.sending, counts.failed
    _compare(survey, plan, figures)
    figures.seconds = time.monotonic() - started
    return figures


async def _collect(survey: Survey, plan: Plan, url: str, figures: Figures, screen: Screen) -> None:
    """Steps 1 and 2: collected, killed in the middle, collected again."""
    arguments = [f"--csv={survey.path}", f"--id={plan.id}", f"--na={json.dumps(plan.na)}", f"--url={url}"]
    arguments += [f"--outbox={plan.outbox}", f"--identity={IDENTITY}"]
    log = plan.directory / "collector.log"
    half = max(1, figures.observed // 2)
    acknowledged: set[int] = set()
    killed = False
    screen.say("The server is down. Collecting ...")
    async with child(collect.__name__, [*arguments, f"--seconds={COLLECTING}"], log) as first:
        with screen.progress("collected", figures.observed) as advance:
            # After the kill the pipe is read to its end: what stands in it was acknowledged.
            async for line in first.lines():
                if (row := _row(line, screen)) is not None:
                    acknowledged.add(row)
                    advance(len(acknowledged))
                    if len(acknowledged) == half:
                        killed = first.kill()
        if not killed:
            await first.finished()
    if killed and len(acknowledged) < figures.observed:
        figures.killed_after = len(acknowledged)
        screen.say(
            f"Killed with SIGKILL after {len(acknowledged):,} acknowledged. Starting again with the same rows ..."
        )
    else:
        screen.say("It was done before the kill came. Starting again with the same rows ...")
    answers: dict[str, set[int]] = {"stored": set(), "known": set()}
    async with child(collect.__name__, arguments, log) as second:
        with screen.progress("collected", figures.observed) as advance:
            async for line in second.lines():
                if (row := _row(line, screen)) is not None:
                    answers[line.partition(" ")[0]].add(row)
                    advance(sum(map(len, answers.values())))
        await second.finished()
    ids = [one.id for one in survey.observations]
    # What was acknowledged before the kill and could be added again had been lost.
    figures.lost = len({ids[row] for row in acknowledged} & {ids[row] for row in answers["stored"]})
    screen.say(f"{len(answers['known']):,} refused as already there, {len(answers['stored']):,} added.")


def _row(line: str, screen: Screen) -> int | None:
    """The row that a line of the collector acknowledges; a line about a pass is shown instead."""
    word, _, rest = line.partition(" ")
    if word == "pass":
        result = json.loads(rest)
        screen.say(
            f"  it tried to drain: {result['stopped']}, {result['sent']} sent, {result['failed']} parked as failed"
        )
        return None
    return int(rest)


class _Delivery:
    """Step 3: passes over the outbox against a server that loses answers and is killed once."""

    def __init__(self, queue: OutboxQueue[Any], plan: Plan, port: int, figures: Figures, screen: Screen) -> None:
        self._queue = queue
        self._plan = plan
        self._port = port
        self._figures = figures
        self._screen = screen
        self._half = max(1, figures.stored // 2)
        self._server: Child | None = None
        self._killed = False

    async def run(self, url: str) -> None:
        """Passes until nothing is queued, or nothing more gets through."""
        stalled = 0
        async with AsyncExitStack() as servers, collect.loopback_post(url) as send:
            self._server = await self._start(servers)

            async def post(entry: OutboxEntry[Any]) -> None:
                self._figures.requests += 1
                if not self._killed and self._figures.requests >= self._half:
                    self._killed = True
                    # While this request is under way: a millisecond is about what one takes.
                    asyncio.get_running_loop().call_later(0.001, self._kill)
                await send(entry)

            with self._screen.progress("delivered", self._figures.stored) as advance:
                down_for = 0
                while self._queue.counts().queued and stalled < STALLED:
                    before = self._figures.sent

                    def show(progress: DrainProgress, before: int = before) -> None:
                        advance(before + progress.sent)

                    result = await drain_outbox(self._queue, post, on_progress=show)
                    self._figures.sent += result.sent
                    stalled = 0 if result.sent else stalled + 1
                    if result.stopped != "finished":
                        await self._pause(result)
                    if not self._server.alive:
                        down_for += 1
                        if down_for > 2:  # long enough to see that passes cost nothing meanwhile
                            self._screen.say("The server is started again on the same port.")
                            self._server = await self._start(servers)
            if self._server.alive:
                await self._server.end()

    async def _start(self, servers: AsyncExitStack) -> Child:
        plan = self._plan
        arguments = ["--directory", str(plan.records), "--port", str(self._port)]
        arguments += ["--lose", str(plan.lose), "--seed", str(plan.seed)]
        started = await servers.enter_async_context(child(server.__name__, arguments, plan.directory / "server.log"))
        if await started.line() != f"ready {self._port}":
            raise ChildError("the server did not get its port")
        return started

    def _kill(self) -> None:
        if self._server is not None and self._server.kill():
            stored = sum(1 for _ in server.read_lines(self._plan.records / server.RECORDS))
            self._figures.server_killed_after = stored
            self._screen.say(f"The server was killed with SIGKILL in the middle, with {stored:,} records.")

    async def _pause(self, result: DrainResult) -> None:
        if result.stopped == "offline":
            self._figures.offline_passes += 1
        self._screen.say(f"A pass ended: {result.stopped}, {result.left:,} left, {result.failed} parked as failed.")
        await asyncio.sleep(WAIT)


def _compare(survey: Survey, plan: Plan, figures: Figures) -> None:
    """Step 4: what the server stored, against the file."""
    ids = {idempotency_key(one.id): one.id for one in survey.observations}
    records: dict[str, object] = {}
    times: Counter[str] = Counter()
    for record in server.read_lines(plan.records / server.RECORDS):
        id = ids.get(record["key"], record["key"])
        records[id] = record["item"]
        times[id] += 1
    figures.duplicates = sum(count - 1 for count in times.values())
    for request in server.read_lines(plan.records / server.REQUESTS):
        figures.acks_lost += request["lost"]
        figures.repeated += request["did"] == "already there"
    figures.comparison = compare(survey, records, plan.na)
