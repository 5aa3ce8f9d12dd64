"""Ctrl-C at every call of an enqueue and of a drain, and then the same loop or another one goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.reporting import fresh_seed, report

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.proof)], ids=["some", "all"])
@pytest.mark.parametrize("loop", ["lives", "is closed"])
@pytest.mark.parametrize("what", ["enqueue", "drain"])
@pytest.mark.parametrize("kind", ["memory", "file", "sqlite"])
def test_ctrl_c_at_any_call_neither_loses_nor_blocks_anything(
    kind: str, what: str, loop: str, step: int, tmp_path: Path
) -> None:
    first = fresh_seed() % step + 1  # many runs add up to all places
    done = subprocess.run(
        [sys.executable, "-m", "tests.interrupt_sweep", kind, what, loop, str(tmp_path), str(first), str(step)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stdout[-1000:]) == (0, done.stdout), done.stderr[-1000:]
    words = done.stdout.split()
    assert words[:2] == ["struck", "at"], done.stdout
    report(
        f"{kind}: Ctrl-C at {words[2]} calls of one {what} (from {first}, each {step}.); then the loop {loop}", tmp_path
    )
    assert int(words[2]) >= 50 // step
