"""The runner: what it makes of cases, of drivers that do wrong, and of lists of known failures."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox.conformance.cases import Case, CaseError, CaseFiles
from starfish_outbox.conformance.driver import Driver
from starfish_outbox.conformance.runner import Plan, read_known, run
from starfish_outbox.conformance.running import Crew, run_case
from starfish_outbox.conformance.verdicts import Known, Result, Verdict
from tests.interop import INTEROP

KEY = "outbox.ana"
STORED = '[{"id":"a","item":"word-a","status":"queued","attempts":0,"enqueuedAt":1}]'

# Our driver, changed in one place: what a port that does this wrong would be.
CHANGED = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from python import PythonDriver
class Changed(PythonDriver):
    def hello(self):
        return {{**super().hello(), "name": "changed"}}
{methods}
asyncio.run(Changed().run())
"""
FORGETS = """
    async def do_hydrate(self, request):
        await self.store.put(request["key"], "[]")
        return await super().do_hydrate(request)
"""
DIES = """
    async def do_claim(self, request):
        sys.exit(3)
"""
CANNOT = """
    async def do_claim(self, request):
        from serve import UnsupportedError
        raise UnsupportedError("no claims here")
"""
SENDS_BACKWARDS = """
    async def do_drain(self, request):
        value = await super().do_drain(request)
        return {**value, "sends": value["sends"][::-1]}
"""
SENDS_NO_JSON = """
    async def do_drain(self, request):
        value = await super().do_drain(request)
        return {**value, "sends": [text.replace('"word-a"', "NaN") for text in value["sends"]]}
"""


def case_file(folder: Path, *cases: Mapping[str, Any]) -> Path:
    base = {
        "rows": ["R1"],
        "profile": "core",
        "description": "It does it.",
        "cost": "It costs.",
        "start": {KEY: STORED},
        "keeps": {KEY: ["word-a"]},
    }
    full = [{"id": f"r01-case-{number}", **base, **case} for number, case in enumerate(cases)]
    (folder / "cases.json").write_text(json.dumps({"title": "t", "cases": full}), "utf-8")
    return folder


def loaded(folder: Path, *cases: Mapping[str, Any]) -> list[Case]:
    return CaseFiles(case_file(folder, *cases)).load()


def crew_of(methods: str = "    pass") -> Crew:
    command = [sys.executable, "-c", CHANGED.format(methods=methods), str(INTEROP / "drivers")]
    return Crew(lambda: Driver(command))


@pytest.fixture(scope="module")
def ours() -> Iterator[Crew]:
    with crew_of() as crew:
        yield crew


HYDRATE = {"op": "hydrate", "key": KEY}
CLAIM = {"op": "claim", "id": "a", "expect": {"value": True}}
ENQUEUE = {"op": "enqueue", "id": "b", "item": '"word-b"'}
GATES = {"op": "gates", "on": True}
START = {"op": "start", "task": "h", "call": HYDRATE}
DRAIN = {"op": "drain", "expect": {"sends": ["a", "b"]}}


def verdict_of(folder: Path, case: Mapping[str, Any], crew: Crew) -> Result:
    return run_case(loaded(folder, case)[0], crew, {})


def test_a_case_passes_when_all_is_as_expected(tmp_path: Path, ours: Crew) -> None:
    result = verdict_of(tmp_path, {"steps": [HYDRATE, CLAIM], "end": {"entries": [{"status": "sending"}]}}, ours)
    assert (result.verdict, result.reasons, result.surprise) == (Verdict.PASS, (), None)
    assert [step.request["op"] for step in result.trace] == ["hydrate", "claim"]
    assert result.before == {KEY: STORED}
    assert '"sending"' in (result.after[KEY] or "")


EXPECTATIONS: dict[str, tuple[Mapping[str, Any], str]] = {
    "value": ({"steps": [HYDRATE, {**CLAIM, "expect": {"value": False}}]}, "value is true instead of false"),
    "error": ({"steps": [HYDRATE, {**CLAIM, "expect": {"error": "locked"}}]}, "raised nothing instead of locked"),
    "another error": (
        {"steps": [HYDRATE, {"op": "enqueue", "id": "", "item": "1", "expect": {"error": ["locked", "item"]}}]},
        "raised argument (ValueError",
    ),
    "an error that nobody expects": ({"steps": [CLAIM]}, "raised not-hydrated"),
    "entries": ({"steps": [{**HYDRATE, "expect": {"entries": [{"id": "b"}]}}]}, 'entries[0].id is a instead of b'),
    "a member more in an item": (
        {"steps": [HYDRATE, {**ENQUEUE, "item": '{"x":1,"y":2}', "expect": {"entries": [{}, {"item": {"x": 1}}]}}]},
        "entries[1].item.y is there",
    ),
    "stored": ({"steps": [HYDRATE, {**ENQUEUE, "expect": {"stored": [{}]}}]}, "stored is ["),
    "text": ({"steps": [{**HYDRATE, "expect": {"text": STORED + " "}}]}, "stored is ["),
    "notified": ({"steps": [{**HYDRATE, "expect": {"notified": 2}}]}, "listeners were called 1 times instead of 2"),
    "sends": ({"steps": [HYDRATE, {"op": "drain", "expect": {"sends": []}}]}, 'sends is ["a"] instead of []'),
    "sends as entries": (
        {"steps": [HYDRATE, {"op": "drain", "expect": {"sends": [{"item": "word-b"}]}}]},
        "sends[0].item is word-a instead of word-b",
    ),
    "the end's entries": ({"steps": [HYDRATE], "end": {"entries": []}}, "entries at the end is [{"),
    "the end's text": ({"steps": [HYDRATE], "end": {"texts": {KEY: None}}}, f"stored under {KEY} at the end is [{{"),
    "what was stored": (
        {"steps": [HYDRATE], "end": {"stored": {KEY: [{"attempts": 1}]}}},
        "attempts is 0 instead of 1",
    ),
    "the end's bytes": (
        {"store": "files", "steps": [HYDRATE], "end": {"bytes": {KEY: "ff"}}},
        f"the bytes under {KEY} at the end are 5b7b22",
    ),
    "what was set aside in files": (
        {"store": "files", "steps": [HYDRATE], "end": {"setAside": {KEY: ["word-a"]}}},
        "word-a was not set aside",
    ),
    "a value of any depth": (
        {"start": {KEY: f'[{"[" * 20_000}"word-a"{"]" * 20_000}]'},
         "steps": [{"op": "get"}], "end": {"stored": {KEY: ["a"]}}},
        f"stored under {KEY} at the end[0] is [[[",
    ),
    "what was set aside": ({"steps": [HYDRATE], "end": {"setAside": {KEY: ["word-a"]}}}, "word-a was not set aside"),
    "what was sent": ({"steps": [HYDRATE], "end": {"sent": ["a"]}}, 'sent [] instead of ["a"]'),
    "a gate that is not there": (
        {"steps": [HYDRATE, {"op": "gates", "on": True}, {"op": "pass", "at": "send"}]},
        "nothing stands at a gate send",
    ),
    "who waits": (
        {"steps": [GATES, {**START, "expect": {"waiting": []}}],
         "end": {"unfinished": ["h"]}},
        f"at the gates stand getItem {KEY} instead of nobody",
    ),
    "a task that has finished": (
        {"steps": [GATES, START,
                   {"op": "passAll", "expect": {"unfinished": ["h"]}}]},
        "h has finished already",
    ),
    "a task that has not": (
        {"steps": [GATES, START]},
        "h has not finished at the end",
    ),
    "a task that raised": (
        {"steps": [{"op": "gates", "on": True}, {"op": "start", "task": "c", "call": {"op": "claim", "id": "a"}}]},
        "c: raised not-hydrated",
    ),
    "another identity's words": ({"steps": [HYDRATE], "apart": {KEY: ["word-a"]}}, "leaked: word-a stands under"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTATIONS)
def test_whatever_is_not_as_expected_fails_and_says_where(name: str, tmp_path: Path, ours: Crew) -> None:
    case, reason = EXPECTATIONS[name]
    result = verdict_of(tmp_path, case, ours)
    assert result.verdict is Verdict.FAIL
    assert reason in "\n".join(result.reasons)
    assert result.surprise is not None


def test_words_that_are_nowhere_any_more_are_data_loss(tmp_path: Path) -> None:
    with crew_of(FORGETS) as crew:
        result = verdict_of(tmp_path, {"steps": [HYDRATE]}, crew)
    assert result.verdict is Verdict.DATA_LOSS
    assert result.reasons == (f"lost: word-a is nowhere under {KEY} and was not sent",)


MOVED_ASIDE = (
    {"op": "put", "key": KEY, "text": None},
    {"op": "put", "key": f"{KEY}.corrupt.2", "text": STORED},
)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([HYDRATE, {"op": "drain"}], id="sent"),
        pytest.param([*MOVED_ASIDE], id="set-aside"),
    ],
)  # fmt: skip
def test_words_that_were_sent_or_set_aside_are_not_lost(steps: list[Any], tmp_path: Path, ours: Crew) -> None:
    assert verdict_of(tmp_path, {"steps": steps}, ours).verdict is Verdict.PASS


def test_what_was_not_acknowledged_is_not_owed(tmp_path: Path, ours: Crew) -> None:
    owed = {"acknowledged": {"new": {KEY: ["word-b"]}}}
    told = [HYDRATE, {**ENQUEUE, "label": "new"}, {"op": "remove", "id": "b"}]
    refused = [{**ENQUEUE, "label": "new", "expect": {"error": True}}]
    assert verdict_of(tmp_path, {"steps": told, **owed}, ours).verdict is Verdict.DATA_LOSS
    assert verdict_of(tmp_path, {"steps": refused, **owed}, ours).verdict is Verdict.PASS


def test_another_end_that_the_case_allows_is_acceptable_and_says_why(tmp_path: Path) -> None:
    case = {
        "steps": [HYDRATE, ENQUEUE, {**DRAIN, "label": "pass"}],
        "acceptable": [
            {"because": "No.", "steps": {"pass": {"sends": ["b"]}}},
            {"because": "Any order will do.", "steps": {"pass": {"sends": ["b", "a"]}}},
        ],
    }
    with crew_of(SENDS_BACKWARDS) as crew:
        result = verdict_of(tmp_path, case, crew)
        assert (result.verdict, result.reasons) == (Verdict.ACCEPTABLE, ("Any order will do.",))
        assert result.surprise is None
        strict = verdict_of(tmp_path, {"steps": case["steps"]}, crew)
    assert strict.verdict is Verdict.FAIL


def test_a_driver_that_dies_is_an_error_and_the_next_case_has_a_new_one(tmp_path: Path) -> None:
    with crew_of(DIES) as crew:
        first, second = [
            run_case(case, crew, {}) for case in loaded(tmp_path, {"steps": [HYDRATE, CLAIM]}, {"steps": [HYDRATE]})
        ]
    assert first.verdict is Verdict.ERROR
    assert "exit code 3" in first.reasons[0]
    assert second.verdict is Verdict.PASS


def test_what_a_driver_cannot_do_is_unsupported_and_no_failure(tmp_path: Path) -> None:
    with crew_of(CANNOT) as crew:
        said = verdict_of(tmp_path, {"steps": [HYDRATE, CLAIM]}, crew)
        crew.hello = crew.hello._replace(capabilities=frozenset({"memory"}))
        known_before = verdict_of(tmp_path, {"store": "files", "steps": [HYDRATE]}, crew)
    assert (said.verdict, said.reasons, said.surprise) == (Verdict.UNSUPPORTED, ("no claims here",), None)
    assert (known_before.verdict, known_before.surprise) == (Verdict.UNSUPPORTED, None)


def test_a_restart_finds_what_is_stored_at_that_moment(tmp_path: Path, ours: Crew) -> None:
    gated = [
        HYDRATE,
        {"op": "gates", "on": True},
        {"op": "start", "task": "add", "call": ENQUEUE, "expect": {"unfinished": ["add"]}},
        {"op": "restart"},
        {**HYDRATE, "expect": {"entries": [{"id": "a"}]}},
    ]
    assert verdict_of(tmp_path, {"steps": gated, "end": {"texts": {KEY: STORED}}}, ours).verdict is Verdict.PASS


def test_a_killed_process_is_replaced_and_a_second_one_meets_the_first(tmp_path: Path, ours: Crew) -> None:
    pid = ours.driver().pid
    steps = [
        HYDRATE,
        ENQUEUE,
        {**HYDRATE, "process": 2, "expect": {"error": "locked"}},
        {"op": "kill"},
        {**HYDRATE, "process": 2, "expect": {"entries": [{"id": "a"}, {"id": "b"}]}},
    ]
    result = verdict_of(tmp_path, {"store": "files", "steps": steps}, ours)
    assert (result.verdict, result.reasons) == (Verdict.PASS, ())
    assert ours.driver().pid != pid


def test_bytes_go_to_the_file_of_the_key(tmp_path: Path, ours: Crew) -> None:
    case = {
        "store": "files",
        "start": {},
        "keeps": {},
        "steps": [{"op": "bytes", "key": KEY, "hex": STORED.encode().hex()}, HYDRATE],
    }
    result = verdict_of(tmp_path, {**case, "end": {"entries": [{"item": "word-a"}]}}, ours)
    assert (result.verdict, result.reasons) == (Verdict.PASS, ())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_words_are_found_in_the_bytes_of_a_file(encoding: str, tmp_path: Path, ours: Crew) -> None:
    hexed = STORED.replace("word-a", "word-a \u00fc").encode(encoding).hex()
    case = {
        "store": "files",
        "start": {},
        "steps": [{"op": "bytes", "key": KEY, "hex": hexed}],
        "end": {"bytes": {KEY: hexed}},
    }
    result = verdict_of(tmp_path, case, ours)
    assert (result.verdict, result.reasons) == (Verdict.PASS, ())


def test_a_send_that_was_given_no_json_fails_and_the_runner_goes_on(tmp_path: Path) -> None:
    with crew_of(SENDS_NO_JSON) as crew:
        result = verdict_of(
            tmp_path, {"keeps": {}, "steps": [HYDRATE, {"op": "drain", "expect": {"sends": ["a"]}}]}, crew
        )
    assert result.verdict is Verdict.FAIL
    assert "no JSON that every program reads" in result.reasons[0]


MALFORMED: dict[str, tuple[Mapping[str, Any], str]] = {
    "an id of another shape": ({"id": "R1", "steps": [HYDRATE]}, "$.cases[0].id"),
    "no steps": ({"steps": []}, "$.cases[0].steps"),
    "a member that none has": ({"steps": [HYDRATE], "ends": {}}, "'ends' was unexpected"),
    "no such operation": ({"steps": [{"op": "push"}]}, "step 0: there is no operation 'push'"),
    "an argument that none has": ({"steps": [HYDRATE, {**CLAIM, "by": 1}]}, "step 1: $: Additional properties"),
    "an argument of a runner's step": ({"steps": [{"op": "passAll", "gate_at": "send"}]}, "passAll has no argument"),
    "what is the runner's": ({"steps": [{"op": "open", "store": "memory"}]}, "step 0: open is the runner's"),
    "a label that is nowhere": ({"steps": [HYDRATE], "acknowledged": {"x": {KEY: ["w"]}}}, "no step or task 'x'"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_case_is_refused_with_its_place(name: str, tmp_path: Path) -> None:
    case, place = MALFORMED[name]
    with pytest.raises(CaseError, match=re.escape(place)) as caught:
        loaded(tmp_path, case)
    assert str(caught.value).startswith("cases.json: ")


def test_two_cases_with_one_id_and_a_folder_without_cases_are_refused(tmp_path: Path) -> None:
    twice = {"id": "r01-same", "steps": [HYDRATE]}
    with pytest.raises(CaseError, match="r01-same is also in"):
        loaded(tmp_path, twice, twice)
    (tmp_path / "cases.json").unlink()
    with pytest.raises(CaseError, match="there are no cases"):
        CaseFiles(tmp_path).load()
    with pytest.raises(CaseError, match="is no folder"):
        CaseFiles(tmp_path / "nowhere")


def test_lists_go_by_the_name_in_the_hello_and_one_that_is_listed_may_not_pass(tmp_path: Path, ours: Crew) -> None:
    failing = {"steps": [HYDRATE, {**CLAIM, "expect": {"value": False}}]}
    cases = loaded(
        tmp_path,
        failing,
        {"steps": [HYDRATE]},
        {**failing, "known": {"changed": {"verdict": "fail", "what": "It is."}}},
    )
    known = tmp_path / "changed.json"
    known.write_text(
        '{"driver":"changed","known":{"r01-case-0":{"verdict":"fail","what":"w"},"r01-case-1":{"what":"w"}}}'
    )
    results = list(run([ours], Plan(cases, listed=read_known([known]))))
    assert [result.known for result in results] == [
        Known(Verdict.FAIL, "w"),
        Known(None, "w"),
        Known(Verdict.FAIL, "It is."),
    ]
    assert [result.surprise for result in results] == [
        None,
        "listed as a known failure, and passes: take it off the list",
        None,
    ]
    known.write_text(known.read_text("utf-8").replace("changed", "another"), "utf-8")
    unlisted = list(run([ours], Plan(cases[:1], listed=read_known([known]))))
    assert unlisted[0].surprise == "fail, and not listed as known"


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"driver":"x"}', '{"driver":"x","known":{"a":{"verdict":"bad","what":"w"}}}']
)
def test_a_list_of_known_failures_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    path.write_text(text)
    with pytest.raises(CaseError, match=re.escape(str(path))):
        read_known([path])
