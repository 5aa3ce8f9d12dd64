"""Devices that share a list, are killed, or come second: the published Starfish server, behind a lossy network.

What is asserted was counted on the server. What was broken on purpose, and the published outbox with its README's kind
of ``send``, go through the same: they must fail.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reporting import report
from tests.starfish.field import Software
from tests.starfish.runs import CONTROL, OURS, into_one_list, where_others_were_first, with_its_process_killed

pytestmark = pytest.mark.timeout(1800)  # whoever comes first makes the environment

OVERWRITING = Software("a merge that overwrites", broken="overwriting")
NEVER_LOOKING = Software("appending without a look", broken="never looking")
TAKING_ANY_409 = Software("taking any 409", broken="taking any 409")
KILLS = 6

sizes = pytest.mark.parametrize(
    ("size", "lose"), [(80, 0.08), pytest.param(1000, 0.03, marks=pytest.mark.proof)], ids=["80", "1000"]
)


@sizes
async def test_two_devices_lose_nothing_in_a_list_that_they_share(tmp_path: Path, size: int, lose: float) -> None:
    ours = await into_one_list(tmp_path / "ours", OURS, size=size, lose=lose)
    # Its entries are whole lists, in one file that is rewritten at each change: 1,000 would take hours.
    control = await into_one_list(tmp_path / "control", CONTROL, size=min(size, 100), lose=lose)
    broken = await into_one_list(tmp_path / "broken", OVERWRITING, size=size, lose=lose)
    report(f"two devices, one list:\n  {ours}\n  {control}\n  {broken}", tmp_path)
    for run in (ours, control, broken):
        assert run.faults["answers lost"] > 0
        assert run.faults["conflicts"] > 0
    assert ours.whole
    assert control.lost > 0
    assert broken.lost > 0


@sizes
async def test_a_device_that_is_killed_on_the_way_loses_and_repeats_nothing(
    tmp_path: Path, size: int, lose: float
) -> None:
    pushed = await with_its_process_killed(tmp_path / "push", OURS, "push", size=size, lose=lose, kills=KILLS)
    appended = await with_its_process_killed(tmp_path / "append", OURS, "append", size=size, lose=lose, kills=KILLS)
    broken = await with_its_process_killed(tmp_path / "broken", NEVER_LOOKING, "append", size=size, lose=0, kills=KILLS)
    report(f"killed {KILLS} times:\n  push: {pushed}\n  append: {appended}\n  append: {broken}", tmp_path)
    for run in (pushed, appended, broken):
        assert run.faults["kills of the device"] == KILLS
        assert run.faults["answers that it died before"] >= KILLS
    for run in (pushed, appended):
        assert run.whole
        assert run.writes[200] == size, "none was written twice"
    assert broken.extra >= KILLS


async def test_what_others_wrote_first_is_kept_and_ours_waits_for_a_person(tmp_path: Path) -> None:
    ours, *kept = await where_others_were_first(tmp_path / "ours", OURS)
    broken, *_ = await where_others_were_first(tmp_path / "broken", TAKING_ANY_409)
    report(f"others were first:\n  {ours}\n  {broken}", tmp_path)
    assert (ours.missing, ours.lost, len(ours.parked)) == (5, 0, 5)
    assert kept[0] == kept[1], "theirs is as they left it"
    assert broken.lost == 5
