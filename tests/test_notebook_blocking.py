"""``BlockingOutbox``: the whole interface without ``await``, from cells, functions, callbacks and threads."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import (
    DrainProgress,
    DuplicateIdError,
    FileCache,
    NotHydratedError,
    OutboxEntry,
    OutboxQueue,
    drain_outbox,
    keep_draining,
)
from starfish_outbox.drain import DrainState
from starfish_outbox.knowing import Ledger
from starfish_outbox.notebook.blocking import BlockingLedger, BlockingOutbox
from starfish_outbox.notebook.draining import BlockingDraining
from tests.conftest import Place
from tests.kernels import running

ROOT = Path(__file__).parents[1]
SECONDS = 60


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[BlockingOutbox]:
    with BlockingOutbox("ana", tmp_path / "outbox.db") as made:
        yield made


def fill(outbox: BlockingOutbox, count: int) -> list[str]:
    ids = [f"e{number}" for number in range(count)]
    assert outbox.enqueue_many([(id, 1) for id in ids]) == [True] * count
    return ids


def take(entry: OutboxEntry[Any]) -> None:
    """A plain send that gets through."""


def live(outbox: BlockingOutbox) -> list[str]:
    return [entry.id for entry in outbox.get()]


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}


def parameters(function: Callable[..., Any], without: int = 1) -> list[tuple[str, object, object]]:
    every = list(inspect.signature(function).parameters.values())[without:]
    return [(one.name, one.kind, one.default) for one in every]


class TestInterface:
    def test_every_public_word_of_a_queue_is_there_with_the_same_arguments_and_explained(self) -> None:
        inner = {"bound_or_none", "now_ms"}  # for drains
        words = public(OutboxQueue) - inner
        assert words - public(BlockingOutbox) == set()
        for word in words - {"ledger"}:
            ours, theirs = getattr(BlockingOutbox, word), getattr(OutboxQueue, word)
            assert parameters(ours) == parameters(theirs), word
            assert not inspect.iscoroutinefunction(ours), word
        for word in public(BlockingOutbox):
            assert getattr(BlockingOutbox, word).__doc__, word
        assert hasattr(BlockingOutbox, "__contains__") == hasattr(OutboxQueue, "__contains__")

    def test_the_drains_take_the_same_options(self) -> None:
        assert parameters(BlockingOutbox.drain) == parameters(drain_outbox)
        assert parameters(BlockingOutbox.keep_draining) == parameters(keep_draining)
        assert public(Ledger) == public(BlockingLedger)
        assert {"wake", "pause", "resume", "stop", "subscribe"} <= public(BlockingDraining)

    def test_it_does_what_the_queue_does_on_every_cache(self, place: Place) -> None:
        with BlockingOutbox("ana", place.cache) as outbox:
            assert outbox.enqueue("a", {"n": 1}) is True
            assert outbox.enqueue("a", {"n": 2}) is False
            assert outbox.enqueue_many((name, {"n": 3}) for name in "bc") == [True, True]
            with pytest.raises(DuplicateIdError):
                outbox.enqueue("a", {}, on_duplicate="raise")
            with pytest.raises(TypeError, match="mapping"):
                outbox.enqueue_many({"a": 1})  # type: ignore[dict-item]
            assert outbox.encode("z", {"n": 1.0}) == '{"n":1}'
            assert [entry.id for entry in outbox.pending(lambda item: item["n"] == 3)] == ["b", "c"]
            assert [entry.id for entry in outbox.page(1, 1)] == ["b"]
            assert "a" in outbox
            assert outbox.claim("a") is True
            assert outbox.explain("a").situation == "sending"
            outbox.record_failure("a", 1)
            assert outbox.wait_for("a", timeout=SECONDS) == "failed"
            assert outbox.edit("a", {"n": 9}) is True
            outbox.mark_failed("a")
            outbox.retry("a", reset_attempts=True)
            outbox.refresh()
            assert (outbox.get()[0].status, outbox.get()[0].attempts) == ("queued", 0)
            assert outbox.cancel("a") is True
            outbox.remove("b")
            assert (outbox.counts().total, outbox.status().key) == (1, "outbox.ana")
            assert [event.event for event in outbox.history("c")] == ["enqueued"]
            assert outbox.drain(take).sent == 1
            assert outbox.was_sent("c") is False  # no ledger was asked for
            assert (outbox.ledger.get("c"), outbox.ledger.prune()) == (None, 0)
            outbox.clear()
            with pytest.raises(NotHydratedError):
                outbox.enqueue("d", 1)
            outbox.hydrate("outbox.ben")
            assert outbox.enqueue("d", 1)
            assert repr(outbox).startswith("BlockingOutbox(key='outbox.ben', ")

    def test_a_ledger_is_kept_as_with_open_outbox(self, outbox: BlockingOutbox) -> None:
        fill(outbox, 1)
        outbox.drain(lambda entry: {"stored": entry.id}, receipts=True)
        assert outbox.was_sent("e0")
        sent = outbox.ledger.get("e0")
        assert sent is not None
        assert sent.receipt == '{"stored":"e0"}'
        assert outbox.enqueue("e0", 1) is False
        assert outbox.ledger.prune(days=0) == 1

    def test_closed_it_is_empty_says_so_and_can_be_closed_again(self, outbox: BlockingOutbox) -> None:
        fill(outbox, 1)
        outbox.close()
        outbox.close()
        assert (outbox.closed, outbox.get(), outbox.counts().total) == (True, [], 0)
        assert "(closed)" in repr(outbox)
        with pytest.raises(NotHydratedError, match="open it anew"):
            outbox.enqueue("a", 1)
        with pytest.raises(NotHydratedError, match="open it anew"):
            outbox.drain(take)

    def test_what_cannot_be_opened_leaves_no_thread_behind(self, tmp_path: Path) -> None:
        before = threading.active_count()
        (tmp_path / "outbox.db").mkdir()
        with pytest.raises(Exception, match=r"outbox\.db"):
            BlockingOutbox("ana", tmp_path / "outbox.db")
        with pytest.raises(TypeError):
            BlockingOutbox(1, tmp_path / "other.db")  # type: ignore[arg-type]
        until = time.monotonic() + SECONDS
        while threading.active_count() > before:  # it ends by itself
            assert time.monotonic() < until
            time.sleep(0)

    def test_every_name_of_the_package_is_there_and_one_that_needs_the_extra_says_so(self) -> None:
        script = """
import sys
import starfish_outbox.notebook as notebook
heavy = {"IPython", "ipywidgets", "anywidget", "pandas", "nest_asyncio"}
notebook.BlockingOutbox, notebook.nest, notebook.load_ipython_extension
print(sorted(heavy & set(sys.modules)))
sys.modules["ipywidgets"] = None
try:
    notebook.OutboxPanel
except ImportError as error:
    print(error)
del sys.modules["ipywidgets"]
print({name: getattr(notebook, name) for name in notebook.__all__}.keys() == set(dir(notebook)))
"""
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.stdout.splitlines() == [
            "[]",
            "OutboxPanel needs ipywidgets: pip install 'starfish-outbox[notebook]'",
            "True",
        ], done.stderr

    def test_a_ready_made_async_send_can_be_entered(self, outbox: BlockingOutbox) -> None:
        said: list[str] = []

        @asynccontextmanager
        async def sender() -> Any:
            said.append(f"opened in {threading.current_thread().name}")

            async def send(entry: OutboxEntry[Any]) -> None:
                said.append(entry.id)

            yield send
            said.append("closed")

        fill(outbox, 2)
        with outbox.using(sender()) as send:
            assert outbox.drain(send, concurrency=2).sent == 2
        assert said == ["opened in starfish-outbox", "e0", "e1", "closed"]


class TestWhereItWorks:
    async def test_where_a_loop_runs_as_in_a_cell(self, tmp_path: Path) -> None:
        with BlockingOutbox("ana", tmp_path / "outbox.db") as outbox:
            fill(outbox, 3)
            assert outbox.drain(take).sent == 3
            await asyncio.sleep(0)

    def test_in_a_callback_of_a_loop_and_in_several_threads(self, outbox: BlockingOutbox) -> None:
        answers: list[bool] = []

        async def cell() -> None:
            asyncio.get_running_loop().call_soon(lambda: answers.append(outbox.enqueue("of a callback", 1)))
            await asyncio.to_thread(lambda: answers.append(outbox.enqueue("of a thread", 1)))
            await asyncio.sleep(0)

        asyncio.run(cell())
        threads = [threading.Thread(target=lambda n=n: answers.append(outbox.enqueue(f"{n}", 1))) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [True] * 10
        assert len(live(outbox)) == 10

    def test_progress_is_shown_in_the_calling_thread_and_may_use_the_outbox(self, outbox: BlockingOutbox) -> None:
        shown: list[tuple[int, int, int]] = []

        def show(progress: DrainProgress) -> None:
            outbox.enqueue(f"of {progress.id}", 1)
            shown.append((progress.done, progress.total, threading.get_ident()))

        fill(outbox, 5)
        outbox.drain(take, on_progress=show)
        assert shown == [(done, 5, threading.get_ident()) for done in range(1, 6)]
        assert outbox.counts().queued == 5

    def test_progress_that_fails_stops_nothing_and_one_that_nobody_awaits_is_refused(
        self, outbox: BlockingOutbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(progress: DrainProgress) -> None:
            raise LookupError("no picture")

        async def nobody(progress: DrainProgress) -> None:
            """Never awaited."""

        fill(outbox, 2)
        with pytest.raises(TypeError, match="on_progress"):
            outbox.drain(take, on_progress=nobody)
        assert outbox.drain(take, on_progress=fail).sent == 2
        assert caplog.text.count("on_progress failed") == 2

    def test_from_its_own_thread_looking_works_and_waiting_is_refused(
        self, outbox: BlockingOutbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen: list[int] = []

        def look() -> None:
            seen.append(outbox.counts().queued + len(outbox.get()) + len(outbox.status().stuck))

        def wait() -> None:
            outbox.enqueue("of a listener", 1)

        unsubscribe = outbox.subscribe(look)
        fill(outbox, 2)
        assert seen == [4]
        unsubscribe()
        outbox.subscribe(wait)
        fill_more = outbox.enqueue("x", 1)
        assert fill_more
        assert "would wait for itself for ever" in caplog.text

        async def send(entry: OutboxEntry[Any]) -> None:
            outbox.refresh()

        assert outbox.drain(send, max_attempts=1).failed == 3
        assert "would wait for itself" in (outbox.get()[0].last_error or ("", ""))[1]

    def test_a_plain_send_may_use_the_outbox_but_not_close_it(self, outbox: BlockingOutbox) -> None:
        def send(entry: OutboxEntry[Any]) -> None:
            outbox.enqueue(f"after {entry.id}", 1)
            with pytest.raises(RuntimeError, match="inside a send"):
                outbox.close()

        fill(outbox, 2)
        assert outbox.drain(send).sent == 2
        assert live(outbox) == ["after e0", "after e1"]


class TestDraining:
    def test_a_blocking_send_leaves_the_outbox_free_and_runs_several_at_a_time(self, outbox: BlockingOutbox) -> None:
        three_at_once = threading.Barrier(3, timeout=SECONDS)
        threads: set[int] = set()

        def send(entry: OutboxEntry[Any]) -> None:
            if entry.id != "e0":  # the first of a pass goes alone
                three_at_once.wait()
            threads.add(threading.get_ident())
            assert outbox.enqueue(f"while {entry.id}", 1)  # another thread gets in meanwhile

        fill(outbox, 7)
        assert outbox.drain(send, concurrency=3, limit=7).sent == 7
        assert threading.get_ident() not in threads
        assert len(threads) <= 4

    def test_a_plain_send_may_get_many(self, outbox: BlockingOutbox) -> None:
        batches: list[list[str]] = []

        def send(entries: list[OutboxEntry[Any]]) -> list[object]:
            batches.append([entry.id for entry in entries])
            return [LookupError("no") if entry.id == "e1" else None for entry in entries]

        fill(outbox, 5)
        result = outbox.drain(send, batch_size=2, timeout=SECONDS)
        assert (result.sent, batches) == (4, [["e0", "e1"], ["e2", "e3"], ["e4"]])
        assert live(outbox) == ["e1"]

    @pytest.mark.parametrize("raised", [StopIteration, SystemExit, asyncio.CancelledError, LookupError])
    def test_whatever_a_plain_send_raises_the_outbox_lives_on(
        self, outbox: BlockingOutbox, raised: type[BaseException]
    ) -> None:
        def send(entry: OutboxEntry[Any]) -> None:
            raise raised

        fill(outbox, 1)
        comes_out = {SystemExit: SystemExit, asyncio.CancelledError: RuntimeError}.get(raised)
        with nullcontext() if comes_out is None else pytest.raises(comes_out):
            outbox.drain(send)
        assert outbox.counts().queued == 1
        assert (outbox.get()[0].maybe_sent_ms is not None) == (not issubclass(raised, Exception))
        assert outbox.drain(take).sent == 1

    def test_a_function_that_answers_a_coroutine_has_it_awaited(self, outbox: BlockingOutbox) -> None:
        sent: list[str] = []

        async def post(entry: OutboxEntry[Any]) -> None:
            sent.append(entry.id)

        fill(outbox, 2)
        assert outbox.drain(lambda entry: post(entry), timeout=SECONDS).sent == 2  # noqa: PLW0108  # no async def itself
        assert sent == ["e0", "e1"]

    def test_a_send_that_takes_too_long_is_joined_by_the_next_try_and_never_sent_twice(
        self, outbox: BlockingOutbox
    ) -> None:
        calls: list[str] = []
        go = threading.Event()

        def send(entry: OutboxEntry[Any]) -> dict[str, bool]:
            calls.append(entry.id)
            assert go.wait(SECONDS)
            return {"late": True}

        fill(outbox, 1)
        result = outbox.drain(send, timeout=0.01)
        assert (result.stopped, result.left, calls) == ("unacked", 1, ["e0"])
        assert outbox.get()[0].maybe_sent_ms is not None
        go.set()
        assert outbox.drain(send, timeout=SECONDS, receipts=True).sent == 1
        assert calls == ["e0"]
        assert outbox.history("e0")[-1].detail == {"late": True}

    def test_another_item_under_that_id_is_another_send(self, outbox: BlockingOutbox) -> None:
        items: list[int] = []
        go = threading.Event()

        def send(entry: OutboxEntry[Any]) -> None:
            items.append(entry.item)
            assert entry.item == 2 or go.wait(SECONDS)

        fill(outbox, 1)
        assert outbox.drain(send, timeout=0.01).left == 1
        outbox.enqueue("e0", 2, on_duplicate="replace")
        assert outbox.drain(send, timeout=SECONDS).sent == 1
        assert items == [1, 2]
        go.set()

    def test_calls_that_never_end_do_not_pile_up(self, outbox: BlockingOutbox) -> None:
        go, begun = threading.Event(), []

        def send(entry: OutboxEntry[Any]) -> None:
            begun.append(entry.id)
            assert go.wait(SECONDS)

        fill(outbox, 50)
        reasons = [outbox.drain(send, timeout=0.001).reason for _ in range(14)]
        assert len(begun) == len(set(begun)) == 32
        assert "still under way" in reasons[-1]
        go.set()

    def test_beside_the_body_beside_what_follows_and_until_it_is_stopped(self, outbox: BlockingOutbox) -> None:
        states: list[str] = []

        def note(state: DrainState) -> None:
            states.append(state.name)

        with outbox.keep_draining(take) as draining:
            draining.subscribe(note)
            outbox.enqueue("a", 1)
            assert outbox.wait_for("a", timeout=SECONDS) == "sent"
            draining.pause("for a while")
            outbox.enqueue("b", 1)
            assert outbox.explain("b").situation == "queued"
            draining.resume()
            assert outbox.wait_for("b", timeout=SECONDS) == "sent"
        assert (draining.sent, draining.failed, draining.state.name) == (2, 0, "ended")
        assert {"draining", "paused", "ended"} <= set(states)

        draining = outbox.keep_draining(take).start()
        with pytest.raises(RuntimeError, match="draining already"):
            draining.start()
        outbox.enqueue("c", 1)
        assert outbox.wait_for("c", timeout=SECONDS) == "sent"
        draining.stop()

        shown: list[int] = []

        def show(progress: DrainProgress) -> None:
            shown.append(threading.get_ident())
            until_it_is_done.stop()

        outbox.enqueue("d", 1)
        until_it_is_done = outbox.keep_draining(take, on_progress=show)
        until_it_is_done.run()
        assert shown == [threading.get_ident()]
        assert live(outbox) == []

    def test_a_plain_probe_may_block_too(self, outbox: BlockingOutbox) -> None:
        asked, go = threading.Event(), threading.Event()

        def probe() -> bool:
            asked.set()
            return go.wait(SECONDS)

        def send(entry: OutboxEntry[Any]) -> None:
            if not asked.is_set():
                raise ConnectionRefusedError

        fill(outbox, 1)
        with outbox.keep_draining(send, probe=probe) as draining:
            while draining.state.name != "offline":
                time.sleep(0)
            draining.wake()
            assert asked.wait(SECONDS)
            assert outbox.counts().queued == 1  # it answers while the probe blocks
            go.set()
            assert outbox.wait_for("e0", timeout=SECONDS) == "sent"

    def test_an_error_in_the_body_cuts_an_async_send_off(self, outbox: BlockingOutbox) -> None:
        under_way = threading.Event()

        async def send(entry: OutboxEntry[Any]) -> None:
            under_way.set()
            await asyncio.Event().wait()

        fill(outbox, 1)
        with pytest.raises(LookupError), outbox.keep_draining(send):  # noqa: PT012  # the error of the body
            assert under_way.wait(SECONDS)
            raise LookupError
        (entry,) = outbox.get()
        assert (entry.status, entry.maybe_sent_ms is not None) == ("queued", True)


class TestSharing:
    @pytest.mark.parametrize("name", ["outbox.db", "files/"])
    def test_running_the_cell_that_opens_it_again_is_no_error(self, tmp_path: Path, name: str) -> None:
        where = f"{tmp_path}/{name}"
        outbox = BlockingOutbox("ana", where)
        for number in range(5):
            outbox.enqueue(f"{number}", 1)
            outbox = BlockingOutbox("ana", where)
            gc.collect()  # the one before has nobody any more
        assert live(outbox) == ["0", "1", "2", "3", "4"]
        outbox.close()

    def test_a_dropped_outbox_ends_its_thread(self, tmp_path: Path) -> None:
        outbox = BlockingOutbox("ana", tmp_path / "outbox.db")
        fill(outbox, 1)
        thread = outbox.portal._thread
        del outbox
        gc.collect()
        thread.join(SECONDS)
        assert not thread.is_alive()

    @pytest.mark.parametrize("name", ["outbox.db", "files/"])
    def test_two_on_one_store_share_it_and_send_each_entry_once(self, tmp_path: Path, name: str) -> None:
        where, sent = f"{tmp_path}/{name}", []
        with BlockingOutbox("ana", where) as one, BlockingOutbox("ana", where) as other:
            fill(one, 40)
            assert len(live(other)) == 40

            def drain(outbox: BlockingOutbox) -> None:
                outbox.drain(lambda entry: sent.append(entry.id))

            threads = [threading.Thread(target=drain, args=(outbox,)) for outbox in (one, other)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(sent) == sorted(f"e{number}" for number in range(40))
            assert live(one) == live(other) == []

    @pytest.mark.parametrize("name", ["outbox.db", "files/"])
    def test_closing_waits_for_a_drain_elsewhere_and_records_it(self, tmp_path: Path, name: str) -> None:
        outbox = BlockingOutbox("ana", f"{tmp_path}/{name}")
        under_way, go = threading.Event(), threading.Event()
        sent: list[str] = []

        def send(entry: OutboxEntry[Any]) -> None:
            under_way.set()
            assert go.wait(SECONDS)
            sent.append(entry.id)

        fill(outbox, 3)
        drainer = threading.Thread(target=lambda: outbox.drain(send))
        drainer.start()
        assert under_way.wait(SECONDS)
        closer = threading.Thread(target=outbox.close)
        closer.start()
        while outbox.queue.status().key is not None:
            time.sleep(0)
        assert closer.is_alive()
        go.set()
        drainer.join(SECONDS)
        closer.join(SECONDS)
        with BlockingOutbox("ana", f"{tmp_path}/{name}") as again:
            assert (sent, live(again)) == (["e0"], ["e1", "e2"])
            assert {entry.maybe_sent_ms for entry in again.get()} == {None}


SCRIPT = """
import asyncio, os, sys, threading, time
from starfish_outbox.notebook.blocking import BlockingOutbox
outbox = BlockingOutbox("ana", sys.argv[1])
outbox.enqueue_many([("a", 1), ("b", 1)])
"""
ENDS = {
    "an idle outbox": ("", []),
    "a started drain with an async send under way": (
        """
began = threading.Event()
async def send(entry):
    began.set()
    await asyncio.Event().wait()
draining = outbox.keep_draining(send).start()
began.wait()
""",
        ["a"],
    ),
    "a plain send that never ends": (
        """
began = threading.Event()
def send(entry):
    began.set()
    threading.Event().wait()
def drain():
    try:
        outbox.drain(send)
    except RuntimeError as error:
        assert "was cancelled" in str(error)
threading.Thread(target=drain, daemon=True).start()
began.wait()
""",
        ["a"],
    ),
}


def ran(script: str, where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, str(where)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


class TestProcesses:
    @pytest.mark.parametrize("what", ENDS)
    def test_an_outbox_that_nobody_closes_keeps_no_interpreter_alive_and_is_closed(
        self, what: str, tmp_path: Path
    ) -> None:
        more, maybe = ENDS[what]
        done = ran(SCRIPT + more, tmp_path / "outbox.db")
        assert (done.returncode, done.stderr) == (0, "")
        assert not (tmp_path / "outbox.db-owners").exists()  # the last one to close takes it away
        with BlockingOutbox("ana", tmp_path / "outbox.db") as outbox:
            assert [(entry.id, entry.status) for entry in outbox.get()] == [("a", "queued"), ("b", "queued")]
            assert [entry.id for entry in outbox.get() if entry.maybe_sent_ms is not None] == maybe

    def test_a_forked_child_is_refused_and_may_open_its_own(self, tmp_path: Path) -> None:
        if not hasattr(os, "fork"):
            pytest.skip("no fork")
        script = """
child = os.fork()
if child == 0:
    try:
        outbox.enqueue("c", 1)
    except RuntimeError as error:
        print(error, flush=True)
    outbox.close()  # as leaving a `with` would
    with BlockingOutbox("ana", sys.argv[1]) as own:
        own.enqueue("of the child", 1)
    os._exit(0)
os.waitpid(child, 0)
outbox.refresh()
print(*[entry.id for entry in outbox.get()])
"""
        done = ran(SCRIPT + script, tmp_path / "outbox.db")
        assert (done.returncode, done.stderr) == (0, "")
        refused, seen = done.stdout.splitlines()
        assert "was forked" in refused
        assert seen == "a b of the child"

    @pytest.mark.parametrize("package", ["nest_asyncio", "nest_asyncio2"])
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_patched_asyncio_makes_no_difference(self, package: str, when: str, tmp_path: Path) -> None:
        apply = f"import {package}, asyncio\nloop = asyncio.new_event_loop()\n{package}.apply(loop)\nloop.close()\n"
        rest = """
async def send(entry):
    await asyncio.sleep(0)
print(outbox.drain(send, concurrency=2, timeout=60).sent, asyncio.run.__module__)
outbox.enqueue("c", 1)
async def cell():
    return outbox.drain(lambda entry: time.sleep(0.001), timeout=60).sent
print(asyncio.run(cell()))
outbox.close()
asyncio.get_event_loop_policy().get_event_loop().close()  # which the patched asyncio.run leaves behind
"""
        script = apply + SCRIPT + rest if when == "before" else SCRIPT + apply + rest
        done = ran(script, tmp_path / "outbox.db")
        assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", ["2", package, "1"])


def test_a_file_cache_of_the_caller_is_not_closed(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "files")
    with BlockingOutbox("ana", cache) as outbox:
        fill(outbox, 1)
    with BlockingOutbox("ana", cache) as outbox:
        assert live(outbox) == ["e0"]
    cache.close()


BUTTON = """
import ipywidgets, threading, time
from starfish_outbox.notebook.blocking import BlockingOutbox
outbox = BlockingOutbox("ana", "outbox.db")
clicks = []
def clicked(_):
    number = len(clicks)
    outbox.enqueue(f"click {number}", 1)
    clicks.append((outbox.drain(lambda entry: time.sleep(0.001)).sent, threading.current_thread().name))
button = ipywidgets.Button(description="Drain")
button.on_click(clicked)
print(button.model_id)
"""


def clicked_everywhere(python: str | Path, folder: Path, *, subshells: bool) -> None:
    """A button's callback uses the outbox: between cells, while one awaits, in a subshell (to 7.3) while one blocks."""
    with running(python, folder) as kernel:
        (made,) = kernel.run(BUTTON)
        model = made.text.strip()
        kernel.click(model)
        waiting, _ = kernel.send("import asyncio\nfor _ in range(20): await asyncio.sleep(0.01)", "print('behind')")
        for _ in range(3):
            kernel.click(model)
        assert kernel.wait(lambda: waiting.ended)
        # A click that is handled while a cell awaits is told of under that cell: only what it did says that it was.
        assert kernel.wait(lambda: kernel.run("print(len(clicks))")[0].text == "4\n")
        if subshells:
            (blocked,) = kernel.send("while len(clicks) < 5: time.sleep(0.001)\nprint('unblocked by the button')")
            kernel.click(model, kernel.new_subshell())
            assert kernel.wait(lambda: blocked.ended), blocked
        (cell,) = kernel.run("print([sent for sent, _ in clicks], outbox.counts().total)\noutbox.close()")
        assert cell.text.strip() == f"{[1] * (5 if subshells else 4)} 0", cell


def prints_under_the_right_cell(python: str | Path, folder: Path) -> None:
    with running(python, folder) as kernel:
        opened, drained, last = kernel.run(
            "from starfish_outbox.notebook import BlockingOutbox\noutbox = BlockingOutbox('ana', 'outbox.db')\n"
            "outbox.enqueue_many([('a', 1), ('b', 1)])",
            "async def send(entry): print('sent', entry.id, flush=True)\n"
            "def plain(entry): print('sent', entry.id, flush=True)\n"
            "def shown(progress): print('shown', progress.done, flush=True)\n"
            "outbox.drain(plain, limit=1, on_progress=shown)\noutbox.drain(send, on_progress=shown)\nprint('over')",
            "outbox.close()",
        )
    assert drained.text.splitlines() == ["sent a", "shown 1", "sent b", "shown 1", "over"]
    assert (opened.text.strip(), last.text) == ("[True, True]", "")


def test_what_a_send_and_its_progress_print_lands_under_the_cell_that_drains(tmp_path: Path) -> None:
    prints_under_the_right_cell(sys.executable, tmp_path)


def test_a_widgets_callback_uses_it_wherever_it_runs(tmp_path: Path) -> None:
    clicked_everywhere(sys.executable, tmp_path, subshells=False)
