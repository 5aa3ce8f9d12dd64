"""The runner's ``kill`` in the middle of a request: it comes while the store is being written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox.conformance.cases import CaseError, CaseFiles
from starfish_outbox.conformance.driver import Driver
from starfish_outbox.conformance.running import Crew, run_case
from starfish_outbox.conformance.verdicts import Result, Verdict
from tests.interop import INTEROP

KEY = "outbox.ana"
STORED = '[{"id":"old","item":"word-old","status":"queued","attempts":0,"enqueuedAt":1}]'
HYDRATE = {"op": "hydrate", "key": KEY}
ENQUEUE = {"op": "enqueue", "id": "new", "item": '"word-new"'}

# Our driver on a cache that stops half way through a write, for ever: what does not kill it there waits in vain.
STOPS = """
import asyncio, os, sys, threading
sys.path.insert(0, sys.argv[1])
from python import PythonDriver
from starfish_outbox import FileCache
def half_a_write(cache, key, value, *, own=False):
    if {in_place}:
        os.truncate(cache.path(key), 10)
    else:
        (cache.directory / ".beside.tmp").write_text(value[:10])
    threading.Event().wait()
FileCache._write_owned = half_a_write
asyncio.run(PythonDriver().run())
"""


def killed_during(folder: Path, request: dict[str, Any], *, in_place: bool) -> Result:
    case = {
        "id": "c18-killed",
        "rows": ["C18"],
        "profile": "durable",
        "description": "It does it.",
        "cost": "It costs.",
        "store": "files",
        "start": {KEY: STORED},
        "keeps": {KEY: ["word-old"]},
        "steps": [HYDRATE, {"op": "kill", "during": request}, HYDRATE],
        "end": {"entries": [{"id": "old", "status": "queued"}]},
    }
    (folder / "cases.json").write_text(json.dumps({"title": "t", "cases": [case]}), "utf-8")
    files = CaseFiles(folder)
    command = [sys.executable, "-c", STOPS.format(in_place=in_place), str(INTEROP / "drivers")]
    with Crew(lambda: Driver(command, rules=files.rules)) as crew:
        return run_case(files.load()[0], crew, {})


def test_a_writer_in_place_loses_what_was_there(tmp_path: Path) -> None:
    result = killed_during(tmp_path, ENQUEUE, in_place=True)
    assert result.verdict is Verdict.DATA_LOSS, result.reasons
    assert result.reasons[0] == f"lost: word-old is nowhere under {KEY} and was not sent"
    assert result.after[KEY] == STORED[:10]


def test_a_writer_beside_keeps_what_was_there(tmp_path: Path) -> None:
    result = killed_during(tmp_path, ENQUEUE, in_place=False)
    assert (result.verdict, result.reasons) == (Verdict.PASS, ())
    assert result.after[KEY] == STORED


def test_a_request_that_writes_nothing_is_killed_once_it_is_answered(tmp_path: Path) -> None:
    result = killed_during(tmp_path, {"op": "get"}, in_place=True)
    assert (result.verdict, result.reasons) == (Verdict.PASS, ())


def test_what_is_killed_must_be_a_request_of_the_protocol(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="nonsense"):
        killed_during(tmp_path, {"op": "nonsense"}, in_place=True)
