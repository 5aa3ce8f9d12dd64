"""1,000 entries into the published Starfish server, which is killed on the way, over a network that loses answers.

What is asserted was counted on the server. The published outbox with its README's kind of ``send``, and a sender of
ours that was broken on purpose, go through the same: they must fail.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reporting import report
from tests.starfish.field import Software
from tests.starfish.runs import CONTROL, OURS, Report, through_an_outage

pytestmark = pytest.mark.timeout(1800)  # whoever comes first makes the environment

NEVER_LOOKING = Software("appending without a look", broken="never looking")

sizes = pytest.mark.parametrize(
    ("size", "lose"), [(80, 0.08), pytest.param(1000, 0.03, marks=pytest.mark.proof)], ids=["80", "1000"]
)


def faults_came(run: Report, size: int) -> bool:
    return run.faults["answers lost"] > 0 and run.faults["on the server when it was killed"] == size * 2 // 5


@sizes
@pytest.mark.parametrize("kind", ["push", "append"])
async def test_after_an_outage_the_server_has_each_entry_once(
    tmp_path: Path, kind: str, size: int, lose: float
) -> None:
    ours = await through_an_outage(tmp_path / "ours", OURS, kind, size=size, lose=lose)
    control = await through_an_outage(tmp_path / "control", CONTROL, kind, size=size, lose=lose)
    report(f"{kind}, an outage of 20 passes:\n  {ours}\n  {control}", tmp_path)

    assert faults_came(ours, size)
    assert ours.faults["passes while it was down"] == 20
    assert ours.whole
    assert ours.writes[200] == size, "none was written twice"
    assert ours.faults["calls in the busiest of them"] <= 2

    assert faults_came(control, size)
    assert control.missing == size * 3 // 5, "each pass of the outage cost an attempt"
    assert len(control.parked) > control.missing, "delivered, and reported as failed"
    assert control.faults["calls in the busiest of them"] > size // 2


@sizes
async def test_after_a_short_outage_the_control_has_delivered_entries_as_failed(
    tmp_path: Path, size: int, lose: float
) -> None:
    control = await through_an_outage(tmp_path / "control", CONTROL, "push", size=size, lose=lose, passes=1)
    report(f"push, an outage of one pass:\n  {control}", tmp_path)
    assert faults_came(control, size)
    assert (control.missing, control.queued) == (0, set())
    assert control.parked


@sizes
async def test_after_a_short_outage_others_have_appended_twice(tmp_path: Path, size: int, lose: float) -> None:
    control = await through_an_outage(tmp_path / "control", CONTROL, "append", size=size, lose=lose, passes=1)
    broken = await through_an_outage(tmp_path / "broken", NEVER_LOOKING, "append", size=size, lose=lose, passes=1)
    report(f"append, an outage of one pass:\n  {control}\n  {broken}", tmp_path)
    assert faults_came(control, size)
    assert control.extra > 0
    assert faults_came(broken, size)
    assert broken.extra == broken.writes[200] - size > 0
