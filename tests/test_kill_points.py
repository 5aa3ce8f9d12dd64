"""A kill, or an error, at each storage system call of a short workload; and the order of the calls, for power cuts.

A kill proves nothing about power loss: SQLite with ``synchronous=OFF`` survives every kill point here. What a cut could
take is judged from the recorded order of writes, fsyncs, renames and acknowledgements.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import pytest

from starfish_outbox import FileCache
from tests.acknowledgements import Model
from tests.damage import PAGE, make_database
from tests.reporting import fresh_seed, report
from tests.strace import STORAGE, Durability, Tracer, counts, why_not
from tests.workers.stores import KEY, KINDS, open_queue
from tests.workers.zygote import Worker, Zygote

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

T = TypeVar("T")

PROOF: Final = [pytest.mark.proof, pytest.mark.timeout(3600)]
ALL: Final = 1_000_000
"""More than there are."""
MADE: Final = "made by the cache"


@dataclass
class Sweep:
    """What happened at the points of one sweep.

    Attributes:
        fired: points at which the worker was killed, or a call failed.
        failures: calls of the queue that raised.
    """

    fired: int = 0
    failures: int = 0
    faults: list[str] = field(default_factory=list)


def start(zygote: Zygote, kind: str, where: Path, what: str = "run") -> Worker:
    """A worker that waits for its tracer."""
    if where.name != MADE:
        where.mkdir(mode=0o700, exist_ok=True)
    worker = zygote.start(f"tests.workers.script:{what}", kind, str(where))
    worker.expect("ready")
    return worker


def recorded(zygote: Zygote, kind: str, folder: Path, name: str = "recorded") -> tuple[Path, Durability, list[Any]]:
    """One undisturbed run: the log of its calls, what they make durable, and what the queue held at the end."""
    log = folder / "recorded.log"
    worker = start(zygote, kind, folder / name)
    durability = Durability(folder)
    with Tracer(worker, log):
        worker.tell()
        lines = worker.rest()
    assert worker.wait() == 0
    zygote.forget(worker)
    return log, durability.follow(log), lines[-1][1]


def points(log: Path, calls: Iterable[str]) -> list[tuple[str, int]]:
    """Each point at which a call can be struck: its name and its number."""
    return [(name, number + 1) for name, times in counts(log).items() if name in calls for number in range(times)]


def some(things: list[T], most: int, seed: int) -> list[T]:
    """All of them, or ``most`` that the seed chooses, so that many runs add up to all."""
    return Random(seed).sample(things, min(most, len(things)))


def kill_at(zygote: Zygote, kind: str, where: Path, call: str, number: int, sweep: Sweep) -> None:
    """Kill the script as it enters a system call, and compare what a fresh process finds with what was acknowledged."""
    worker = start(zygote, kind, where)
    model = Model(padding=1)
    with Tracer(worker, where.with_suffix(".log"), "-e", f"inject={call}:signal=SIGKILL:when={number}"):
        worker.tell()
        for line in worker.rest():
            if line[0] not in ("opened", "end"):
                model.take(line)
        killed = worker.wait() == -9
    zygote.forget(worker)
    sweep.fired += killed
    found, set_aside, damage = zygote.ask("tests.workers.stores:look", kind, str(where))
    sweep.faults += [f"{call} {number}: {fault}" for fault in [*model.compare(found), *set_aside, *damage]]


def sweep_kills(zygote: Zygote, kind: str, folder: Path, most: int, seed: int) -> Sweep:
    """Kill at storage calls of the script."""
    log, _, _ = recorded(zygote, kind, folder)
    sweep = Sweep()
    for call, number in some(points(log, STORAGE.split(",")), most, seed):
        kill_at(zygote, kind, folder / f"{call}{number}", call, number, sweep)
    return sweep


def fail_at(zygote: Zygote, kind: str, where: Path, rule: str, end: list[Any], sweep: Sweep) -> None:
    """Let calls fail as the rule says; tried again (if they fail for ever, once the disk is well) all must work."""
    worker = start(zygote, kind, where)
    failures = 0
    with ExitStack() as stack:
        stack.enter_context(Tracer(worker, where.with_suffix(".log"), "-e", f"inject={rule}"))
        worker.tell()
        while (line := worker.hears()) is not None and line[0] != "end":
            if line[0] != "failed":
                continue
            _, name, is_write_error, unchanged, text = line
            failures += 1
            # Opening, and the refresh with which a pass begins, read; they write where they take a claim back.
            if name not in ("hydrate", "drain") and not is_write_error:
                sweep.faults.append(f"{rule}: {name} raised no CacheWriteError but {text}")
            if name != "drain" and not unchanged:  # what a pass settled before the error stays settled
                sweep.faults.append(f"{rule}: {name} failed and memory changed")
            if failures == 3:
                stack.close()  # the disk is well again
            worker.tell()
        status = worker.wait()  # before the tracer ends: strace 6.1 hangs when it is to detach from what is ending
    if status != 0 or line is None:
        sweep.faults.append(f"{rule}: the script ended with {status} after {failures} failures")
    elif not same(line[1], end, failures):
        sweep.faults.append(f"{rule}: at the end {line[1]}, not {end}")
    zygote.forget(worker)
    sweep.fired += failures > 0
    sweep.failures += failures
    found, set_aside, damage = zygote.ask("tests.workers.stores:look", kind, str(where))
    if not same(found, end, failures):
        sweep.faults.append(f"{rule}: a fresh process found {found}, not {end}")
    sweep.faults += [f"{rule}: {fault}" for fault in [*set_aside, *damage]]


def same(entries: list[list[Any]], end: list[list[Any]], failures: int) -> bool:
    """Whether the entries are those of an undisturbed run.

    An error leaves open whether the disk took the change: a failed attempt that is recorded again may count twice.
    And a pass that was broken off may have marked an entry ``maybe_sent_ms``, the last column.
    """
    pairs = list(zip(entries, end, strict=False))
    return len(entries) == len(end) and all(
        one[:3] == other[:3] and other[3] <= one[3] <= other[3] + failures for one, other in pairs
    )


def sweep_errors(zygote: Zygote, kind: str, folder: Path, most: int, seed: int) -> Sweep:
    """ENOSPC and EIO, once and for ever, at calls that write."""
    log, _, end = recorded(zygote, kind, folder)
    sweep = Sweep()
    rules = [
        f"{call}:error={error}:when={number}{times}"
        for call, number in points(log, ("write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename"))
        for error in ("ENOSPC", "EIO")
        for times in ("", "+")
    ]
    for rule in some(rules, most, seed):
        fail_at(zygote, kind, folder / rule.replace(":", "."), rule, end, sweep)
    return sweep


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_acknowledged_is_durable_by_the_order_of_the_calls(
    zygote: Zygote, tmp_path: Path, kind: str
) -> None:
    """Sync the file, rename it, sync the directory, acknowledge; of a claim, then send."""
    _, durability, _ = recorded(zygote, kind, tmp_path)
    report(f"{kind}: {durability.acknowledgements} acknowledgements judged", tmp_path)
    assert durability.acknowledgements >= 20
    assert not durability.violations


def test_a_directory_that_the_cache_makes_is_durable_before_the_first_acknowledgement(
    zygote: Zygote, tmp_path: Path
) -> None:
    log, durability, _ = recorded(zygote, "file", tmp_path, MADE)
    assert counts(log)["mkdir"] == 1
    assert durability.acknowledgements >= 20
    assert not durability.violations


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("file, no fsync", "renamed before it was synced"),
        ("file, no directory fsync", "was not synced"),
        ("sqlite, synchronous off", "was not synced"),
    ],
)
def test_the_order_of_the_calls_gives_a_variant_without_fsync_away(
    zygote: Zygote, tmp_path: Path, kind: str, complaint: str
) -> None:
    _, durability, _ = recorded(zygote, kind, tmp_path)
    assert any(complaint in violation for violation in durability.violations)


@pytest.mark.parametrize(
    ("kind", "most", "least"),
    [
        ("file", 40, 40),
        ("sqlite", 50, 50),
        pytest.param("file", ALL, 170, marks=PROOF),
        pytest.param("sqlite", ALL, 450, marks=PROOF),
    ],
)
def test_a_kill_at_any_storage_call_loses_nothing_that_was_acknowledged(
    zygote: Zygote, tmp_path: Path, kind: str, most: int, least: int
) -> None:
    seed = fresh_seed()
    sweep = sweep_kills(zygote, kind, tmp_path, most, seed)
    report(f"{kind}, seed {seed}: killed at {sweep.fired} storage calls; {len(sweep.faults)} faults", tmp_path)
    assert not sweep.faults, "\n".join(sweep.faults[:20])
    assert sweep.fired >= least * 0.95  # in another run than the recorded one a thread may make a call less


def test_a_kill_at_some_call_of_a_cache_that_writes_in_place_loses_what_was_acknowledged(
    zygote: Zygote, tmp_path: Path
) -> None:
    log, _, _ = recorded(zygote, "file, in place", tmp_path)
    sweep = Sweep()
    for call, number in points(log, ["write"]):
        kill_at(zygote, "file, in place", tmp_path / f"{call}{number}", call, number, sweep)
    report(f"file, in place: killed at {sweep.fired} writes; {len(sweep.faults)} faults", tmp_path)
    assert sweep.faults


def test_kills_cannot_see_that_a_database_never_syncs(zygote: Zygote, tmp_path: Path) -> None:
    """Why the order of the calls is judged as well: the page cache outlives the process."""
    sweep = sweep_kills(zygote, "sqlite, synchronous off", tmp_path, 10, fresh_seed())
    assert sweep.fired >= 9
    assert not sweep.faults, "\n".join(sweep.faults[:20])


@pytest.mark.parametrize(
    ("kind", "most", "least"),
    [
        ("file", 25, 25),
        ("sqlite", 30, 30),
        pytest.param("file", ALL, 280, marks=PROOF),
        pytest.param("sqlite", ALL, 1_500, marks=PROOF),
    ],
)
def test_an_error_at_any_write_is_raised_changes_nothing_in_memory_and_the_same_call_works_later(
    zygote: Zygote, tmp_path: Path, kind: str, most: int, least: int
) -> None:
    seed = fresh_seed()
    sweep = sweep_errors(zygote, kind, tmp_path, most, seed)
    report(
        f"{kind}, seed {seed}: {sweep.fired} points failed, {sweep.failures} calls of the queue raised; "
        f"{len(sweep.faults)} faults",
        tmp_path,
    )
    assert not sweep.faults, "\n".join(sweep.faults[:20])
    assert sweep.fired >= least * 0.9
    assert sweep.failures > sweep.fired  # some failed more than once, and worked when the disk was well again


async def damaged_store(kind: str, where: Path) -> Path:
    """A store with damage that opening it repairs; the damaged file."""
    where.mkdir(mode=0o700)
    if kind == "file":
        queue = await open_queue(kind, str(where))
        await queue.enqueue_many([(f"{number:04}", {"n": number}) for number in range(40)])
        await queue.close()
        path = FileCache(where).path(KEY)
        path.write_bytes(path.read_bytes()[:-100])
        return path
    path = where / "outbox.db"
    data = bytearray(await make_database(path))
    shutil.rmtree(f"{path}-owners", ignore_errors=True)
    if kind == "sqlite":
        at = data.rindex(b"plot 30 ") // PAGE * PAGE
        data[at : at + 100] = b"\xff" * 100
    else:
        data = data.replace(b'{"n":31,', b'{"n":39,')
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["file", "sqlite", "sqlite, bad rows"])
@pytest.mark.parametrize("most", [20, pytest.param(ALL, marks=PROOF)], ids=["some", "all"])
async def test_a_kill_at_any_storage_call_of_a_repair_leaves_it_to_the_next_opener(
    zygote: Zygote, tmp_path: Path, kind: str, most: int
) -> None:
    path = await damaged_store(kind, tmp_path / "damaged")
    original = path.read_bytes()
    log, seed = tmp_path / "recorded.log", fresh_seed()
    shutil.copytree(path.parent, tmp_path / "whole")
    worker = start(zygote, kind, tmp_path / "whole", "open_only")
    with Tracer(worker, log):
        worker.tell()
        found, set_aside = worker.expect("opened")
        assert worker.wait() == 0
    assert len(set_aside) >= 1
    assert 30 <= len(found) < 60
    fired = 0
    for call, number in some(points(log, STORAGE.split(",")), most, seed):
        where = tmp_path / f"{call}{number}"
        shutil.copytree(path.parent, where)
        worker = start(zygote, kind, where, "open_only")
        with Tracer(worker, where.with_suffix(".log"), "-e", f"inject={call}:signal=SIGKILL:when={number}"):
            worker.tell()
            worker.rest()
            fired += worker.wait() == -9
        zygote.forget(worker)
        after, _, damage = zygote.ask("tests.workers.stores:look", kind, str(where))
        assert after == found, (call, number)
        assert not damage or kind == "file", (call, number)  # a file stays as it is until the next change
        if kind != "sqlite, bad rows":
            assert original in [copy.read_bytes() for copy in where.iterdir() if copy.is_file()], (call, number)
        shutil.rmtree(where)
    report(f"{kind}, seed {seed}: killed at {fired} storage calls of a repair", tmp_path)
    assert fired >= min(most * 0.9, 15)
