"""SIGKILL at random moments of a random workload: what was acknowledged is there, and nothing else has changed.

A kill says nothing about power cuts: SQLite with ``synchronous=OFF`` passes here (``test_kill_points`` sees it by the
order of the system calls).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import pytest

from tests.acknowledgements import Model
from tests.reporting import fresh_seed, report
from tests.workers.stores import KINDS
from tests.workers.zygote import Zygote

KILLS: Final = 200
MANY: Final = 3_000


@dataclass
class Tally:
    """What the kills of one run hit."""

    kills: int = 0
    under_way: int = 0
    mid_write: int = 0
    acknowledged: int = 0
    sends: int = 0
    interrupted: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills: {self.under_way} between begin and acknowledgement, {self.mid_write} that left a "
            f"temporary file or a hot journal, {self.interrupted} interrupted sends found maybe_sent; "
            f"{self.acknowledged} operations acknowledged, {self.sends} sends; {len(self.faults)} faults"
        )


def kill_often(zygote: Zygote, kind: str, where: Path, kills: int, seed: int, padding: int) -> Tally:
    """Kill the workload on one store again and again; ends early at the first fault."""
    rng, model, tally = Random(seed), Model(padding), Tally()
    typical = 0.003  # seconds from one report to the next; measured as the run goes on
    while not tally.faults and tally.kills < kills:
        worker = zygote.start("tests.workers.workload:run", kind, str(where), rng.getrandbits(32), padding)
        found, set_aside, damage = worker.expect("opened")
        tally.faults += [*model.compare(found), *set_aside, *damage]
        wanted = rng.randint(1, 10)
        started = time.perf_counter()
        for _ in range(wanted):
            model.take(worker.hears())
        typical += 0.1 * ((time.perf_counter() - started) / wanted - typical)
        _wait(rng.random() * typical)
        worker.kill()
        for line in worker.rest():
            model.take(line)
        assert worker.wait() == -9
        zygote.forget(worker)
        tally.kills += 1
        tally.under_way += model.under_way
        tally.mid_write += _cut_in_two(where)
        tally.acknowledged += model.acknowledged
    found, set_aside, damage = zygote.ask("tests.workers.stores:look", kind.removesuffix(", early"), str(where))
    tally.faults += [*model.compare(found), *set_aside, *damage]
    tally.sends, tally.interrupted = model.sends, model.interrupted
    return tally


def _wait(seconds: float) -> None:
    """Busy, because a sleep wakes too late for the moment between two system calls."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def _cut_in_two(where: Path) -> bool:
    """Whether a kill left what only a write leaves."""
    journal = where / "outbox.db-journal"
    return any(where.glob(".*.tmp")) or (journal.exists() and journal.stat().st_size > 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kills", [KILLS, pytest.param(MANY, marks=[pytest.mark.proof, pytest.mark.timeout(3600)])])
def test_a_killed_process_loses_nothing_that_was_acknowledged(
    zygote: Zygote, tmp_path: Path, kind: str, kills: int
) -> None:
    seed = fresh_seed()
    tally = kill_often(zygote, kind, tmp_path, kills, seed, padding=1)
    report(f"{kind}, seed {seed}: {tally}", tmp_path)
    assert not tally.faults, f"STARFISH_SEED={seed} pytest tests/test_kills.py -k {kind}"
    assert tally.kills == kills
    # A harness that kills between operations only would pass anything.
    assert tally.under_way > kills // 3
    assert tally.mid_write > kills // 50
    assert tally.interrupted > kills // 100, "no send was cut off"


@pytest.mark.parametrize("kind", ["file, in place", "file, early", "sqlite, early"])
def test_a_broken_variant_fails_the_same_check(zygote: Zygote, tmp_path: Path, kind: str) -> None:
    """In place: a kill between truncation and the last write. Early: an acknowledgement before the commit."""
    seed = fresh_seed()
    tally = kill_often(zygote, kind, tmp_path, 10 * KILLS, seed, padding=2_000 if kind == "file, in place" else 1)
    report(f"{kind}, seed {seed}: {tally}", tmp_path)
    assert tally.faults, f"no fault in {tally.kills} kills"
