"""``%outbox`` in a real kernel: on a blocking outbox and on an async queue, and what it says to mistakes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernels import Cell, Kernel, running

BLOCKING = """
class Frame:
    __hash__ = None
    def __eq__(self, other): raise ValueError("as of a data frame, that is no truth value")
frame = Frame()
from starfish_outbox import RejectedError
from starfish_outbox.notebook import BlockingOutbox
outbox = BlockingOutbox("ana", "blocking.db")
outbox.enqueue_many([("a", 1), ("b", 2), ("c d", 3)])
def send(entry):
    if entry.id == "b": raise RejectedError("too big")
"""
ASYNC = """
from starfish_outbox import RejectedError, open_outbox
queue = await open_outbox("ana", "async.db")
await queue.enqueue_many([("a", 1), ("b", 2), ("c d", 3)])
async def send(entry):
    if entry.id == "b": raise RejectedError("too big")
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with running(folder=tmp_path_factory.mktemp("magics")) as started:
        started.run("%load_ext starfish_outbox")
        yield started


@pytest.fixture
def blocking(kernel: Kernel) -> Iterator[Kernel]:
    good(*kernel.run(BLOCKING))
    yield kernel
    good(
        *kernel.run(
            "outbox.ledger.prune(days=0)\n[outbox.remove(e.id) for e in outbox.get()]\noutbox.close()\ndel outbox"
        )
    )


@pytest.fixture
def awaited(kernel: Kernel) -> Iterator[Kernel]:
    good(*kernel.run(ASYNC))
    yield kernel
    good(
        *kernel.run(
            "await queue.ledger.prune(days=0)\nfor e in queue.get(): await queue.remove(e.id)\n"
            "await queue.close()\ndel queue"
        )
    )


def good(*cells: Cell) -> None:
    assert [cell.words for cell in cells] == [""] * len(cells)
    assert not [cell.text for cell in cells if "UsageError" in cell.text]


def test_on_a_blocking_outbox_every_command_answers_at_once(blocking: Kernel) -> None:
    cells = blocking.run(
        "%outbox",
        "%outbox list",
        "done = %outbox drain --limit 10 --concurrency 2 --timeout 30\n"
        "print(done.sent, done.failed, type(done).__name__)",
        "%outbox list --status failed",
        "%outbox show b",
        "%outbox show 'c d'",
        "%outbox retry b a",
        "%outbox drain send",
        "%outbox retry --all --reset-attempts",
        "%outbox list",
    )
    good(*cells)
    status, listed, drained, failed, shown, gone, retried, again, every, at_last = [cell.text for cell in cells]
    assert "Counts(queued=3" in status
    assert [line.split("  ")[0] for line in listed.splitlines()] == ["id", "a", "b", "c d"]
    assert drained.strip() == "2 1 DrainResult"
    assert failed.splitlines()[1].startswith("b   failed  1         ")
    assert failed.splitlines()[1].endswith("RejectedError: too big")
    assert "'b' is parked after 1 failed attempt" in shown
    assert "enqueued" in shown
    assert "'c d' was delivered at" in gone
    assert retried.splitlines()[0] == "1 entry queued again"
    assert retried.splitlines()[1].startswith("'a' was delivered")
    assert "DrainResult(sent=0, failed=1" in again
    assert every.strip() == "1 entry queued again"
    assert at_last.splitlines()[1].split()[:3] == ["b", "queued", "0"]
    assert any("text/html" in data for data in cells[0].shown + cells[7].shown)


def test_on_an_async_queue_answers_come_under_the_cell_when_they_are_there(awaited: Kernel) -> None:
    status, drain = awaited.run("%outbox status", "%outbox drain")
    good(status, drain)
    assert awaited.wait(lambda: "Counts(queued=3" in status.text), status
    assert drain.text.startswith("drain: under way")
    assert awaited.wait(lambda: "DrainResult(sent=2, failed=1" in drain.text), drain
    (show,) = awaited.run("%outbox show b\nprint('the cell goes on')")
    assert awaited.wait(lambda: "'b' is parked" in show.text), show
    assert "the cell goes on" in show.text
    waited, in_line = awaited.run(
        "later = %outbox retry --all\nprint(await later)\nprint(later)",
        "later = %outbox drain --max-attempts 1\nprint((await later).failed)",
    )
    good(waited, in_line)
    assert "1 entry queued again" in waited.text
    assert "<%outbox retry: done>" in waited.text
    assert in_line.text.split("\n")[-2] == "1" or "\n1\n" in in_line.text


def test_all_cells_at_once_answer_too(awaited: Kernel) -> None:
    cells = awaited.run("%outbox drain", "%outbox retry b", "%outbox show b", "%outbox status")
    good(*cells)
    assert awaited.wait(lambda: "DrainResult(sent=2" in cells[0].text), cells[0]
    assert awaited.wait(lambda: "1 entry queued again" in cells[1].text), cells[1]  # what the drain had parked
    assert awaited.wait(lambda: "'b' is queued" in cells[2].text), cells[2]


def test_a_plain_send_on_an_async_queue_does_not_hold_the_kernel(awaited: Kernel) -> None:
    drain, other = awaited.run(
        "import threading, asyncio\ngo = threading.Event()\ndef slow(entry): assert go.wait(60)\n%outbox drain slow",
        "await asyncio.sleep(0)\nprint('meanwhile', queue.counts().sending)\ngo.set()",
    )
    good(drain, other)
    assert other.text.startswith("meanwhile")
    assert awaited.wait(lambda: "DrainResult(sent=3" in drain.text), drain


def test_what_fails_later_is_said_under_the_cell_and_raised_to_who_awaits(awaited: Kernel) -> None:
    drain, raised = awaited.run(
        "def broken(entry): raise SystemError\nfrom starfish_outbox import OutboxQueue, MemoryCache\n"
        "import starfish_outbox.caches.sqlite\nasync def odd(entry): return asyncio.sleep(0)\n%outbox drain odd",
        "later = %outbox drain odd\ntry: await later\nexcept TypeError as error: print('raised', error)",
    )
    good(drain, raised)
    assert awaited.wait(lambda: "drain failed: TypeError: a send answered coroutine" in drain.text), drain
    assert "raised a send answered coroutine" in raised.text


MISTAKES = {
    "%outbox frobnicate": "invalid choice: 'frobnicate'",
    "%outbox show": "the following arguments are required: id (%outbox help)",
    "%outbox show 'a": "No closing quotation",
    "%outbox list -n many": "'many' is no whole number of at least 1",
    "%outbox drain nobody": "there is no function 'nobody'",
    "%outbox drain outbox": "it is a BlockingOutbox, no function",
    "%outbox drain send --timeout 0": "timeout is a number of seconds above 0",
    "%outbox retry": "retry takes ids, or --all",
    "%outbox retry a --all": "retry takes ids, or --all",
    "%outbox use nothing": "nothing: nothing of that name in this notebook",
    "%outbox status -q send": "send: a function, no outbox",
}


def test_mistakes_are_told_in_one_line(blocking: Kernel) -> None:
    for (line, words), cell in zip(MISTAKES.items(), blocking.run(*MISTAKES), strict=True):
        assert cell.text.startswith("UsageError: "), line
        assert words in cell.text, line
        assert cell.text.count("\n") == 1, "no traceback"


def test_which_outbox_is_meant(kernel: Kernel) -> None:
    none, one, two, use, used, named, inside = kernel.run(
        "%outbox",
        "from starfish_outbox import MemoryCache\nfrom starfish_outbox.notebook import BlockingOutbox\n"
        "field = BlockingOutbox('ana', MemoryCache())\nalias = field\ninner = field.queue\nfield\n%outbox",
        "ship = BlockingOutbox('ben', MemoryCache())\nship.enqueue('x', 1)\n%outbox status",
        "%outbox use ship",
        "%outbox list",
        "%outbox list --queue field",
        "%unload_ext starfish_outbox\n%load_ext starfish_outbox\nship.close()\n%outbox list",
    )
    assert "there is no open outbox in this notebook" in none.text
    assert "outbox.ana" in one.text
    assert "which one of field, ship?" in two.text
    assert use.text.strip() == "%outbox means ship"
    assert used.text.splitlines()[1].startswith("x   queued")
    assert named.text.strip() == "no entry waits"
    assert inside.text.strip() == "no entry waits"  # the only one that is open
    good(*kernel.run("field.close()\ndel field, alias, inner, ship"))


def test_help_says_every_command_and_variables_can_stand_for_ids(blocking: Kernel) -> None:
    helped, asked, variable, odd = blocking.run(
        "%outbox help",
        "get_ipython().find_line_magic('outbox').__doc__ == str(_)",
        "name = 'a'\n%outbox show {name}",
        "outbox.enqueue('\\u202ex\\n', 1)\n%outbox list",
    )
    good(helped, asked, variable, odd)
    for command in ("status", "list", "show", "drain", "retry", "use", "help"):
        assert command in helped.text
    assert asked.text.strip() == "True"
    assert "'a' is queued" in variable.text
    assert r"\u202ex\n  queued" in odd.text
