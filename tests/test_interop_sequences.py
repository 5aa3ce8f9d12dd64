"""Random operations by several programs: side by side compared after each, and hand to hand through one stored text.

``make proof`` runs more of the same. ``STARFISH_SEED`` is the first seed; a difference names its own, which replays it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from starfish_outbox.conformance.driver import Driver
from starfish_outbox.conformance.relay import RelayTally, relay
from starfish_outbox.conformance.sequences import Tally, compare, random_steps
from tests.interop import INTEROP, divergences, published_driver, python_driver, typescript_driver
from tests.reporting import report

SEED = int(os.environ.get("STARFISH_SEED") or 0)
OURS = {one.id for one in divergences() if one.of == "python"}
THEIRS = {one.id for one in divergences() if one.of != "python"}


FIRST_OF_SEED_1 = ["open", "clock", "hydrate", "drain", "clock", "claim", "retry"]


@pytest.fixture(scope="module")
def typescript() -> Iterator[Driver]:
    with typescript_driver() as driver:
        yield driver


@pytest.fixture(scope="module")
def python() -> Iterator[Driver]:
    with python_driver() as driver:
        yield driver


def shown(tally: Tally | RelayTally) -> str:
    return "\n".join(map(str, [tally, *tally.differences]))


def test_a_seed_is_the_same_sequence_for_ever() -> None:
    assert random_steps(7) == random_steps(7)
    assert random_steps(7) != random_steps(8)
    # What a run of an earlier version printed is replayed by a later one: these are for ever.
    assert [request["op"] for request in random_steps(1).requests[:7]] == FIRST_OF_SEED_1


@pytest.mark.parametrize("sequences", [800, pytest.param(20_000, marks=[pytest.mark.proof, pytest.mark.timeout(3000)])])
def test_python_and_the_typescript_package_agree_after_every_operation(
    sequences: int, python: Driver, typescript: Driver
) -> None:
    tally = compare([python, typescript], range(SEED, SEED + sequences), divergences())
    report(str(tally), INTEROP)
    assert tally.differences == [], shown(tally)
    assert tally.sequences == sequences
    if SEED == 0:
        assert set(tally.declared) == OURS, "a divergence that is declared and never met is none"


@pytest.mark.parametrize("sequences", [80, pytest.param(2000, marks=[pytest.mark.proof, pytest.mark.timeout(900)])])
def test_three_programs_agree(sequences: int, python: Driver, typescript: Driver) -> None:
    with published_driver() as published:
        tally = compare([python, typescript, published], range(SEED, SEED + sequences), divergences())
    report(str(tally), INTEROP)
    assert tally.differences == [], shown(tally)
    if SEED == 0:
        assert set(tally.declared) >= THEIRS


def test_without_the_declarations_every_divergence_of_ours_is_a_difference(python: Driver, typescript: Driver) -> None:
    """Each declared divergence is one: without its declaration the comparison finds it."""
    missed = set()
    for left_out in OURS:
        rest = [one for one in divergences() if one.id != left_out]
        if not compare([python, typescript], range(400), rest, most=1).differences:
            missed.add(left_out)
    assert missed == set()


@pytest.fixture
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is one: what is shown here is content, not durability, and fsync is most of it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


RELAYS = [
    pytest.param("files", 60, id="files"),
    pytest.param("sqlite", 30, id="sqlite"),
    pytest.param("files", 4000, id="many-files", marks=[pytest.mark.proof, pytest.mark.timeout(3000)]),
    pytest.param("sqlite", 1000, id="many-sqlite", marks=[pytest.mark.proof, pytest.mark.timeout(3000)]),
]


@pytest.mark.parametrize(("store", "sequences"), RELAYS)
def test_a_queue_that_goes_from_hand_to_hand_is_what_the_model_says(
    store: Literal["files", "sqlite"], sequences: int, fast_folder: Path, python: Driver, typescript: Driver
) -> None:
    tally = RelayTally()
    for seed in range(SEED, SEED + sequences):
        relay([python, typescript], seed, store, fast_folder / f"{seed}.db", tally)
    report(f"{store}: {tally}", fast_folder)
    assert tally.differences == [], shown(tally)
    assert tally.operations.keys() == {"python", "published-typescript"}
    assert tally.operations.total() >= 10 * sequences


DRIVER_WITH_A_BUG = """
import asyncio, dataclasses, sys
sys.path.insert(0, sys.argv[1])
from starfish_outbox import codec, drain, listeners, queue, transitions
from starfish_outbox.caches import adapter
def change(module, name, make):
    setattr(module, name, make(getattr(module, name)))
{bug}
from python import PythonDriver
asyncio.run(PythonDriver().run())
"""

BUGS = {
    "retry forgets attempts": "change(transitions, 'retry', lambda real: lambda **_: real(reset_attempts=True))",
    "one attempt more than allowed": "change(transitions, 'record_failure', lambda real: lambda most: real(most + 1))",
    "a failed entry cannot be claimed": (
        "change(transitions, 'claim', lambda real: lambda token, **_: real(token, only_queued=True))"
    ),
    "markFailed counts no attempt": (
        "change(transitions, 'mark_failed', lambda real: lambda e: dataclasses.replace(real(e), attempts=e.attempts))"
    ),
    "a ts of 0 is taken for none": (
        "change(queue.OutboxQueue, '_entry', lambda real: lambda self, id, text, ts: real(self, id, text, ts or None))"
    ),
    "unknown keys are dropped": "change(codec, 'encode_more', lambda real: lambda entry: '')",
    "items are spelled as in Python": (
        "import json; change(queue, 'encode_item', lambda real: lambda item, **_: json.dumps(item))"
    ),
    "listeners are called twice": (
        "change(listeners.Listeners, 'notify', lambda real: lambda self: (real(self), real(self))[0])"
    ),
    "the youngest entry is sent first": (
        "change(drain._Pass, '_snapshot', lambda real: lambda self: real(self)[::-1])"
    ),
    "a claim outlives its process": "change(adapter, 'free', lambda real: lambda entry, *_: entry)",
    "equal ids by another letter": (
        "import unicodedata;"
        "change(queue, 'check_id', lambda real: lambda id: None);"
        "change(queue.OutboxQueue, 'claim', lambda real: lambda self, id: real(self, unicodedata.normalize('NFC', id)))"
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, typescript: Driver) -> None:
    command = [sys.executable, "-c", DRIVER_WITH_A_BUG.format(bug=BUGS[bug]), str(INTEROP / "drivers")]
    with Driver(command) as wrong:
        tally = compare([wrong, typescript], range(SEED, SEED + 200), divergences(), most=1)
    assert tally.differences, f"{bug}: not found in {tally.sequences} sequences"
    report(f"{bug}: found after {tally.operations} operations, shown in {tally.differences[0].step}", INTEROP)
