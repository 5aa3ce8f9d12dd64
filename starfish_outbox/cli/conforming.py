"""``conformance``: whether programs in any language keep one and the same outbox."""

from __future__ import annotations

import fnmatch
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from starfish_outbox.cli import exits
from starfish_outbox.cli.frame import JsonOption, NoColorOption, command
from starfish_outbox.cli.output import Screen
from starfish_outbox.cli.stores import RefusedError
from starfish_outbox.conformance.cases import Case, CaseError, CaseFiles
from starfish_outbox.conformance.divergences import load_divergences
from starfish_outbox.conformance.driver import Driver, DriverError
from starfish_outbox.conformance.reports import Report, html_page, json_lines, junit_xml
from starfish_outbox.conformance.reports.terminal import Progress, summary
from starfish_outbox.conformance.runner import Plan, read_known, run
from starfish_outbox.conformance.running import Crew
from starfish_outbox.conformance.verdicts import PROFILES
from starfish_outbox.showing import counted


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "conformance")(conformance)


def conformance(
    *,
    driver: Annotated[
        list[str],
        typer.Option(
            "--driver",
            metavar="CMD",
            help="A program that speaks the driver protocol (interop/README.md), as a shell would be told. Give it "
            "again for more; the first is compared with each of the others.",
            show_default=False,
        ),
    ],
    cases: Annotated[
        Path | None,
        typer.Option(
            "--cases",
            metavar="DIR",
            help="Where the cases lie. By default ./interop/cases, or else the copy that came with this package.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--case", metavar="GLOB", help="Only cases whose id fits, such as 'r03-*'; again for more."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help=f"Only cases of one profile: {', '.join(PROFILES)}.")
    ] = None,
    known: Annotated[
        list[Path] | None,
        typer.Option(
            "--known",
            metavar="FILE",
            help="A list of a driver's known failures; again for more. See interop/README.md.",
        ),
    ] = None,
    divergences: Annotated[
        Path | None,
        typer.Option(
            "--divergences",
            metavar="FILE",
            help="What drivers do otherwise on purpose in random runs. By default divergences.json beside the cases.",
        ),
    ] = None,
    sequences: Annotated[
        int, typer.Option("--sequences", metavar="N", min=0, help="Random sequences, compared after each operation.")
    ] = 200,
    relays: Annotated[
        int, typer.Option("--relays", metavar="N", min=0, help="Random sequences from hand to hand, for each pair.")
    ] = 50,
    schedules: Annotated[
        int,
        typer.Option("--schedules", metavar="N", min=0, help="Random gated schedules of each kind, for each driver."),
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="The first seed of every random run.")] = 0,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="How long one answer may take.")
    ] = 30.0,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the matrix as one page that needs no network.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")] = None,
    jsonl: Annotated[
        Path | None, typer.Option("--jsonl", metavar="FILE", help="Write every result as one line of JSON.")
    ] = None,
    as_json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Find out whether programs in any language keep one and the same outbox.

    Every driver is asked every case; pairs pass one queue from hand to hand through its stored text; random sequences
    are compared after every operation; random schedules let reads, writes and sends end in any order. The exit code is
    0 exactly when no case fails that is not listed as known, and none that is listed passes.
    """
    screen = Screen(as_json=as_json, no_color=no_color)
    for target in (html, junit, jsonl):
        if target is not None and not target.parent.is_dir():  # said now, not after minutes
            raise RefusedError(f"there is no folder {target.parent} for {target.name}")
    chosen_alone = bool(only or profile)
    try:
        files = CaseFiles(cases)
        chosen = _chosen(files.load(), only, profile)
        beside = files.folder.parent
        listed = read_known(known or sorted((beside / "known").glob("*.json")))
        declared = divergences or beside / "divergences.json"
        plan = Plan(chosen, sequences, relays, schedules, seed, (), listed)
        if chosen_alone:
            plan = replace(plan, sequences=0, relays=0, schedules=0)
        elif declared.is_file() or divergences:
            plan = replace(plan, divergences=load_divergences(declared))
        with ExitStack() as stack:
            start = [partial(Driver, shlex.split(one), timeout=timeout, rules=files.rules) for one in driver]
            crews = _started(stack, start, screen)
            report = _run(crews, plan, screen)
    except (CaseError, DriverError) as error:
        raise RefusedError(str(error)) from error
    for path, text in ((html, html_page), (junit, junit_xml), (jsonl, json_lines)):
        if path is not None:
            path.write_text(text(report), "utf-8")
            screen.note(f"written: {path}")
    again = shlex.join(["starfish-outbox", "conformance", *(part for one in driver for part in ("--driver", one))])
    if not as_json:
        summary(report, screen.out, again if cases is None else f"{again} --cases {shlex.quote(str(cases))}")
    screen.emit(_document(report))
    return exits.DONE if report.ok else exits.PROBLEMS


def _chosen(cases: Sequence[Case], only: Sequence[str] | None, profile: str | None) -> list[Case]:
    if profile is not None and profile not in PROFILES:
        raise RefusedError(f"there is no profile {profile!r}: it is {', '.join(PROFILES)}")
    chosen = [
        case
        for case in cases
        if (profile is None or case.profile == profile)
        and (not only or any(fnmatch.fnmatchcase(case.id, pattern) for pattern in only))
    ]
    if not chosen:
        raise RefusedError(f"none of {counted(len(cases), 'case', 'cases')} is asked for")
    return chosen


def _started(stack: ExitStack, starts: Sequence[Callable[[], Driver]], screen: Screen) -> list[Crew]:
    crews: list[Crew] = []
    with screen.waiting("starting the drivers …"):
        for start in starts:
            crew = stack.enter_context(Crew(start))
            if crew.name in [other.name for other in crews]:
                raise RefusedError(f"two drivers call themselves {crew.name}: results go by the name in the hello")
            crews.append(crew)
    return crews


def _run(crews: Sequence[Crew], plan: Plan, screen: Screen) -> Report:
    started, began = datetime.now(UTC), time.monotonic()
    results = []
    with Progress(plan.total(len(crews)), screen.err) as progress:
        for result in run(crews, plan, on_start=progress.start):
            progress.add(result)
            results.append(result)
    return Report(
        hellos=tuple(crew.hello for crew in crews),
        results=tuple(results),
        started=started,
        seconds=time.monotonic() - began,
        seed=plan.seed,
        version=version("starfish-outbox"),
    )


def _document(report: Report) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "drivers": [
            {
                "name": hello.name,
                "version": hello.version,
                "language": hello.language,
                "verdicts": report.counts(hello.name),
            }
            for hello in report.hellos
        ],
        "surprises": [
            {
                "id": result.subject.id,
                "drivers": list(result.drivers),
                "verdict": result.verdict.value,
                "why": result.surprise,
                "reasons": list(result.reasons),
            }
            for result in report.surprises
        ],
    }
