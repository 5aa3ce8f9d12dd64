"""``nest()``: ``asyncio.run`` inside cells, without losing the cells that are queued behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.kernels import Cell, Kernel, running, texts
from tests.reporting import report

ROOT = Path(__file__).parents[1]
SECONDS = 60

CELLS = [
    "import asyncio\nasync def later(n):\n    await asyncio.sleep(0.01)\n    return n",
    "print(asyncio.run(later(1)))",
    "print(asyncio.run(later(2)), asyncio.run(later(2)))",
    "print('three')",
    "print(asyncio.get_event_loop().run_until_complete(later(4)))",
    "print(await later(5))",
    "print(await asyncio.gather(later(6), asyncio.to_thread(lambda: 6)))",
]
ANSWERS = ["", "1", "2 2", "three", "4", "5", "[6, 6]"]
NEST = "from starfish_outbox.notebook import nest\nnest()"


def ran(*lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", "-c", "\n".join(lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def lost(kernel: Kernel, cells: Sequence[Cell]) -> list[bool]:
    """Which of these cells will never run: one that was sent after them all has run, and they have not."""
    assert kernel.wait(lambda: cells[0].ended)
    assert kernel.wait(lambda: cells[1].ended)
    (last,) = kernel.run("print('I came last')")
    assert last.text == "I came last\n"
    return [not cell.ended for cell in cells]


def nothing_is_lost(kernel: Kernel) -> str:
    """All cells at once, and what ``nest()`` said."""
    nested, *cells = kernel.send(NEST, *CELLS)
    assert not any(lost(kernel, [nested, *cells]))
    assert texts(cells) == ANSWERS
    return nested.text.strip()


def test_all_cells_at_once_run_and_with_nest_asyncio_they_are_lost(tmp_path: Path) -> None:
    with running(folder=tmp_path) as kernel:
        said = nothing_is_lost(kernel)
        (again,) = kernel.run("nest()")
    assert said.startswith("nest_asyncio2 ")
    assert "with ipykernel 7" in said
    assert "would lose the cells queued behind" in said
    assert " was applied already: it loses no cells with ipykernel 7" in again.text
    with running(folder=tmp_path) as kernel:  # the control
        cells = kernel.send("import nest_asyncio; nest_asyncio.apply()", *CELLS)[1:]
        gone = lost(kernel, cells)
        (named,) = kernel.run(NEST)
    assert gone == [False, False, True, True, True, True, True]
    assert named.error == "RuntimeError"
    assert "nest_asyncio 1.6.0 was applied before" in named.words
    assert "restart the kernel" in named.words
    report(f"{len(CELLS)} cells at once: none lost with nest(), {sum(gone)} with nest_asyncio", tmp_path)


def test_an_outbox_works_in_nested_cells_both_ways(tmp_path: Path) -> None:
    with running(folder=tmp_path) as kernel:
        cells = kernel.run(
            NEST,
            "from starfish_outbox import drain_outbox, open_outbox\n"
            "from starfish_outbox.notebook import BlockingOutbox\nimport asyncio, time",
            "async def opened(): return await open_outbox('ana', 'one.db')\nqueue = asyncio.run(opened())\n"
            "print(asyncio.run(queue.enqueue('a', 1)))",
            "async def send(entry): await asyncio.sleep(0.01)\nprint(asyncio.run(drain_outbox(queue, send)).sent)",
            "outbox = BlockingOutbox('ana', 'two.db')\nprint(outbox.enqueue_many([('a', 1), ('b', 1)]))",
            "def plain(entry): time.sleep(0.01)\nprint(outbox.drain(plain, concurrency=2).sent)",
            "async def both():\n    outbox.enqueue('c', 1)\n    return outbox.drain(send).sent\n"
            "print(asyncio.run(both()))",
            "asyncio.run(queue.close())\noutbox.close()\nprint('closed')",
        )
    assert [cell.words for cell in cells] == [""] * len(cells)
    assert texts(cells[2:]) == ["True", "1", "[True, True]", "2", "1", "closed"]


def test_outside_a_kernel_it_is_nest_asyncio_and_twice_is_once() -> None:
    done = ran(
        "import asyncio",
        "from starfish_outbox.notebook import nest",
        "print(nest())",
        "async def inner(): return 'inner'",
        "async def outer(): return asyncio.run(inner())",
        "print(asyncio.run(outer()))",
        "async def again(): return nest()",
        "print(asyncio.run(again()), asyncio.run(outer()))",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "nest_asyncio 1.6.0 is applied: it loses no cells outside a kernel",
        "inner",
        "nest_asyncio 1.6.0 was applied already: it loses no cells outside a kernel inner",
    ]


def test_where_only_the_successor_is_installed_it_will_do() -> None:
    hide = (
        "import importlib.metadata as metadata",
        "version = metadata.version",
        "def found(name):",
        "    if name in hidden: raise metadata.PackageNotFoundError(name)",
        "    return version(name)",
        "metadata.version = found",
        "from starfish_outbox.notebook import nest",
    )
    done = ran("hidden = ['nest-asyncio']", *hide, "print(nest())")
    assert done.stdout.startswith("nest_asyncio2 "), done
    assert "is its successor" in done.stdout
    done = ran("hidden = ['nest-asyncio', 'nest-asyncio2']", *hide, "nest()")
    assert "ImportError: nest_asyncio2 is needed outside a kernel and not installed: pip install" in done.stderr


def test_uvloop_is_refused_and_a_blocking_outbox_needs_no_other(tmp_path: Path) -> None:
    pytest.importorskip("uvloop", reason="there is none for this system")
    done = ran(
        "import asyncio, uvloop",
        "asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())",
        "from starfish_outbox.notebook import BlockingOutbox, nest",
        "async def main(): nest()",
        "for attempt in (nest, lambda: asyncio.run(main())):",
        "    try: attempt()",
        "    except RuntimeError as error: print(error)",
        f"with BlockingOutbox('ana', {str(tmp_path / 'outbox.db')!r}) as outbox:",
        "    outbox.enqueue_many([(str(n), n) for n in range(20)])",
        "    async def send(entry): await asyncio.sleep(0)",
        "    print(type(outbox.portal.loop).__module__, outbox.drain(send, concurrency=4).sent)",
        "    outbox.enqueue('x', 1)",
        "    def fail(entry): raise SystemExit",
        "    try: outbox.drain(fail)",
        "    except SystemExit: print(outbox.drain(lambda entry: None).sent)",
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second, *rest = done.stdout.splitlines()
    assert first == second
    assert "uvloop's, which is compiled and cannot be entered again" in first
    assert rest == ["uvloop 20", "1"]
