"""Several processes on one store: who holds what, and for how long."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Final

import pytest

from starfish_outbox import OutboxQueue, SQLiteCache, open_outbox
from tests.reporting import fresh_seed, report
from tests.workers.drainer import LINE_LENGTH, Record
from tests.workers.owners import states
from tests.workers.stores import KEY, KINDS, open_queue
from tests.workers.zygote import Worker, Zygote

OBEY: Final = "tests.workers.owners:obey"


async def fill(kind: str, where: Path, ids: list[str]) -> None:
    queue = await open_queue(kind, str(where))
    await queue.enqueue_many([(id, {"id": id}) for id in ids])
    await queue.close()


# How four processes that are killed again and again share the work


class Fleet:
    """Four drainers, of which one is killed and replaced now and then."""

    def __init__(self, zygote: Zygote, where: Path, *, blind: bool = False) -> None:
        self.killed_ns: dict[int, int] = {}
        self.sink = where / "sink"
        self._zygote = zygote
        self._where = where
        self._blind = blind
        self._started = 0
        self._running: dict[int, Worker] = {}
        for _ in range(4):
            self.start()

    def start(self) -> None:
        """One more drainer, under a number that nobody had."""
        number = self._started
        self._started += 1
        arguments = (str(self._where), str(self.sink), number, self._blind)
        self._running[number] = self._zygote.start("tests.workers.drainer:run", *arguments)

    def progress(self) -> int:
        """Lines in the sink."""
        return self.sink.stat().st_size // LINE_LENGTH if self.sink.exists() else 0

    def kill_one(self, rng: Random) -> None:
        """SIGKILL one of the four, and start another in its place."""
        number = rng.choice(sorted(self._running))
        worker = self._running.pop(number)
        self.killed_ns[number] = time.monotonic_ns()
        worker.kill()
        assert worker.wait() == -9
        self._zygote.forget(worker)
        self.start()

    def finish(self) -> list[Record]:
        """Everything that was done, once all is done."""
        for worker in self._running.values():
            worker.expect("open")
            worker.expect("finished")
            assert worker.wait() == 0
            self._zygote.forget(worker)
        return [Record.read(line) for line in self.sink.read_text("ascii").splitlines()]


def double_claims(records: list[Record], killed_ns: dict[int, int]) -> list[str]:
    """Where an entry was sent again although its earlier sender lived, or had its removal acknowledged."""
    faults = []
    of_entry: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records):
        of_entry[record.id].append(record)
    for id, story in of_entry.items():
        starts = [record for record in story if record.what == "start"]
        for first, second in pairwise(starts):
            killed = killed_ns.get(first.worker)
            if killed is None or not first.at_ns < killed <= second.at_ns:
                faults.append(f"{id} was sent by {second.worker} while {first.worker} lived")
        settled = [record for record in story if record.what == "settled"]
        if settled and settled[0].at_ns < starts[-1].at_ns:
            faults.append(f"{id} was sent again after its removal was acknowledged")
    return faults


@pytest.mark.parametrize(
    ("on_disk", "kills"), [(False, 20), pytest.param(True, 60, marks=[pytest.mark.proof, pytest.mark.timeout(3600)])]
)
async def test_four_processes_with_kills_send_all_and_no_two_live_owners_hold_one_entry(
    zygote: Zygote, tmp_path: Path, memory_path: Path, on_disk: bool, kills: int
) -> None:
    where = tmp_path if on_disk else memory_path
    seed = fresh_seed()
    rng = Random(seed)
    ids = [f"{number:06}" for number in range(5_000)]
    await fill("sqlite", where, ids)
    fleet = Fleet(zygote, where)
    for at in sorted(rng.sample(range(100, 14_000), kills)):  # three lines an entry
        while fleet.progress() < at:
            time.sleep(0.001)
        fleet.kill_one(rng)
    records = fleet.finish()
    faults = double_claims(records, fleet.killed_ns)
    starts = [record for record in records if record.what == "start"]
    ended = {record.id for record in records if record.what == "end"}
    shares = sorted(sum(record.worker == number for record in starts) for number in {r.worker for r in starts})
    report(
        f"seed {seed}: {len(ids)} entries, {len(fleet.killed_ns)} kills, {len(starts) - len(ids)} sent twice after a "
        f"kill, sends by process {shares}; {len(faults)} double claims",
        where,
    )
    assert not faults
    assert ended == set(ids)
    assert len(starts) - len(ids) <= kills
    assert sum(share > 100 for share in shares) > 4  # one that sends everything proves nothing
    queue = await open_queue("sqlite", str(where))
    assert queue.get() == []


async def test_owners_that_take_each_other_for_dead_are_found_out(zygote: Zygote, memory_path: Path) -> None:
    await fill("sqlite", memory_path, [f"{number:06}" for number in range(400)])
    fleet = Fleet(zygote, memory_path, blind=True)
    assert double_claims(fleet.finish(), fleet.killed_ns)


# Claims live exactly as long as their claimer


async def test_a_stopped_owner_keeps_its_claim_and_finishes_when_it_goes_on(zygote: Zygote, tmp_path: Path) -> None:
    await fill("sqlite", tmp_path, ["a", "b"])
    owner = zygote.start("tests.workers.owners:send_when_told", "sqlite", str(tmp_path))
    assert owner.expect("sending") == ["a"]
    owner.stop()
    other = zygote.start(OBEY, "sqlite", str(tmp_path))
    other.expect("ready")
    other.tell("open")
    assert other.expect("open") == [{"a": "sending", "b": "queued"}]
    other.tell("drain")
    assert other.expect("sent") == [["b"], {"a": "sending"}]
    other.tell(["claim", "a"])
    assert other.expect("claimed") == [False]
    owner.go_on()
    owner.tell()
    sent, superseded, left = owner.expect("sent")
    assert (sent, superseded) == (1, 0)
    assert "a" not in left
    other.tell("refresh")
    assert other.expect("seen") == [{}]


@pytest.mark.parametrize("how", ["drain", "claim"])
async def test_a_killed_owners_claims_come_back_with_the_next_refresh(zygote: Zygote, tmp_path: Path, how: str) -> None:
    await fill("sqlite", tmp_path, ["a", "b"])
    other = zygote.start(OBEY, "sqlite", str(tmp_path))
    other.expect("ready")
    other.tell("open")
    assert other.expect("open") == [{"a": "queued", "b": "queued"}]
    if how == "drain":
        owner = zygote.start("tests.workers.owners:send_when_told", "sqlite", str(tmp_path))
        owner.expect("sending")
    else:
        owner = zygote.start(OBEY, "sqlite", str(tmp_path))
        owner.expect("ready")
        owner.tell("open")
        owner.expect("open")
        owner.tell(["claim", "a"])
        assert owner.expect("claimed") == [True]
    other.tell("refresh")
    assert other.expect("seen") == [{"a": "sending", "b": "queued"}]
    owner.kill()
    owner.wait()
    other.tell("refresh")
    assert other.expect("seen") == [{"a": "queued+", "b": "queued"}]
    other.tell("drain")
    assert other.expect("sent") == [["a", "b"], {}]


async def test_an_owner_that_closes_gives_its_claims_up(zygote: Zygote, tmp_path: Path) -> None:
    await fill("sqlite", tmp_path, ["a"])
    owner, other = (zygote.start(OBEY, "sqlite", str(tmp_path)) for _ in range(2))
    for worker in (owner, other):
        worker.expect("ready")
        worker.tell("open")
        worker.expect("open")
    owner.tell(["claim", "a"])
    assert owner.expect("claimed") == [True]
    owner.tell("close")
    owner.expect("closed")
    owner.kill()
    owner.wait()
    other.tell("refresh")
    assert list(other.expect("seen")[0]) == ["a"]
    other.tell("drain")
    assert other.expect("sent") == [["a"], {}]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_queue_that_is_dropped_gives_its_claims_up(zygote: Zygote, tmp_path: Path, kind: str) -> None:
    """As when the cell that made it is run again."""
    _, found = zygote.ask("tests.workers.owners:drop", kind, str(tmp_path))
    assert {id: status.removesuffix("+") for id, status in found.items()} == {"a": "queued", "b": "queued"}


async def test_a_file_has_one_owner_who_is_named_and_is_free_once_that_one_is_killed(
    zygote: Zygote, tmp_path: Path
) -> None:
    owner, second = (zygote.start(OBEY, "file", str(tmp_path)) for _ in range(2))
    for worker in (owner, second):
        worker.expect("ready")
    owner.tell("open")
    owner.expect("open")
    owner.tell(["enqueue", ["a"]])
    owner.expect("enqueued")
    for stopped in (False, True):
        if stopped:
            owner.stop()
        second.tell("open")
        name, message = second.expect("locked")
        assert f"pid {owner.pid} " in name
        assert name in message
    owner.kill()
    owner.wait()
    second.tell("open")
    assert second.expect("open") == [{"a": "queued"}]


async def test_of_two_processes_that_enqueue_the_same_ids_exactly_one_adds_each(
    zygote: Zygote, memory_path: Path
) -> None:
    workers = [zygote.start(OBEY, "sqlite", str(memory_path)) for _ in range(2)]
    for worker in workers:
        worker.expect("ready")
        worker.tell("open")
        worker.expect("open")
    ids, won = [], [0, 0]
    for number in range(60):
        some = [f"{number:02}.{digit}" for digit in range(5)]
        for worker in workers if number % 2 else reversed(workers):
            worker.tell(["enqueue", some])
        first, second = (worker.expect("enqueued")[0] for worker in workers)
        assert all(one != other for one, other in zip(first, second, strict=True))
        ids += some
        won = [won[0] + sum(first), won[1] + sum(second)]
    assert min(won) > 0, "one was always done before the other began"
    workers[0].tell("refresh")
    assert sorted(workers[0].expect("seen")[0]) == ids


@pytest.mark.parametrize("attempt", range(8))
async def test_processes_that_make_one_database_at_the_same_moment_all_get_it(
    zygote: Zygote, tmp_path: Path, attempt: int
) -> None:
    workers = [zygote.start(OBEY, "sqlite", str(tmp_path)) for _ in range(6)]
    for worker in workers:
        worker.expect("ready")
    for worker in workers:
        worker.tell("open")
    for worker in workers:
        assert worker.expect("open") == [{}]
    for number, worker in enumerate(workers):
        worker.tell(["enqueue", [str(number)]])
    for worker in workers:
        assert worker.expect("enqueued") == [[True]]
    queue = await open_queue("sqlite", str(tmp_path))
    assert sorted(states(queue)) == [str(number) for number in range(6)]


async def test_processes_that_come_and_go_disturb_nobody(zygote: Zygote, memory_path: Path) -> None:
    """Each opens and closes again and again, and the last to leave clears up what the next to come needs."""
    names = ["a", "b", "c", "d"]
    workers = [zygote.start("tests.workers.owners:come_and_go", str(memory_path), name, 60) for name in names]
    for worker in workers:
        worker.expect("ready")
    for worker in workers:
        worker.tell()
    for worker in workers:
        worker.expect("done")
    async with open_outbox("ana", memory_path / "outbox.db") as queue:
        found = states(queue)
    assert sorted(found) == sorted(f"{name} {number}" for name in names for number in range(60))
    assert {status.removesuffix("+") for status in found.values()} == {"queued"}  # no claim outlived its owner


# Two queues in one process


@pytest.mark.parametrize("kind", KINDS)
async def test_two_queues_of_one_process_on_one_store_share_its_state(kind: str, tmp_path: Path) -> None:
    one, two = [await open_queue(kind, str(tmp_path)) for _ in range(2)]
    assert await one.enqueue("a", 1)
    assert not await two.enqueue("a", 2)
    assert states(two) == {"a": "queued"}
    assert await one.claim("a")
    assert not await two.claim("a")
    await one.close()
    await two.refresh()
    assert states(two) == {"a": "queued"}
    assert await two.enqueue("b", 1)


async def test_a_second_queue_of_a_process_hides_no_news_from_the_first(zygote: Zygote, tmp_path: Path) -> None:
    cache = SQLiteCache(tmp_path / "outbox.db")
    first, second = OutboxQueue[int](cache), OutboxQueue[int](cache)
    await first.hydrate(KEY)
    other = zygote.start(OBEY, "sqlite", str(tmp_path))
    other.expect("ready")
    other.tell("open")
    other.expect("open")
    other.tell(["enqueue", ["of another process"]])
    other.expect("enqueued")
    await second.hydrate(KEY)
    await first.refresh()
    assert states(first) == {"of another process": "queued"}


async def test_closing_one_of_two_queues_gives_the_file_to_nobody_else(zygote: Zygote, tmp_path: Path) -> None:
    one, two = [await open_queue("file", str(tmp_path)) for _ in range(2)]
    await one.close()
    other = zygote.start(OBEY, "file", str(tmp_path))
    other.expect("ready")
    other.tell("open")
    assert f"pid {os.getpid()} " in other.expect("locked")[0]
    await two.close()
    other.tell("open")
    other.expect("open")
