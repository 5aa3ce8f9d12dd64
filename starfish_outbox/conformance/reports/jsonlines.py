r"""A run as lines of JSON that any program reads: one about the run, then one for each result.

ASCII only; no number that a double would change, no NaN, and no lone surrogate: a string that holds one has it spelled
out as the six characters ``\ud83d``, a number that is no double is a string.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from math import isfinite
from typing import Any, Final

from starfish_outbox.conformance.driver import Hello
from starfish_outbox.conformance.reports.report import RecordedCase, Report, title_of
from starfish_outbox.conformance.reports.showing import spell_out_surrogates
from starfish_outbox.conformance.verdicts import Known, Result, Subject, Traced, Verdict
from starfish_outbox.jsontext import MAX_SAFE_INTEGER

FORM: Final = "starfish-outbox conformance 1"


def json_lines(report: Report) -> str:
    """The record of a run; `load` reads it back."""
    return "".join(f"{json.dumps(_plain(line), allow_nan=False)}\n" for line in _lines(report))


def load(text: str) -> Report:
    """A report from its record: enough for every other form of it.

    Raises:
        ValueError: the text is no record of a run.
    """
    try:
        head, *rest = [json.loads(line) for line in text.split("\n") if line]
        if head["form"] != FORM:
            raise ValueError(f"the first line says form {head['form']!r}, not {FORM!r}")
        return Report(
            hellos=tuple(
                Hello(one["name"], one["version"], one["language"], frozenset(one["capabilities"]))
                for one in head["drivers"]
            ),
            results=tuple(_result(one) for one in rest),
            started=datetime.fromisoformat(head["started"]),
            seconds=head["seconds"],
            seed=head["seed"],
            version=head["version"],
            notes=tuple(head["notes"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no record of a conformance run: {type(error).__name__}: {error}") from error


def _lines(report: Report) -> Iterator[dict[str, Any]]:
    yield {
        "form": FORM,
        "version": report.version,
        "started": report.started.isoformat(),
        "seconds": report.seconds,
        "seed": report.seed,
        "ok": report.ok,
        "drivers": [{**hello._asdict(), "capabilities": sorted(hello.capabilities)} for hello in report.hellos],
        "notes": report.notes,
    }
    for result in report.results:
        subject, known = result.subject, result.known
        yield {
            "id": subject.id,
            "drivers": result.drivers,
            "verdict": result.verdict.value,
            "surprise": result.surprise,
            "known": None if known is None else {"verdict": known.verdict and known.verdict.value, "what": known.what},
            "reasons": result.reasons,
            "title": title_of(subject),
            "description": subject.description,
            "rows": subject.rows,
            "profile": subject.profile,
            "cost": subject.cost,
            "trace": [{"request": one.request, "answer": one.answer, "wrong": one.wrong} for one in result.trace],
            "before": result.before,
            "after": result.after,
            "figures": result.figures,
            "seconds": result.seconds,
        }


def _result(raw: dict[str, Any]) -> Result:
    about = (raw["id"], raw["description"], tuple(raw["rows"]), raw["profile"], raw["cost"])
    known = raw["known"]
    return Result(
        subject=Subject(*about) if raw["title"] is None else RecordedCase(*about, raw["title"]),
        drivers=tuple(raw["drivers"]),
        verdict=Verdict(raw["verdict"]),
        reasons=tuple(raw["reasons"]),
        trace=tuple(Traced(one["request"], one["answer"], tuple(one["wrong"])) for one in raw["trace"]),
        before=raw["before"],
        after=raw["after"],
        known=known and Known(known["verdict"] and Verdict(known["verdict"]), known["what"]),
        seconds=raw["seconds"],
        figures=raw["figures"],
    )


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return spell_out_surrogates(value)
    if isinstance(value, dict):
        return {spell_out_surrogates(str(name)): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
        return str(value)
    return value
