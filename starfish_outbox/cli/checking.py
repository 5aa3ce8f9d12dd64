"""``check``: whether everybody who shares a cache file reads the same in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from starfish_outbox import codec
from starfish_outbox.caches import rows
from starfish_outbox.caches.base import SET_ASIDE
from starfish_outbox.caches.peek_sqlite import DatabasePeek
from starfish_outbox.cli import exits
from starfish_outbox.cli.frame import JsonOption, NoColorOption, command
from starfish_outbox.cli.output import Screen
from starfish_outbox.cli.problems import Check, Problem, decoded
from starfish_outbox.cli.rules import PROGRAMS, RULES
from starfish_outbox.cli.stores import RefusedError, quoted, store_at
from starfish_outbox.errors import CorruptQueueError
from starfish_outbox.showing import counted, printable

_STYLES = {"error": "bold red", "warning": "bold yellow"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app, "check")(check)


def check(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A cache file in JSON, or a database of this package.", show_default=False),
    ],
    *,
    errors_only: Annotated[bool, typer.Option("--errors-only", help="Leave warnings out.")] = False,
    most: Annotated[
        int,
        typer.Option(
            "--max", metavar="N", min=0, help="Places to show for each rule at most; 0 for all. --json has all."
        ),
    ] = 10,
    as_json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Find what programs that share a cache file would read differently, lose or repeat.

    The file is checked against both forms of the JSON Schema and against the rules that no schema can see
    (schema/README.md has them by number). For each problem it says where it is, which rule it breaks, and what each
    program makes of it. An error loses, repeats, strands or changes an entry somewhere; a warning only changes the form
    of a value. Takes no lock and changes nothing.
    """
    screen = Screen(as_json=as_json, no_color=no_color)
    store = store_at(file)
    if store.kind == "directory":
        raise RefusedError(f"{store.path} is a directory; check its files one by one")
    if not store.exists:
        raise RefusedError(f"there is no file at {store.path}")
    report = _Report(store.path, database=store.kind == "sqlite")
    with screen.waiting("checking …"):
        problems = [problem for problem in report if not errors_only or problem.level == "error"]
    _tell(screen, report, problems, most)
    return exits.PROBLEMS if problems else exits.DONE


class _Report:
    """Iterate over it for the problems of a file.

    Attributes:
        entries: how many elements or rows there are, once that is done.
    """

    def __init__(self, path: Path, *, database: bool) -> None:
        self.path = path
        self.database = database
        self.entries = 0
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Problem]:
        """Every problem."""
        return self._in_database() if self.database else self._in_text()

    def _in_text(self) -> Iterator[Problem]:
        text, unreadable = decoded(self.path.read_bytes())
        if unreadable is not None:
            yield unreadable
        yield from self._check(Check(text))

    def _check(self, check: Check) -> Iterator[Problem]:
        yield from check
        self.entries += check.elements

    def _in_database(self) -> Iterator[Problem]:
        peek = DatabasePeek(self.path)
        try:
            with peek.reading() as connection:
                for (line,) in connection.execute("PRAGMA integrity_check(100)").fetchall():
                    if line != "ok":
                        yield Problem("db file", f"SQLite says: {printable(str(line))}", "$")
                found: dict[str, list[Any]] = {}
                texts: dict[str, str] = {}
                if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                    statement = f"SELECT {rows.COLUMNS} FROM entries ORDER BY seq"  # noqa: S608  # our own names
                    for row in connection.execute(statement):
                        found.setdefault(row[1], []).append(row)
                    for key, text in connection.execute("SELECT key, CAST(text AS BLOB) FROM keys WHERE text NOT NULL"):
                        texts[key] = bytes(text).decode("utf-8", "surrogateescape")
        except CorruptQueueError as error:
            if "damaged" not in str(error):
                raise
            yield Problem("db file", f"SQLite says: {error.__cause__}", "$")
            return
        finally:
            self.notes = peek.notes
        for key, of_key in found.items():
            yield from self._in_rows(key, of_key)
        for key, text in texts.items():
            if not SET_ASIDE.search(key):
                yield from self._check(Check(text, key=key))

    def _in_rows(self, key: str, of_key: list[Any]) -> Iterator[Problem]:
        """Rows against their checksums, and the array that they make for another program."""
        elements = []
        for row in of_key:
            try:
                elements.append(codec.encode_entry(rows.to_entry(row)))
            except rows.BadRowError as error:
                self.entries += 1
                yield Problem("db row", printable(str(error)), f"entries.seq={row[0]}", key=key)
        yield from self._check(Check(codec.encode_array(elements), key=key, places=False))


def _tell(screen: Screen, report: _Report, problems: list[Problem], most: int) -> None:
    levels = Counter(problem.level for problem in problems)
    where = "row" if report.database else "entry"
    whole = counted(report.entries, where, "rows" if report.database else "entries")
    if problems:
        numbers = f"{counted(levels['error'], 'error', 'errors')}, {counted(levels['warning'], 'warning', 'warnings')}"
        screen.say(f"{report.path}: {numbers} in {whole}", "bold")
    else:
        screen.say(f"{report.path}: no problems in {whole}")
    for note in report.notes:
        screen.note(f"note: {printable(note)}")
    by_rule: dict[str, list[Problem]] = {}
    for problem in sorted(problems, key=lambda problem: problem.level):
        by_rule.setdefault(problem.rule, []).append(problem)
    for found in by_rule.values():
        _tell_rule(screen, found, most)
    screen.emit(
        {
            "file": str(report.path),
            "kind": "sqlite" if report.database else "json",
            "entries": report.entries,
            "errors": levels["error"],
            "warnings": levels["warning"],
            "problems": [_fields(problem) for problem in problems],
            "rules": {rule: _rule_fields(rule) for rule in sorted(by_rule)},
            "notes": report.notes,
        }
    )


def _tell_rule(screen: Screen, found: list[Problem], most: int) -> None:
    first = found[0]
    screen.say()
    screen.say(f"{first.level} {first.number}: {first.facts.about}", _STYLES[first.level])
    for line in _places(found, most):
        screen.say(f"  {line}")
    screen.pairs([(f"    {program}", does) for program, does in first.facts.consequences])


def _places(found: list[Problem], most: int) -> Iterable[str]:
    shown = found[:most] if most else found
    for problem in shown:
        place = "" if problem.line is None else f", line {problem.line}, column {problem.column}"
        key = "" if problem.key is None else f"{quoted(problem.key)} "
        yield f"{key}{printable(problem.path)}{place}: {problem.what}"
    if len(found) > len(shown):
        yield f"… and {len(found) - len(shown):,} more"


def _fields(problem: Problem) -> dict[str, Any]:
    return {
        "level": problem.level,
        "rule": problem.rule,
        "what": problem.what,
        "key": problem.key,
        "path": problem.path,
        "line": problem.line,
        "column": problem.column,
    }


def _rule_fields(rule: str) -> dict[str, Any]:
    facts = RULES[rule]
    return {
        "about": facts.about,
        "programs": dict(zip(PROGRAMS, (facts.here, facts.python, facts.typescript), strict=True)),
    }
