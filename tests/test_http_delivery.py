"""Delivery over real HTTP: `http_post` against a server that is far away, loses answers, limits the rate, or is down.

What a test asserts stands in the server's own record. Wall-clock figures belong to the proofs, and are printed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from starfish_outbox import (
    Backoff,
    BusyError,
    MemoryCache,
    OutboxEntry,
    OutboxQueue,
    SQLiteCache,
    drain_outbox,
    keep_draining,
)
from starfish_outbox.senders import http_post
from starfish_outbox.testing import Answer, Hang, Lost, MisbehavingServer, Truncated
from starfish_outbox.testing.faults import ServerFault
from starfish_outbox.testing.server import Request
from tests.conftest import KEY

SLACK = 0.005  # seconds by which the clocks of the two sides may differ


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")  # a proxy that the environment names cannot reach this machine's loopback


@asynccontextmanager
async def filled(path: Path | None, entries: dict[str, Any]) -> AsyncIterator[OutboxQueue[Any]]:
    """A queue with these entries, in memory or in SQLite."""
    cache = MemoryCache() if path is None else SQLiteCache(path / "outbox.db")
    async with OutboxQueue[Any](cache) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue_many(entries.items())
        yield queue
    if isinstance(cache, SQLiteCache):
        cache.close()


def in_lanes(lanes: int, each: int) -> dict[str, int]:
    """Ids such as ``lane3-0`` in random order, but in order within a lane, with the lane as item."""
    order = [lane for lane in range(lanes) for _ in range(each)]
    Random(5).shuffle(order)
    numbers: Counter[int] = Counter()
    entries = {}
    for lane in order:
        entries[f"lane{lane}-{numbers[lane]}"] = lane
        numbers[lane] += 1
    return entries


def assert_once_and_in_order(server: MisbehavingServer, entries: dict[str, int]) -> None:
    """By the server's record: no id twice; in each lane the order of the queue, one after the other."""
    assert [request.status for request in server.requests] == [201] * len(entries)
    assert dict.fromkeys(entries, 1) == Counter(request.key for request in server.requests)
    by_lane: defaultdict[int, list[Request]] = defaultdict(list)
    for request in server.requests:
        by_lane[request.item].append(request)
    for lane, requests in by_lane.items():
        assert [request.key for request in requests] == [key for key, item in entries.items() if item == lane]
        for before, after in pairwise(requests):
            assert before.ended is not None
            assert before.ended <= after.at


class FullHouse(MisbehavingServer):
    """Answers the oldest request only once as many are under way as there can be.

    That is one at first (it finds out for all whether somebody is there), then ``seats``, or one for each lane that has
    something left. A client that keeps fewer under way waits for ever, whatever the speed of the machine.
    """

    def __init__(self, seats: int, entries: dict[str, int]) -> None:
        super().__init__()
        self._seats = seats
        self._left = Counter(entries.values())
        self._here: deque[tuple[Request, asyncio.Event]] = deque()
        self.seated: list[int] = []

    async def pause(self, request: Request) -> None:
        go = asyncio.Event()
        self._here.append((request, go))
        while self._here and len(self._here) >= (min(self._seats, len(self._left)) if self.seated else 1):
            self.seated.append(len(self._here))
            oldest, go_first = self._here.popleft()
            self._left[oldest.item] -= 1
            self._left += Counter()  # drops lanes that are done
            go_first.set()
        await go.wait()


@pytest.mark.parametrize("durable", [False, True])
async def test_eight_at_a_time_are_always_eight_while_there_is_work_for_eight(tmp_path: Path, durable: bool) -> None:
    entries = in_lanes(20, 10)
    with FullHouse(8, entries) as server:
        async with filled(tmp_path if durable else None, entries) as queue, http_post(server.url, timeout=None) as send:
            async with asyncio.timeout(100):
                result = await drain_outbox(queue, send, concurrency=8, lane=lambda entry: entry.item)
            assert (result.sent, result.stopped, queue.get()) == (200, "finished", [])
    assert_once_and_in_order(server, entries)
    # With an answer that takes t, 200 entries took 1 t for the first and then this many eighths of t.
    assert server.seated[0] == 1
    assert set(server.seated[1:150]) == {8}
    assert server.most_at_once == 8
    assert sum(server.seated) / len(server.seated) > 7


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_behind_a_latency_lanes_keep_their_order_and_no_id_comes_twice(tmp_path: Path, concurrency: int) -> None:
    entries = in_lanes(12, 3)
    with MisbehavingServer(latency=0.05) as server:
        await drained(server, tmp_path, entries, concurrency)
    assert_once_and_in_order(server, entries)
    assert server.most_at_once <= concurrency


async def drained(server: MisbehavingServer, path: Path, entries: dict[str, int], concurrency: int) -> float:
    """The seconds that one pass took."""
    async with filled(path, entries) as queue, http_post(server.url, timeout=60) as send:
        began = time.perf_counter()
        result = await drain_outbox(queue, send, concurrency=concurrency, lane=lambda entry: entry.item)
        took = time.perf_counter() - began
        assert (result.sent, result.stopped, queue.get()) == (len(entries), "finished", [])
    return took


@pytest.mark.proof
async def test_eight_at_a_time_are_at_least_six_times_as_fast_behind_50_ms(tmp_path: Path) -> None:
    entries = in_lanes(40, 10)
    ratios = []
    for turn in range(3):
        took = {}
        for concurrency in (1, 8):
            folder = tmp_path / f"{turn}-{concurrency}"
            folder.mkdir()
            with MisbehavingServer(latency=0.05) as server:
                took[concurrency] = await drained(server, folder, entries, concurrency)
            assert_once_and_in_order(server, entries)
            under_way = sum(request.ended - request.at for request in server.requests if request.ended is not None)
            print(
                f"\n400 entries from SQLite behind 50 ms, concurrency {concurrency}: {took[concurrency]:.2f} s, "
                f"{400 / took[concurrency]:.0f} a second; under way at once: at most {server.most_at_once}, "
                f"on average {under_way / took[concurrency]:.2f}",
                end="",
            )
        ratios.append(took[1] / took[8])
    print(f"\n8 at a time against 1: {', '.join(f'{ratio:.2f}' for ratio in ratios)} times as fast")
    assert sorted(ratios)[1] >= 6


class Told:
    """A ``send`` that writes down when each send began, and when it was told to wait, for how long."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self.began: list[float] = []
        self.told: list[tuple[float, float]] = []

    async def __call__(self, entry: OutboxEntry[Any]) -> None:
        loop = asyncio.get_running_loop()
        self.began.append(loop.time())
        try:
            await self._send(entry)
        except BusyError as error:
            self.told.append((loop.time(), error.retry_after or 0.0))
            raise

    @property
    def too_early(self) -> int:
        """Sends that began although this side knew that it had to wait."""
        return sum(any(at < began < at + asked - SLACK for at, asked in self.told) for began in self.began)


async def kept_to_the_limit(
    count: int, path: Path, limit: int, retry_after: int, *, concurrency: int, adaptive: bool, backoff: Backoff
) -> None:
    """Everything arrives, nothing is parked, and nobody comes before the time that the server named."""
    entries = {f"e{number}": number for number in range(count)}
    with MisbehavingServer(limit=limit, retry_after=retry_after) as server:
        async with filled(path, entries) as queue, http_post(server.url, timeout=60) as post:
            send, empty = Told(post), asyncio.Event()
            queue.subscribe(lambda: None if sum_of(queue) else empty.set())
            began = time.perf_counter()
            async with keep_draining(
                queue, send, concurrency=concurrency, adaptive=adaptive, backoff=backoff
            ) as draining:
                await empty.wait()
            took = time.perf_counter() - began
            assert (draining.sent, draining.failed, queue.get()) == (count, 0, [])
    refused = [request for request in server.requests if request.status == 429]
    print(
        f"\n{count} entries at {limit} a second, Retry-After {retry_after}, concurrency {concurrency}, "
        f"{'adaptive' if adaptive else 'stubborn'}: {took:.1f} s, {count / took:.0f} a second, "
        f"{len(refused)} times 429, {len(server.impatient())} on their way meanwhile, {send.too_early} too early"
    )
    assert server.stored == entries
    assert server.duplicates == []
    assert refused  # or nothing was tested
    assert len(server.requests) == count + len(refused)
    assert send.too_early == 0
    if concurrency == 1:
        assert server.impatient(SLACK) == []


def sum_of(queue: OutboxQueue[Any]) -> int:
    counts = queue.counts()
    return counts.queued + counts.sending


@pytest.mark.parametrize(("concurrency", "adaptive"), [(1, False), (1, True), (8, False), (8, True)])
async def test_a_server_that_says_when_to_come_again_is_left_alone_until_then(
    memory_path: Path, concurrency: int, adaptive: bool
) -> None:
    """A limit that a slow machine reaches too."""
    rule = Backoff(base=0.2)
    await kept_to_the_limit(50, memory_path, 20, 1, concurrency=concurrency, adaptive=adaptive, backoff=rule)


@pytest.mark.proof
@pytest.mark.parametrize(("concurrency", "adaptive"), [(1, True), (1, False), (8, True), (8, False)])
async def test_fifty_a_second_and_two_seconds_to_wait(tmp_path: Path, concurrency: int, adaptive: bool) -> None:
    await kept_to_the_limit(1000, tmp_path, 50, 2, concurrency=concurrency, adaptive=adaptive, backoff=Backoff())


async def test_everything_arrives_once_over_a_network_that_does_everything_wrong(tmp_path: Path) -> None:
    entries = {f"e{number}": {"number": number} for number in range(120)}
    odds: dict[ServerFault, float] = {
        Lost(): 0.06,
        Truncated(): 0.06,
        Truncated(stored=False): 0.06,
        Answer(503, 1): 0.06,
        Answer(500): 0.06,
    }
    with MisbehavingServer(odds=odds, seed=4) as server:
        server.plan(*[Answer(502)] * 5, Hang(), Hang(stored=True))
        async with filled(tmp_path, entries) as queue, http_post(server.url, timeout=2) as send:
            with server.down():
                for _ in range(20):
                    result = await drain_outbox(queue, send)
                    assert (result.sent, result.stopped, result.left) == (0, "offline", 120)
            assert server.requests == []
            assert {entry.attempts for entry in queue.get()} == {0}
            passes = 0
            while sum_of(queue):
                result = await drain_outbox(queue, send, max_attempts=9)
                assert result.failed == 0
                passes += 1
                assert passes < 200
            assert queue.get() == []
    assert server.stored == entries
    assert server.duplicates == []
    print(f"\n{passes} passes, {len(server.requests)} requests, faults: {dict(server.injected)}")
    assert server.injected.keys() == {"Lost", "Truncated", "Answer", "Hang"}
    assert min(server.injected["Lost"], server.injected["Truncated"]) >= 3


async def test_the_server_finds_out_a_send_that_forgets_the_key() -> None:
    entries = {f"e{number}": number for number in range(30)}
    with MisbehavingServer(odds={Lost(): 0.3}, seed=4) as server:
        async with filled(None, entries) as queue, http_post(server.url, id_header="X-Forgotten", timeout=60) as send:
            for _ in range(20):
                await drain_outbox(queue, send)
            assert queue.counts().queued == 0
    assert server.duplicates != []


async def test_a_server_that_works_on_the_first_try_still_is_asked_until_it_knows(tmp_path: Path) -> None:
    """It stores what it was sent, slowly; who asks meanwhile is answered 409, and is no conflict."""
    with MisbehavingServer() as server:
        server.plan(Lost(), *[Answer(409)] * 6)
        async with filled(tmp_path, {"slow": 1}) as queue, http_post(server.url, timeout=60) as send:
            for passes in range(3):
                result = await drain_outbox(queue, send, max_attempts=1)
                assert (result.sent, result.failed, result.left, result.stopped) == (0, 0, 1, "unacked"), passes
                (entry,) = queue.get()
                assert (entry.status, entry.attempts, entry.maybe_sent_ms is not None) == ("queued", 0, True)
            result = await drain_outbox(queue, send, max_attempts=1, receipts=True)
            assert (result.sent, queue.get()) == (1, [])
        server.assert_plan_used_up()
    # Each pass asks twice: the one whose answer was lost and 6 conflicts make 7, and the eighth is answered 200.
    assert [request.status for request in server.requests] == [None, *[409] * 5, 409, 200]
    assert (server.stored, server.duplicates) == ({"slow": 1}, [])


@pytest.mark.parametrize("alone", [True, False])
async def test_a_conflict_that_lasts_parks_the_entry_in_the_end(alone: bool) -> None:
    """After attempts where others got through meanwhile, and by itself an hour after the try without an answer."""
    hours_ago = time.time() - 3700 if alone else time.time()
    async with OutboxQueue[Any](MemoryCache(), clock=lambda: round(1000 * hours_ago)) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue("stuck", {"of": "ana"})
        with MisbehavingServer() as server:
            server.plan(Lost(), *[Answer(409, body="taken")] * 100, path="/stuck")
            async with http_post(server.url, path=lambda entry: entry.id, timeout=60) as send:
                passes = 0
                while queue.counts().queued:
                    if not alone:
                        await queue.enqueue(f"other-{passes}", passes)
                    result = await drain_outbox(queue, send, max_attempts=3)
                    passes += 1
                    assert passes < 20
        assert result.failed == 1
        (entry,) = queue.get()
        assert (entry.id, entry.status, entry.item) == ("stuck", "failed", {"of": "ana"})
        assert entry.maybe_sent_ms is not None
        assert entry.last_error is not None
        kind, attempts = ("ConflictError", 1) if alone else ("UnackedError", 3)
        assert (entry.last_error.type, entry.attempts) == (kind, attempts)
        assert "the server answered 409: taken" in entry.last_error.message
        assert len(server.stored) == (1 if alone else 1 + passes)
        print(f"\nparked in pass {passes} as {entry.last_error.type}, after {len(server.requests)} requests")


async def test_three_conflicts_that_last_do_not_hold_what_comes_after() -> None:
    with MisbehavingServer() as server:
        stuck = [f"stuck-{number}" for number in range(3)]
        for id in stuck:
            server.plan(Lost(), *[Answer(409)] * 100, path=f"/{id}")
        entries = dict.fromkeys([*stuck, "e1", "e2"], 1)
        async with filled(None, entries) as queue, http_post(server.url, path=lambda entry: entry.id) as send:
            first = await drain_outbox(queue, send)
            assert (first.stopped, first.sent, first.left) == ("unacked", 0, 5)
            second = await drain_outbox(queue, send)
            assert (second.sent, [entry.id for entry in queue.get()]) == (2, stuck)
