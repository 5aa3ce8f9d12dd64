"""Reports of a conformance run for programs and terminals: nothing is lost in them, and nothing in them is obeyed."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings, strategies as st
from rich.console import Console

from starfish_outbox.conformance.reports import html_page, json_lines, junit_xml, load
from starfish_outbox.conformance.reports.terminal import Progress, summary
from starfish_outbox.conformance.reports.texts import SHOWN, WHOLE, cut, stored
from starfish_outbox.conformance.verdicts import Known, Result, Traced, Verdict
from tests.conformance_reports import ALONE, HOSTILE, KEY, case, hello, hostile, one_of_each, report, result

AGAIN = "starfish-outbox conformance --driver 'node my.mjs'"


def printed(made: object, *, width: int = 100, terminal: bool = False, encoding: str = "utf-8") -> str:
    """What `summary` prints of a report, or what comes of a call with a console."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None, legacy_windows=False)
    if callable(made):
        made(console)
    else:
        summary(made, console, AGAIN)  # type: ignore[arg-type]  # a report
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("verdict", "listed", "ok"),
    [
        (Verdict.PASS, False, True),
        (Verdict.ACCEPTABLE, False, True),
        (Verdict.UNSUPPORTED, False, True),
        (Verdict.FAIL, False, False),
        (Verdict.DATA_LOSS, False, False),
        (Verdict.ERROR, False, False),
        (Verdict.PASS, True, False),
        (Verdict.ACCEPTABLE, True, False),
        (Verdict.UNSUPPORTED, True, True),
        (Verdict.FAIL, True, True),
        (Verdict.DATA_LOSS, True, True),
        (Verdict.ERROR, True, True),
    ],
)
def test_a_run_succeeds_unless_something_unlisted_fails_or_something_listed_passes(
    verdict: Verdict, listed: bool, ok: bool
) -> None:
    one = result(case(), verdict, known=Known(Verdict.FAIL, "It forgets it.") if listed else None)
    made = report([one])
    assert made.ok is ok
    assert made.surprises == ([] if ok else [one])
    red = ET.fromstring(junit_xml(made)).findall(".//failure") + ET.fromstring(junit_xml(made)).findall(".//error")
    assert (len(red) == 0) is ok
    assert json.loads(json_lines(made).split("\n")[0])["ok"] is ok
    assert ("The run succeeds." in html_page(made)) is ok


def test_cases_pairs_and_random_runs_are_told_apart_and_only_cases_are_counted() -> None:
    made = one_of_each()
    assert [one.subject.id for one in made.pairs] == ["relay"]
    assert [one.subject.id for one in made.schedules] == ["schedules-switch"]
    assert len(made.cases) == 9
    assert made.counts("python") == {
        "pass": 2,
        "acceptable": 1,
        "unsupported": 2,
        "fail": 1,
        "data loss": 1,
        "error": 1,
    }
    assert made.counts("python", "safe") == {**dict.fromkeys(made.counts("python"), 0), "error": 1}
    assert sum(made.counts("other").values()) == 1


def test_a_record_is_read_back_whole() -> None:
    for made in (one_of_each(), hostile()):
        text = json_lines(made)
        back = load(text)
        assert json_lines(back) == text
        assert (back.hellos, back.started, back.notes) == (made.hellos, made.started, made.notes)
        assert [replace(one, subject=case()) for one in back.results] == [
            replace(one, subject=case()) for one in made.results
        ]
        assert html_page(back) == html_page(made)
        assert back.surprises == made.surprises


def test_a_record_is_ascii_and_each_line_is_json_that_every_program_reads() -> None:
    odd = {"op": "clock", "ms": 2**53 + 1, "nan": float("nan"), "text": ALONE, ALONE: 1.5}
    one = result(case(), Verdict.PASS, trace=(Traced(odd, {"value": float("-inf")}),), after={KEY: f"a\u2028{ALONE}"})

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    text = json_lines(report([one]))
    assert text.isascii()
    assert text.endswith("\n")
    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    step = lines[1]["trace"][0]
    assert step["request"] == {"op": "clock", "ms": str(2**53 + 1), "nan": "nan", "text": "\\ud83d", "\\ud83d": 1.5}
    assert step["answer"] == {"value": "-inf"}
    assert lines[1]["after"] == {KEY: "a\u2028\\ud83d"}
    load(text)


@pytest.mark.parametrize("text", ["", "[]\n", "{}\n", '{"form":"another"}\n', "no json", '{"form":7}\n'])
def test_what_is_no_record_is_refused_as_such(text: str) -> None:
    with pytest.raises(ValueError, match=r"record|form|Expecting|unpack"):
        load(text)


def test_junit_has_a_suite_for_each_driver_and_pair_and_its_sums_are_right() -> None:
    root = ET.fromstring(junit_xml(one_of_each()))
    assert root.tag == "testsuites"
    assert [suite.get("name") for suite in root] == ["python", "other", "python + other"]
    for number, suite in enumerate(root):
        # The order of the children and these attributes are what the strictest of the known schemas asks for.
        tags = [child.tag for child in suite]
        assert tags[0] == "properties"
        assert tags[-2:] == ["system-out", "system-err"]
        assert set(tags[1:-2]) == {"testcase"}
        assert suite.get("id") == str(number)
        assert (suite.get("hostname"), suite.get("package")) == ("localhost", "conformance")
        assert suite.get("timestamp") == "2026-05-04T03:02:01"
        assert suite.get("tests") == str(len(suite.findall("testcase")))
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert suite.get(name) == str(len(suite.findall(f"testcase/{tag}")))
        for one in suite.findall("testcase"):
            assert set(one.keys()) == {"name", "classname", "time"}
            assert len(one) <= 1
    outcome = {one.get("name"): [child.tag for child in one] for one in root[0].findall("testcase")}
    assert outcome == {
        "r01-a": [],
        "r02-b": [],
        "r03-c": ["skipped"],
        "r04-d": ["skipped"],
        "r05-e": ["failure"],
        "r06-f": ["error"],
        "r07-g": ["failure"],
        "r08-h": ["skipped"],
        "schedules-switch": ["skipped"],
    }
    known = root.find(".//testcase[@name='r04-d']/skipped")
    assert known is not None
    assert known.get("message") == "fail; known: It forgets it."
    passed = root.find(".//testcase[@name='r07-g']/failure")
    assert passed is not None
    assert passed.get("type") == "listed, and passes"


def test_junit_holds_texts_that_xml_cannot() -> None:
    made = replace(hostile(), notes=(f"{HOSTILE}{ALONE}\ufffe",))
    unlisted = replace(made, results=tuple(replace(one, known=None) for one in made.results))
    text = junit_xml(unlisted)
    root = ET.fromstring(text.encode())
    failure = root.find(".//failure")
    assert failure is not None
    assert "\\u0000\\u001b[31m" in (failure.text or "")
    assert "<script>" in (failure.text or "")
    assert "<script" not in text
    assert "\\ud83d\\ufffe" in (root[0].findtext("system-out") or "")


@settings(deadline=None)  # the first page compiles the template
@given(st.text(max_size=40), st.text(max_size=40))
def test_every_text_can_be_reported_in_every_form(one: str, other: str) -> None:
    made = report([result(case(id=one or "x", description=other), Verdict.FAIL, other or "x", reasons=(one, other))])
    ET.fromstring(junit_xml(made).encode())
    load(json_lines(made))
    html_page(made).encode()
    assert "\x1b" not in printed(made)


def test_the_summary_is_a_table_where_there_is_room_and_a_list_where_there_is_none() -> None:
    wide = printed(one_of_each(), terminal=True).split("\n")
    assert wide[0].split() == ["pass", "acceptable", "unsupported", "fail", "data", "loss", "error"]
    assert wide[1].split() == ["python", "1.0", "2", "1", "2", "1", "1", "1"]
    assert wide[3].split() == ["safe", "-", "-", "-", "-", "-", "1"]
    narrow = printed(one_of_each(), width=40, terminal=True).split("\n")
    assert max(map(len, narrow[:6])) <= 40
    assert "python 1.0" in narrow
    assert "  format: 2 pass, 1 acceptable, 2" in [line.rstrip() for line in narrow]
    assert "  safe: 1 error" in narrow


def test_the_summary_tells_of_each_surprise_why_what_it_costs_and_how_to_repeat_it() -> None:
    text = printed(one_of_each())
    assert "python  r05-e  data loss, and not listed as known" in text
    assert "  - lost: word-a\n" in text
    assert "  - It died.\n    its last words:\n    oops\n" in text
    assert "What it costs: What it costs." in text
    assert f"  again: {AGAIN} --case r05-e\n" in text
    assert "python  r07-g  listed as a known failure, and passes: take it off the list" in text
    assert "r04-d" not in text
    assert text.endswith("3 results keep this run from succeeding.\n")
    assert "schedules-switch: data loss (1000 runs, broken 4, lost 3, doubled 1)" in text


def test_the_summary_of_a_run_that_succeeds_says_so() -> None:
    text = printed(report([result(case(), Verdict.PASS)]))
    assert text.endswith("Nothing fails that is not listed as known, and nothing that is listed passes.\n")
    assert "again:" not in text


def test_nothing_in_a_report_reaches_a_terminal_as_a_command() -> None:
    for encoding in ("utf-8", "ascii"):
        text = printed(replace(hostile(), notes=(HOSTILE, ALONE)), encoding=encoding)
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert "\\u001b[31m" in text
    bracketed = printed(report([result(case(), Verdict.FAIL, reasons=("entries is [red] not [/red]",))]))
    assert "entries is [red] not [/red]" in bracketed


def run_all(made: list[Result]) -> object:
    def use(console: Console) -> None:
        with Progress(len(made), console) as progress:
            for one in made:
                progress.start(one.subject, one.drivers)
                progress.add(one)

    return use


def test_progress_in_a_log_is_a_line_for_each_part() -> None:
    lines = printed(run_all(list(one_of_each().results))).splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "8/11  python: cases: 2 pass, 1 acceptable, 2 unsupported, 1 fail, 1 data loss, 1 error",
        "9/11  other: cases: 1 fail",
        "10/11  python: schedules-switch: 1 data loss",
        "11/11  python + other: relay: 1 pass",
    ]


def test_progress_on_a_terminal_shows_how_many_of_how_many_and_obeys_nothing() -> None:
    text = printed(run_all(list(one_of_each().results)), terminal=True)
    assert "/11" in text
    assert "schedules-switch" in text
    odd = printed(run_all([result(case(id="[red]\x1b]0;taken\x07"), Verdict.PASS)]), terminal=True)
    assert "\x1b]0;" not in odd
    assert "[red]" in odd


def test_a_stored_text_is_shown_an_entry_a_line_and_no_character_of_it_is_left_out() -> None:
    before = {KEY: ' [{"id":"a"} , {"id":"b","x":1.0},7]\n'}
    after = {KEY: '[{"id":"b","x":1.0},{"id":"c"}]', f"{KEY}.quarantine": None}
    shown = stored(before, after, "gone")[0]
    assert shown.lines is not None
    assert [line.mark for line in shown.lines] == ["gone", "", "gone"]
    assert [line.text.head for line in shown.lines] == [' [{"id":"a"} , ', '{"id":"b","x":1.0},', "7]<i>↵</i>\n"]
    kept, nothing = stored(after, before, "new")
    assert kept.lines is not None
    assert [line.mark for line in kept.lines] == ["", "new"]
    assert nothing.lines is None


def test_a_damaged_text_is_shown_up_to_its_break_and_then_as_it_is() -> None:
    shown = stored({KEY: '[{"id":"a"},{"id":'}, {KEY: "[]"}, "gone")[0]
    assert shown.lines is not None
    assert "".join(line.text.head for line in shown.lines) == '[{"id":"a"},{"id":'
    assert shown.lines[0].mark == "gone"


def test_what_nobody_would_see_is_named_and_what_is_long_is_cut() -> None:
    assert cut("a\u200b\x00\x00\xa0é<").head == "a<i>U+200B</i><i>U+0000 × 2</i><i>U+00A0</i>é&lt;"
    exact = cut("x" * SHOWN)
    assert (exact.rest, exact.left_out) == ("", 0)
    long = cut("x" * SHOWN + "y" * (WHOLE - SHOWN) + "z" * 5)
    assert (len(long.head), len(long.rest), long.rest_length, long.left_out) == (SHOWN, WHOLE - SHOWN, WHOLE - SHOWN, 5)


def test_a_page_stays_small() -> None:
    texts = {KEY: f"[{','.join(json.dumps({'id': str(n), 'item': 'x' * 50, 'status': 'queued'}) for n in range(3))}]"}
    step = Traced({"op": "enqueue", "id": "a", "item": "1"}, {"value": True, "notified": 1})
    names = ("python", "published-typescript", "published-python")
    results = [
        result(case(f"r{number:02}-case-{number}"), Verdict.FAIL, name, trace=(step,) * 5, before=texts, after=texts)
        for number in range(250)
        for name in names
    ]
    results.append(
        result(case("r99-huge"), Verdict.PASS, before={KEY: "x" * 10_000_000}, after={KEY: "\x00" * 10_000_000})
    )
    page = html_page(report(results, *map(hello, names)))
    assert len(page.encode()) < 3_000_000
