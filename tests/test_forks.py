"""Processes that fork, and processes that just end, with an open queue."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from tests.workers.stores import KINDS
from tests.workers.zygote import ROOT, Worker, Zygote

OWNERS: Final = "tests.workers.owners"


def stranger(zygote: Zygote, kind: str, where: Path) -> Worker:
    """Another process that has nothing to do with the fork."""
    worker = zygote.start(f"{OWNERS}:obey", kind, str(where))
    worker.expect("ready")
    worker.tell("open")
    return worker


def test_a_forked_child_shares_a_database_as_any_other_process_does(zygote: Zygote, tmp_path: Path) -> None:
    parent = zygote.start(f"{OWNERS}:fork_with_open_queue", "sqlite", str(tmp_path))
    parent.expect("parent")
    answers, seen = parent.expect("inherited")
    assert answers == [None, False, True]  # the claim on a is the parent's
    assert seen == {"a": "sending", "b": "queued", "of the child": "queued"}
    assert parent.expect("reopened") == [["b", "of the child"], {"a": "sending"}]
    parent.expect("child has ended")
    other = stranger(zygote, "sqlite", tmp_path)
    assert other.expect("open") == [{"a": "sending"}]  # the child's end freed nothing
    parent.tell()
    assert parent.expect("parent enqueued") == [True]
    parent.kill()
    parent.wait()
    other.tell("refresh")
    assert other.expect("seen") == [{"a": "queued+", "of the parent": "queued"}]


def test_a_forked_child_does_not_own_its_parents_file(zygote: Zygote, tmp_path: Path) -> None:
    parent = zygote.start(f"{OWNERS}:fork_with_open_queue", "file", str(tmp_path))
    pid, _ = parent.expect("parent")
    answers, _ = parent.expect("inherited")
    assert answers == ["CacheError", "CacheWriteError", "CacheWriteError"]
    assert f"pid {pid} " in parent.expect("locked")[0]
    parent.expect("child has ended")
    other = stranger(zygote, "file", tmp_path)
    assert f"pid {pid} " in other.expect("locked")[0]  # the child's end freed nothing
    parent.tell()
    assert parent.expect("parent enqueued") == [True]
    parent.kill()
    parent.wait()
    other.tell("open")
    assert other.expect("open") == [{"a": "queued+", "b": "queued", "of the parent": "queued"}]


def test_a_child_that_was_forked_amid_a_transaction_can_write_at_once(zygote: Zygote, tmp_path: Path) -> None:
    """SQLite keeps what it knows of its locks in memory, which a fork copies: a lock held then is held for ever."""
    parent = zygote.start(f"{OWNERS}:fork_amid_a_transaction", "sqlite", str(tmp_path))
    started = time.monotonic()
    lines = parent.rest()
    assert parent.wait() == 0
    assert sum(line == ["forked", True] for line in lines) >= 4, "the forks missed the transactions"
    assert sum(line[0] == "child" and line[2] for line in lines) == 8
    assert lines[-1] == ["end", 8 * 1500 + 8]
    assert time.monotonic() - started < 45  # a child that waits for a lock that nobody holds waits 60 s


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_that_outlives_its_killed_parent_gets_what_the_parent_owned(
    zygote: Zygote, tmp_path: Path, kind: str
) -> None:
    parent = zygote.start(f"{OWNERS}:orphan", kind, str(tmp_path))
    assert {parent.hears()[0], parent.hears()[0]} == {"parent", "child"}
    parent.kill()
    parent.wait()
    parent.tell()
    assert parent.expect("child sees") == [{"a": "queued+", "b": "queued"}]


PROGRAM: Final = """
import asyncio, os, sys, time
from tests.workers.stores import open_queue

async def main():
    queue = await open_queue(*sys.argv[1:3])
    print(await queue.enqueue("a", 1), await queue.claim("a"))
    return queue

queue = asyncio.run(main())
"""


def run_program(kind: str, where: Path, more: str) -> tuple[list[str], float]:
    """What a program prints that ends by itself with code 0, and how long its end took after its last line, seconds."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM + more, kind, str(where)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        said = time.monotonic()
        for line in process.stdout:
            lines.append(line.strip())
            said = time.monotonic()
        code = process.wait(60)
        took = time.monotonic() - said
        assert process.stderr is not None
        errors = process.stderr.read()
    assert (code, errors) == (0, "")
    return lines, took


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "end",
    ["", "del queue", "asyncio.run(queue.enqueue('b', 2))", "sys.exit(0)", "queue = [queue]; queue.append(queue)"],
)
def test_a_program_that_never_closes_its_queue_ends_at_once_and_with_code_0(
    tmp_path: Path, kind: str, end: str
) -> None:
    lines, took = run_program(kind, tmp_path, f"print('end', flush=True)\n{end}\n")
    assert lines == ["True True", "end"]
    assert took < 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_forked_child_that_ends_as_programs_do_takes_nothing_from_its_parent(tmp_path: Path, kind: str) -> None:
    """The interpreter's end collects what was inherited: connections, threads and locks that are the parent's."""
    lines, _ = run_program(
        kind,
        tmp_path,
        """
sys.stdout.flush()
child = os.fork()
if child == 0:
    sys.exit(0)
print(os.waitpid(child, 0)[1])
print(asyncio.run(queue.enqueue("b", 2)), [e.status for e in queue.get()], flush=True)
import subprocess
look = '''
import asyncio, sys
from tests.workers.stores import open_queue
async def main():
    try:
        print([e.status for e in (await open_queue(*sys.argv[1:3])).get()])
    except Exception as error:
        print(type(error).__name__)
asyncio.run(main())
'''
subprocess.run([sys.executable, "-c", look, *sys.argv[1:3]], check=True)
""",
    )
    seen = "['sending', 'queued']" if kind == "sqlite" else "QueueLockedError"
    assert lines == ["True True", "0", "True ['sending', 'queued']", seen]
