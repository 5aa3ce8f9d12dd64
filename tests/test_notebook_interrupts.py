"""Ctrl-C in the middle of what blocks: real signals, in this process, in scripts and in a real kernel."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import DrainProgress, MemoryCache, OutboxEntry
from starfish_outbox.notebook.blocking import BlockingOutbox
from starfish_outbox.notebook.portal import Caller, Portal
from tests.interrupt_sweep import CtrlC
from tests.kernels import running
from tests.reporting import fresh_seed, report
from tests.strikes import Strikes, striking

ROOT = Path(__file__).parents[1]
SECONDS = 60
IDS = [f"e{number}" for number in range(8)]


@pytest.fixture
def strikes() -> Iterator[Strikes]:
    with striking() as made:
        yield made


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[BlockingOutbox]:
    with BlockingOutbox("ana", tmp_path / "outbox.db") as made:
        made.enqueue_many([(id, 1) for id in IDS])
        yield made


class Remote:
    """Takes what it is sent; ``twice``: what came again without saying that it may have come before."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.twice: list[str] = []

    def take(self, entry: OutboxEntry[Any]) -> None:
        if entry.id in self.taken and entry.maybe_sent_ms is None:
            self.twice.append(entry.id)
        self.taken.append(entry.id)


def all_is_well(outbox: BlockingOutbox, remote: Remote) -> None:
    """Nothing is stuck, lost or doubled unsaid; and the rest gets through."""
    live = {entry.id: entry for entry in outbox.get()}
    assert outbox.counts().sending == 0
    assert {*remote.taken, *live} == set(IDS)
    for id in {*remote.taken} & {*live}:
        assert live[id].maybe_sent_ms is not None, f"{id} arrived and does not say so"
    assert outbox.drain(remote.take).stopped == "finished"
    assert (outbox.get(), set(remote.taken), remote.twice) == ([], set(IDS), [])


def test_in_a_plain_send_its_answer_is_waited_for_and_recorded(outbox: BlockingOutbox, strikes: Strikes) -> None:
    remote = Remote()

    def send(entry: OutboxEntry[Any]) -> None:
        if entry.id == "e2":
            strikes.strike()
        remote.take(entry)

    with pytest.raises(KeyboardInterrupt):
        outbox.drain(send)
    assert "e2" not in outbox, "it was answered"
    assert {entry.maybe_sent_ms for entry in outbox.get()} <= {None}
    all_is_well(outbox, remote)
    assert sorted(remote.taken) == IDS


def test_in_a_plain_send_no_other_is_begun_once_it_is_known(outbox: BlockingOutbox, strikes: Strikes) -> None:
    remote = Remote()

    def send(entry: OutboxEntry[Any]) -> None:
        if entry.id == "e2":
            strikes.strike()
            while not any(task.cancelling() or _stays(task) for task in outbox.portal.do(_tasks, outbox)):
                time.sleep(0)  # until the drain has been told
        remote.take(entry)

    with pytest.raises(KeyboardInterrupt):
        outbox.drain(send)
    assert remote.taken == ["e0", "e1", "e2"]
    all_is_well(outbox, remote)


def _tasks(outbox: BlockingOutbox) -> list[asyncio.Task[Any]]:
    return list(asyncio.all_tasks(outbox.portal.loop))


def _stays(task: asyncio.Task[Any]) -> bool:
    """Whether it was cancelled in a send and stays there to hear the answer."""
    frames = [frame.f_locals.get("self") for frame in task.get_stack()]
    coroutine: Any = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            frames.append(frame.f_locals.get("self"))
        coroutine = getattr(coroutine, "cr_await", None)
    return any(getattr(one, "cancelled", None) is True for one in frames if type(one).__name__ == "InThread")


@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_async_send_is_cut_off_and_may_have_arrived(
    outbox: BlockingOutbox, strikes: Strikes, concurrency: int
) -> None:
    remote = Remote()

    async def send(entry: OutboxEntry[Any]) -> None:
        remote.take(entry)
        if entry.id == "e4":
            await asyncio.to_thread(strikes.strike)
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        outbox.drain(send, concurrency=concurrency)
    assert "e4" in outbox
    all_is_well(outbox, remote)


class HastyPortal(Portal):
    """Broken on purpose: it neither cancels nor waits."""

    def _give_up(self, call: Any, caller: Caller) -> None:
        call.given_up = True


def test_one_that_does_not_wait_leaves_an_entry_in_sending(outbox: BlockingOutbox, strikes: Strikes) -> None:
    """The control of all the others."""
    go = threading.Event()

    async def send(entry: OutboxEntry[Any]) -> None:
        await asyncio.to_thread(strikes.strike)
        await asyncio.to_thread(go.wait, SECONDS)

    outbox.portal.__class__ = HastyPortal
    with pytest.raises(KeyboardInterrupt):
        outbox.drain(send, limit=1)
    assert outbox.counts().sending == 1
    go.set()


def test_a_second_one_does_not_wait_and_the_answer_is_recorded_when_it_comes(
    outbox: BlockingOutbox, strikes: Strikes
) -> None:
    remote, go, left = Remote(), threading.Event(), threading.Event()

    def send(entry: OutboxEntry[Any]) -> None:
        strikes.strike()
        while not left.is_set():  # the caller leaves at the second, wherever the first had led it
            strikes.strike()
        assert go.wait(SECONDS)
        remote.take(entry)

    def interrupted() -> None:
        try:
            outbox.drain(send, limit=1)
        finally:
            left.set()

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert strikes.count >= 2
    assert outbox.explain("e0").situation == "sending"  # it is, in its thread
    go.set()
    assert outbox.wait_for("e0", timeout=SECONDS) == "sent"
    outbox.portal.run(outbox.portal.others())
    assert remote.taken == ["e0"]
    all_is_well(outbox, remote)


def test_in_enqueue_many_all_or_none_are_stored_and_the_cell_can_run_again(tmp_path: Path, strikes: Strikes) -> None:
    def odd(thing: object) -> object:
        """Called while the items are looked at, in the outbox's thread."""
        if strikes.count == 0:
            strikes.strike()
        return str(thing)

    with BlockingOutbox("ana", tmp_path / "outbox.db", default=odd) as outbox:
        pairs = [(id, ROOT) for id in IDS]
        with pytest.raises(KeyboardInterrupt):
            outbox.enqueue_many(pairs)
        assert len(outbox.get()) in (0, len(IDS))
        outbox.enqueue_many(pairs)
        assert [entry.id for entry in outbox.get()] == IDS


def test_in_wait_for_nothing_waits_on(outbox: BlockingOutbox, strikes: Strikes) -> None:
    def strike_when_it_waits() -> None:
        while not outbox.portal.do(lambda: bool(outbox.queue._binding and outbox.queue._binding._watched)):
            time.sleep(0)
        strikes.strike()

    striker = threading.Thread(target=strike_when_it_waits)
    striker.start()
    with pytest.raises(KeyboardInterrupt):
        outbox.wait_for("e0")
    striker.join()
    assert outbox.queue._binding is not None
    assert outbox.queue._binding._watched == {}
    all_is_well(outbox, Remote())


@pytest.mark.parametrize("how", ["async", "plain"])
@pytest.mark.parametrize("where", ["in the body", "in run"])
def test_in_keep_draining_what_is_under_way_is_recorded(
    outbox: BlockingOutbox, strikes: Strikes, how: str, where: str
) -> None:
    remote, third = Remote(), threading.Event()

    def under_way(entry: OutboxEntry[Any]) -> None:
        third.set()
        if where == "in run":
            strikes.strike()

    async def send(entry: OutboxEntry[Any]) -> None:
        remote.take(entry)
        if entry.id == "e2":
            await asyncio.to_thread(under_way, entry)
            await asyncio.Event().wait()

    def plain(entry: OutboxEntry[Any]) -> None:
        if entry.id == "e2":
            under_way(entry)
        remote.take(entry)

    draining = outbox.keep_draining(send if how == "async" else plain)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # in the body
        if where == "in run":
            draining.run()
        else:
            with draining:
                assert third.wait(SECONDS)
                strikes.strike()
    assert draining.state.name == "ended"
    assert ("e2" in outbox) == (how == "async")
    all_is_well(outbox, remote)


@pytest.mark.parametrize("at_once", [1, 3])
def test_in_close_what_is_under_way_elsewhere_is_cut_off(tmp_path: Path, strikes: Strikes, at_once: int) -> None:
    outbox = BlockingOutbox("ana", tmp_path / "outbox.db")
    outbox.enqueue_many([(id, 1) for id in IDS])
    go, began, under_way = threading.Event(), list[str](), threading.Event()

    def send(entry: OutboxEntry[Any]) -> None:
        if entry.id == "e0" and at_once > 1:
            return  # the first of a pass goes alone
        began.append(entry.id)
        if len(began) == at_once:
            under_way.set()
        assert go.wait(SECONDS)

    ended: list[BaseException] = []

    def drain() -> None:
        try:
            outbox.drain(send, concurrency=at_once)
        except RuntimeError as error:
            ended.append(error)

    drainer = threading.Thread(target=drain)
    drainer.start()
    assert under_way.wait(SECONDS)

    def strike_when_it_waits() -> None:
        while outbox.queue.status().key is not None:
            time.sleep(0)
        strikes.strike()

    striker = threading.Thread(target=strike_when_it_waits)
    striker.start()
    with pytest.raises(KeyboardInterrupt):
        outbox.close()
    striker.join()
    drainer.join(SECONDS)
    go.set()
    assert outbox.closed
    assert "was cancelled" in str(ended[0])
    assert not (tmp_path / "outbox.db-owners").exists()  # closed, and nothing opened it again
    with BlockingOutbox("ana", tmp_path / "outbox.db") as again:
        assert [entry.id for entry in again.get() if entry.maybe_sent_ms is not None] == sorted(began)
        remote = Remote()
        remote.taken += ["e0"] if at_once > 1 else []
        all_is_well(again, remote)


@contextmanager
def struck_at(place: int) -> Iterator[CtrlC]:
    """Ctrl-C at that place of the calling thread inside the package."""
    ctrl_c = CtrlC(place)
    sys.setprofile(ctrl_c)
    try:
        yield ctrl_c
    except KeyboardInterrupt:
        assert ctrl_c.where, "somebody else's interrupt"
    finally:
        sys.setprofile(None)


def shown(progress: DrainProgress) -> None:
    """More places of the caller, while the drain is under way."""


def enqueue_many(outbox: BlockingOutbox, remote: Remote) -> None:
    outbox.enqueue_many([(id, 1) for id in IDS])


def drain_plainly(outbox: BlockingOutbox, remote: Remote) -> None:
    outbox.drain(remote.take, on_progress=shown)


def drain_side_by_side(outbox: BlockingOutbox, remote: Remote) -> None:
    async def send(entry: OutboxEntry[Any]) -> None:
        remote.take(entry)
        await asyncio.sleep(0)

    outbox.drain(send, concurrency=3, on_progress=shown)


def keep_draining(outbox: BlockingOutbox, remote: Remote) -> None:
    with outbox.keep_draining(remote.take):
        outbox.wait_for("e1", timeout=SECONDS)


# Struck between the making of a coroutine and its handing over, nobody ever awaits it.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("work", [enqueue_many, drain_plainly, drain_side_by_side, keep_draining])
def test_at_any_place_of_the_caller_nothing_is_lost_and_nothing_stuck(
    work: Callable[[BlockingOutbox, Remote], None], tmp_path: Path
) -> None:
    places = 0
    for place in range(1, 10_000):
        remote = Remote()
        with BlockingOutbox("ana", MemoryCache()) as outbox:
            if work is not enqueue_many:
                outbox.enqueue_many([(id, 1) for id in IDS])
            with struck_at(place) as ctrl_c:
                work(outbox, remote)
            outbox.portal.run(_everything_else(outbox))
            if work is enqueue_many:
                assert len(outbox.get()) in (0, len(IDS)), ctrl_c.where
                outbox.enqueue_many([(id, 1) for id in IDS])
            all_is_well(outbox, remote)
        if not ctrl_c.where:
            break
        places += 1
    report(f"Ctrl-C at {places} places of the caller of {work.__name__}", tmp_path)
    assert places >= 10


async def _everything_else(outbox: BlockingOutbox) -> None:
    """Returns when what the caller left has ended: struck in the middle of a ``with`` statement, a drain may go on."""
    for draining in list(outbox.drainings):
        await draining.__aexit__(None, None, None)
    await outbox.portal.others()


SCRIPT = """
import sys, time
from pathlib import Path
from starfish_outbox.notebook.blocking import BlockingOutbox

def send(entry):
    time.sleep(0.002)
    with Path(sys.argv[2]).open("a") as remote:
        remote.write(f"{entry.id} {'maybe' if entry.maybe_sent_ms else 'first'}\\n")
    time.sleep(0.002)

async def async_send(entry):
    import asyncio
    await asyncio.sleep(0.002)
    send(entry)

with BlockingOutbox("ana", sys.argv[1]) as outbox:
    outbox.enqueue_many([(f"e{n}", 1) for n in range(60)])
    print("draining", flush=True)
    match sys.argv[3]:
        case "plain":
            outbox.drain(send)
        case "plain side by side":
            outbox.drain(send, concurrency=4, timeout=30)
        case "async":
            outbox.drain(async_send, concurrency=4)
        case "kept":
            with outbox.keep_draining(send):
                outbox.wait_for("e59")
"""


@pytest.mark.parametrize("how", ["plain", "plain side by side", "async", "kept"])
def test_a_real_sigint_to_a_real_script_loses_nothing_and_doubles_nothing_unsaid(how: str, tmp_path: Path) -> None:
    seed = fresh_seed()
    chance, hits, rounds, unsure = random.Random(seed), 0, 2, 0
    ids = {f"e{number}" for number in range(60)}
    for number in range(rounds):
        path, log = tmp_path / f"{number}.db", tmp_path / f"remote{number}"
        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(path), str(log), how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "draining\n"
            time.sleep(chance.uniform(0, 0.1))  # a moment is what is sampled here
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=SECONDS)
        hits += process.returncode != 0
        assert process.returncode == 0 or errors.rstrip().endswith("KeyboardInterrupt"), errors
        sent = [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []
        assert not (tmp_path / f"{number}.db-owners").exists()
        with BlockingOutbox("ana", path) as outbox:
            assert outbox.counts().sending == 0
            left = {entry.id: entry.maybe_sent_ms is not None for entry in outbox.get()}
        assert {*sent, *left} == ids
        assert len(sent) == len(set(sent))
        doubtful = {*sent} & {*left}
        assert all(left[id] for id in doubtful)
        assert how == "async" or not doubtful  # the answer of a plain one is waited for
        unsure += len(doubtful)
    report(f"{how}: {hits} of {rounds} SIGINTs struck a script; {unsure} entries maybe sent (seed {seed})", tmp_path)
    assert hits >= 1


OPEN = """
import asyncio, threading, time
from starfish_outbox.notebook.blocking import BlockingOutbox
def plain(entry):
    time.sleep(0.005)
    sent.append(entry.id)
    if len(sent) == 5: print("five are sent", flush=True)
async def stays(entry):
    await asyncio.sleep(0.005)
    sent.append(entry.id)
    if len(sent) == 5: print("five are sent", flush=True)
    if len(sent) >= 5: await asyncio.Event().wait()
def keep():
    with outbox.keep_draining(plain):
        threading.Event().wait()
def wait():
    print("five are sent", flush=True)  # it is only about to wait: what is sampled is around the beginning
    outbox.wait_for("e39")
"""
FILL = """
sent = []
outbox = BlockingOutbox("ana", "outbox.db", ledger=False)
outbox.enqueue_many([(f"e{n}", 1) for n in range(40)])
"""
LOOK = """
live = {entry.id: entry for entry in outbox.get()}
assert outbox.counts().sending == 0, outbox.counts()
assert {*sent, *live} == {f"e{n}" for n in range(40)}
assert all(live[id].maybe_sent_ms is not None for id in {*sent} & {*live})
print(len(sent), len(live))
"""
FINISH = """
sent.clear()
outbox.drain(lambda entry: sent.append(entry.id))
print(len(sent), outbox.counts().total)
"""
MANY = """
pairs = [(f"m{n}", "x") for n in range(50_000)]
print("adding", flush=True)
outbox.enqueue_many(pairs)
"""
MANY_AGAIN = """
print(outbox.enqueue_many(pairs).count(False), outbox.counts().total)
outbox.close()
"""
CALLS = [
    "outbox.drain(plain)",
    "outbox.drain(stays, concurrency=3)",
    "keep()",
    "outbox.keep_draining(plain).run()",
    "wait()",
]


def interrupted_in_every_call(python: str | Path, folder: Path) -> None:
    """A kernel of that Python, interrupted in the middle of each of the calls."""
    with running(python, folder) as kernel:
        kernel.run(OPEN)
        for number, call in enumerate(CALLS):
            kernel.run(FILL)
            (cell,) = kernel.send(call)
            assert kernel.wait(lambda cell=cell: "five are sent" in cell.text or cell.ended), call
            kernel.interrupt(by_message=number % 2 == 1)
            assert kernel.wait(lambda cell=cell: cell.ended), call
            assert cell.error == "KeyboardInterrupt", (call, cell)
            after, rest = kernel.run(LOOK, FINISH)
            assert (after.words, rest.words) == ("", ""), call
            sent, live = map(int, after.text.split())
            assert rest.text.split() == [str(live), "0"], call
            assert sent >= 5 or call == "wait()"
            assert live >= 1
        (cell,) = kernel.send(MANY)
        assert kernel.wait(lambda: "adding" in cell.text)
        kernel.interrupt()
        assert kernel.wait(lambda: cell.ended)
        assert cell.error == "KeyboardInterrupt", cell
        (again,) = kernel.run(MANY_AGAIN)
        assert again.text.split() in (["0", "50000"], ["50000", "50000"]), again  # all or none


def test_interrupting_a_real_kernel_leaves_nothing_stuck(tmp_path: Path) -> None:
    interrupted_in_every_call(sys.executable, tmp_path)
