"""Reports for tests: a small one made by hand, with what is hostile or odd in every place that takes a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starfish_outbox.conformance.driver import Hello
from starfish_outbox.conformance.reports import Report
from starfish_outbox.conformance.reports.report import RecordedCase
from starfish_outbox.conformance.verdicts import Known, Result, Subject, Traced, Verdict

KEY = "outbox.ana"
SCRIPT = "<script>document.title='taken'</script>"
IMAGE = "<img src=x onerror=\"document.title='taken'\">"
HOSTILE = f"]]>{SCRIPT}{IMAGE}'\"&amp;{{{{7*7}}}}\u202e\u2028\x00\x1b[31m\ufeff"
"""What a terminal, a page, XML or a template could obey, and what nobody would see."""

ALONE = "\ud83d"
"""A lone surrogate: no encoding of Unicode holds it."""


def hello(name: str = "python", **changes: Any) -> Hello:
    return Hello(name, "1.0", "python", frozenset({"memory", "gates"}))._replace(**changes)


def case(id: str = "r03-attempts-null", **changes: Any) -> RecordedCase:
    made = RecordedCase(id, "What must happen.", ("R3",), "format", "What it costs.", "What it is about")
    return replace(made, **changes)


def result(subject: Subject, verdict: Verdict, *drivers: str, **parts: Any) -> Result:
    return Result(subject, drivers or ("python",), verdict, **parts)


def report(results: Sequence[Result], *hellos: Hello, **parts: Any) -> Report:
    started = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
    made = Report(hellos or (hello(),), tuple(results), started, seconds=12.5, seed=7, version="3.1.0")
    return replace(made, **parts)


def hostile() -> Report:
    """A hostile text wherever a driver, a case or a stored text could bring one."""
    subject = case(description=HOSTILE, cost=HOSTILE, title=HOSTILE)
    everywhere = result(
        subject,
        Verdict.DATA_LOSS,
        HOSTILE,
        reasons=(HOSTILE, f"two\nlines {HOSTILE}"),
        trace=(
            Traced({"op": "enqueue", "id": HOSTILE, "item": HOSTILE, "label": HOSTILE}, {"value": HOSTILE}, (HOSTILE,)),
            Traced({"op": "drain"}, {"value": {"sent": 1, "failed": 0, "sends": [HOSTILE]}, "notified": 2}),
            Traced({"op": "get"}, {"error": {"kind": "other", "name": HOSTILE, "message": HOSTILE}}),
        ),
        before={HOSTILE: f'[{{"id":"a","item":"{SCRIPT}"}},{{"id":"b"}}]'},
        after={HOSTILE: HOSTILE, f"{HOSTILE}.corrupt.1": None},
        known=Known(None, HOSTILE),
    )
    pair = result(Subject("relay", HOSTILE, (), "format", HOSTILE), Verdict.FAIL, HOSTILE, "other", reasons=(HOSTILE,))
    dice = result(Subject(HOSTILE, HOSTILE, (), "safe", HOSTILE), Verdict.ERROR, HOSTILE, reasons=(HOSTILE,))
    hellos = (hello(HOSTILE, version=HOSTILE, language=HOSTILE), hello("other"))
    return report([everywhere, pair, dice], *hellos, notes=(HOSTILE,))


def one_of_each() -> Report:
    """Every verdict, known and not, of two drivers, with a pair and random runs."""
    listed = Known(Verdict.FAIL, "It forgets it.")
    cases = [
        result(case("r01-a"), Verdict.PASS),
        result(case("r02-b"), Verdict.ACCEPTABLE, reasons=("It refuses, which is as good.",)),
        result(case("r03-c"), Verdict.UNSUPPORTED, reasons=("It has no files.",)),
        result(case("r04-d"), Verdict.FAIL, known=listed, reasons=("a is gone",)),
        result(case("r05-e"), Verdict.DATA_LOSS, reasons=("lost: word-a",)),
        result(case("r06-f", profile="safe"), Verdict.ERROR, reasons=("It died.\nits last words:\noops",)),
        result(case("r07-g"), Verdict.PASS, known=listed),
        result(case("r08-h"), Verdict.UNSUPPORTED, known=listed),
        result(case("r01-a"), Verdict.FAIL, "other", known=listed),
    ]
    relay = Subject("relay", "It stays the same.", (), "format", "It is misread.")
    dice = Subject("schedules-switch", "Nothing is lost.", (), "safe", "It is lost.")
    figures = {"runs": 1000, "broken": 4, "lost": 3, "doubled": 1}
    random = [
        result(dice, Verdict.DATA_LOSS, figures=figures, known=listed),
        result(relay, Verdict.PASS, "python", "other", figures={"runs": 50, "broken": 0}),
    ]
    return report([*cases, *random], hello(), hello("other"))
