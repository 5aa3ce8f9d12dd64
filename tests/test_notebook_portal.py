"""The thread with a loop of its own: who waits for it, where, and what Ctrl-C does at each place of the waiting."""

from __future__ import annotations

import asyncio
import gc
import inspect
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox.notebook.portal import Caller, Portal, PortalClosedError
from tests.interrupt_sweep import CtrlC
from tests.reporting import report

ROOT = Path(__file__).parents[1]


@pytest.fixture
def portal() -> Iterator[Portal]:
    made = Portal()
    yield made
    made.end()
    assert made.join(10)


async def answer(value: object) -> object:
    await asyncio.sleep(0)
    return value


async def where() -> int:
    return threading.get_ident()


def test_what_a_coroutine_returns_or_raises_comes_out_here_and_it_ran_elsewhere(portal: Portal) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("of the coroutine")

    assert portal.run(answer(7)) == 7
    with pytest.raises(LookupError, match="of the coroutine"):
        portal.run(fail())
    assert portal.run(where()) != threading.get_ident()
    assert portal.do(threading.get_ident) == portal.run(where())


async def test_it_works_where_a_loop_runs_and_leaves_that_one_alone(portal: Portal) -> None:
    mine = asyncio.get_running_loop()
    other = portal.do(asyncio.get_running_loop)
    assert other is not mine
    assert portal.run(answer(1)) == 1
    assert asyncio.get_running_loop() is mine


def test_many_threads_at_once_each_get_their_own_answer(portal: Portal) -> None:
    all_here = threading.Barrier(8, timeout=60)
    answers: dict[int, object] = {}

    def ask(number: int) -> None:
        all_here.wait()
        for _ in range(50):
            answers[number] = portal.run(answer(number))
            assert answers[number] == number

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: number for number in range(8)}


def test_a_coroutine_sees_the_callers_context_and_changes_a_copy_of_it(portal: Portal) -> None:
    """Where ipykernel keeps the cell under which output lands."""
    cell: ContextVar[str] = ContextVar("cell")

    async def look() -> str:
        seen = cell.get()
        cell.set("of the coroutine")
        return seen

    cell.set("of the caller")
    assert portal.run(look()) == "of the caller"
    assert cell.get() == "of the caller"


def test_what_the_caller_is_asked_to_do_is_done_in_its_thread_in_order_and_before_the_answer(portal: Portal) -> None:
    done: list[tuple[int, int]] = []
    caller = Caller()

    async def work() -> str:
        tell = caller.here(lambda number: done.append((number, threading.get_ident())))
        for number in range(100):
            tell(number)
            await asyncio.sleep(0)
        return "over"

    assert portal.run(work(), caller) == "over"
    assert done == [(number, threading.get_ident()) for number in range(100)]


def test_what_the_caller_is_asked_to_do_can_use_the_portal_itself(portal: Portal) -> None:
    answers: list[object] = []
    caller = Caller()

    async def work() -> None:
        caller.here(lambda: answers.append(portal.run(answer("nested"))))()
        await asyncio.sleep(0)

    portal.run(work(), caller)
    assert answers == ["nested"]


def test_a_call_from_the_portals_own_thread_is_refused_where_it_would_wait_for_itself(portal: Portal) -> None:
    async def nested() -> object:
        return portal.run(answer(1))

    with pytest.raises(RuntimeError, match="would wait for itself for ever"):
        portal.run(nested())

    async def look() -> int:
        return portal.do(threading.get_ident)

    assert portal.run(look()) == portal.run(where())


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_that_a_coroutine_raises_comes_out_and_the_portal_lives_on(
    portal: Portal, interrupt: type[BaseException]
) -> None:
    """Asyncio stops the loop with it."""

    async def fail() -> None:
        await asyncio.sleep(0)
        raise interrupt

    for _ in range(3):
        with pytest.raises(interrupt):
            portal.run(fail())
        assert portal.run(answer("alive")) == "alive"


def test_a_closed_portal_cancels_what_is_under_way_and_refuses_what_comes() -> None:
    portal = Portal()
    began = threading.Event()
    ends: list[str] = []

    async def endless() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            ends.append("cancelled")

    async def last() -> None:
        ends.append("last")

    raised: list[BaseException] = []

    def ask() -> None:
        try:
            portal.run(endless())
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert began.wait(60)
    portal.end(last())
    portal.end(last())  # once is enough
    thread.join(60)
    assert portal.join(60)
    assert ends == ["cancelled", "last"]
    assert "was cancelled" in str(raised[0])
    assert portal.closed
    assert portal.loop.is_closed()
    with pytest.raises(PortalClosedError):
        portal.run(answer(1))


def test_a_portal_whose_thread_is_gone_makes_no_caller_wait_for_ever() -> None:
    portal = Portal()
    portal.loop.call_soon_threadsafe(portal._closing.set)
    portal.loop.call_soon_threadsafe(portal.loop.stop)
    assert portal.join(60)
    portal._closing.clear()
    portal._thread.is_alive = lambda: True  # type: ignore[method-assign]  # as it was when the caller looked
    with pytest.raises(RuntimeError, match="closed"):
        portal.run(answer(1))
    done = Caller()
    with pytest.raises(PortalClosedError, match="has ended"):
        done.attend(lambda: False)


def test_a_portal_that_is_dropped_ends_its_thread() -> None:
    portal = Portal()
    portal.run(answer(1))
    gone, loop = weakref.ref(portal), portal.loop
    thread = portal._thread
    del portal
    gc.collect()
    assert gone() is None
    thread.join(60)
    assert not thread.is_alive()
    assert loop.is_closed()


class HastyPortal(Portal):
    """Broken on purpose: on Ctrl-C it neither cancels what it began nor waits for its end."""

    def _give_up(self, call: Any, caller: Caller) -> None:
        call.given_up = True


class Work:
    """A coroutine that tells how far it is, and has to tidy up when it is cut off, as a drain does."""

    def __init__(self) -> None:
        self.state = "not begun"
        self.caller = Caller()

    async def __call__(self) -> str:
        self.state = "under way"
        tell = self.caller.here(lambda: None)
        try:
            for _ in range(5):
                tell()
                await asyncio.sleep(0.01)  # longer than it takes to be struck
        except asyncio.CancelledError:
            self.state = "tidying up"
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
            await asyncio.sleep(0)
            self.state = "tidied up"
            raise
        self.state = "over"
        return self.state


def struck(portal: Portal, work: Work, ctrl_c: Callable[..., None]) -> bool:
    """Whether Ctrl-C came out."""
    coroutine = work()
    sys.setprofile(ctrl_c)
    try:
        portal.run(coroutine, work.caller)
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
        portal.do(lambda: None)  # what was handed over is begun
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            coroutine.close()
    return False


def sweep(portal: Portal) -> tuple[int, list[str]]:
    """Ctrl-C at every place of the caller where CPython looks for signals: how many, and the states it left behind."""
    states = []
    for place in range(1, 1000):
        work, ctrl_c = Work(), CtrlC(place)
        came_out = struck(portal, work, ctrl_c)
        states.append(work.state)
        if not came_out:
            assert ctrl_c.where == ""
            return place - 1, states
        assert portal.run(answer(place)) == place, ctrl_c.where
    raise AssertionError("it never ended")


def test_ctrl_c_at_any_place_of_the_caller_finds_the_work_ended(portal: Portal, tmp_path: Path) -> None:
    """With a caller that does not wait as the control: it leaves work under way."""
    places, states = sweep(portal)
    assert set(states) <= {"not begun", "tidied up", "over"}
    hasty = HastyPortal()
    hasty_places, hasty_states = sweep(hasty)
    hasty.end()
    assert hasty.join(10)
    left = sum(state in ("under way", "tidying up") for state in hasty_states)
    report(
        f"Ctrl-C at {places} places of a caller, each found ended what it began "
        f"({states.count('tidied up')} cut off); one that does not wait left {left} of {hasty_places} under way",
        tmp_path,
    )
    assert places >= 10
    assert states.count("tidied up") >= 1
    assert left >= 1


class StruckTwice(Portal):
    """Ctrl-C comes again, at the place of that number behind the first (a profiler that raises is taken out)."""

    second: CtrlC

    def _give_up(self, call: Any, caller: Caller) -> None:
        sys.setprofile(self.second)
        super()._give_up(call, caller)


def test_a_second_ctrl_c_at_any_place_leaves_a_portal_that_works_and_work_that_ends(tmp_path: Path) -> None:
    portal = StruckTwice()
    twice = left_before_its_end = 0
    for later in range(1, 1000):
        again = 0
        for place in range(1, 1000):
            work, portal.second = Work(), CtrlC(later)
            if not struck(portal, work, CtrlC(place)):
                break
            again += bool(portal.second.where)
            left_before_its_end += work.state in ("under way", "tidying up")
            portal.run(portal.others())  # whatever still went on without its caller
            assert work.state in ("not begun", "tidied up", "over"), portal.second.where
        if not again:
            break
        twice += again
    portal.end()
    assert portal.join(10)
    report(f"a second Ctrl-C {twice} times, {left_before_its_end} of them before the work had ended", tmp_path)
    assert twice >= 20
    assert left_before_its_end >= 1


FORKS = """
import asyncio, os
from starfish_outbox.notebook.portal import Portal
portal = Portal()
async def answer(): return 1
portal.run(answer())
child = os.fork()
if child == 0:
    try:
        portal.run(answer())
    except RuntimeError as error:
        print("child:", error, flush=True)
    portal.end()
    os._exit(0)
os.waitpid(child, 0)
print("parent:", portal.run(answer()))
"""


def test_a_forked_child_is_told_that_it_has_no_such_thread_and_its_parent_goes_on() -> None:
    if sys.platform == "win32":
        pytest.skip("no fork")
    done = subprocess.run(
        [sys.executable, "-c", FORKS], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    child, parent = done.stdout.splitlines()
    assert child.startswith("child: this process was forked")
    assert parent == "parent: 1"
