"""A run as one page: what every program does with every case, and what it costs. It needs no network, and no script.

The template escapes every value. Styles and script stand in the page, and nothing else may be loaded or run: its
Content-Security-Policy names them by their hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from markupsafe import Markup

from starfish_outbox.conformance.reports.report import Report, counts, title_of
from starfish_outbox.conformance.reports.showing import spell_out_unseen
from starfish_outbox.conformance.reports.texts import reasons, step, stored, visible
from starfish_outbox.conformance.verdicts import MEANINGS, PROFILES, Profile, Result, Subject, Verdict

if TYPE_CHECKING:
    from jinja2 import Template

SYMBOLS: Final[dict[Verdict, str]] = {
    Verdict.PASS: "✓",
    Verdict.ACCEPTABLE: "≈",
    Verdict.UNSUPPORTED: "–",
    Verdict.FAIL: "✗",
    Verdict.DATA_LOSS: "∅",
    Verdict.ERROR: "!",
}
_ROW_ORDER: Final = "RPTCD"
_BAR: Final = 1000  # units of a bar's width


@dataclass(frozen=True)
class _Row:
    """A subject, and what each driver (or pair) came to, in the order of the columns; None: it was not run."""

    subject: Subject
    results: list[Result | None]

    @property
    def verdicts(self) -> list[str]:
        """Of each column, as the filters name them."""
        return [result.verdict.name.lower() if result else "none" for result in self.results]

    @property
    def differs(self) -> bool:
        """Whether the drivers that can be asked come to different verdicts."""
        return len({one.verdict for one in self.results if one and one.verdict is not Verdict.UNSUPPORTED}) > 1


@dataclass(frozen=True)
class _Group:
    """Cases about one thing, and the hazards that they stand for."""

    title: str
    rows: list[_Row]

    @property
    def hazards(self) -> list[str]:
        return sorted({hazard for row in self.rows for hazard in row.subject.rows}, key=_hazard_order)


def html_page(report: Report) -> str:
    """The whole page, in UTF-8; what it shows of very long texts is cut, and the JSON lines have all."""
    style, script = _file("page.css"), _file("page.js")
    return _template().render(
        report=report,
        style=Markup(style),  # noqa: S704  # ours, and no value is put into it
        script=Markup(script),  # noqa: S704  # the same
        style_hash=_hash(style),
        script_hash=_hash(script),
        Verdict=Verdict,
        meanings=MEANINGS,
        symbols=SYMBOLS,
        profiles=PROFILES,
        name_of=lambda verdict: verdict.name.lower().replace("_", "-"),
        anchor=anchor,
        stored=stored,
        bar=_bar,
        matrix=_matrix(report),
        pairs=_pairs(report),
        schedules=_by_subject(report.schedules, [(hello.name,) for hello in report.hellos]),
        share=_share,
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("starfish_outbox.conformance.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "spelled_out": spell_out_unseen, "reasons": reasons, "step": step}
    return environment.get_template("page.html")


def anchor(result: Result) -> str:
    """What stands behind the ``#`` of a link to a result: ``r03-attempts-null/published-python``."""
    return f"{quote(result.subject.id)}/{'+'.join(quote(name, safe='') for name in result.drivers)}"


def _matrix(report: Report) -> Iterator[tuple[Profile, list[_Group]]]:
    columns = [(hello.name,) for hello in report.hellos]
    for profile in PROFILES:
        rows = _by_subject([one for one in report.cases if one.subject.profile == profile], columns)
        rows.sort(key=lambda row: ([_hazard_order(hazard) for hazard in row.subject.rows[:1]], row.subject.id))
        groups: dict[str, _Group] = {}
        for row in rows:
            title = title_of(row.subject) or ""
            groups.setdefault(title, _Group(title, [])).rows.append(row)
        if groups:
            yield profile, list(groups.values())


def _by_subject(results: Iterable[Result], columns: Sequence[tuple[str, ...]]) -> list[_Row]:
    by_id: dict[str, dict[tuple[str, ...], Result]] = {}
    for result in results:
        by_id.setdefault(result.subject.id, {})[result.drivers] = result
    return [_Row(next(iter(found.values())).subject, [found.get(one) for one in columns]) for found in by_id.values()]


def _pairs(report: Report) -> Iterator[dict[str, Any]]:
    """For each kind of run with two drivers a table of drivers by drivers, and all its results."""
    names = [hello.name for hello in report.hellos]
    by_id: dict[str, list[Result]] = {}
    for result in report.pairs:
        by_id.setdefault(result.subject.id, []).append(result)
    for results in by_id.values():
        found = {frozenset(result.drivers): result for result in results}
        cells = [[found.get(frozenset((one, other))) for other in names] for one in names]
        yield {"subject": results[0].subject, "names": names, "cells": cells, "results": results}


def _bar(results: Sequence[Result]) -> Iterator[tuple[Verdict, float, float]]:
    """The verdicts as parts of a bar: which, from where, how wide, in thousandths."""
    numbers, at = counts(results), 0.0
    for verdict in Verdict:
        wide = _BAR * numbers[verdict] / max(1, len(results))
        if wide:
            yield verdict, at, wide
        at += wide


def _share(result: Result) -> str:
    """In how many of the random runs something went wrong: ``1.2 %``; nothing where that was not counted."""
    runs = result.figures.get("runs", 0)
    percent = 100 * result.figures.get("broken", 0) / runs if runs else 0.0
    if not percent:
        return "0 %" if runs else ""
    return f"{percent:.2g} %" if percent < 1 else f"{percent:.1f} %"


def _hazard_order(hazard: str) -> tuple[int, int]:
    return _ROW_ORDER.find(hazard[:1]), int(hazard[1:]) if hazard[1:].isdigit() else 0


def _file(name: str) -> str:
    return (resources.files("starfish_outbox.conformance.reports") / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
