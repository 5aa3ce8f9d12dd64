"""What the command line writes: tables and lines for people, one JSON document for programs.

Answers go to standard output, everything about them (progress, notes, errors) to standard error. No text of a queue
reaches a terminal unescaped: an id can hold anything that a terminal would obey.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from starfish_outbox.jsontext import encode_foreign
from starfish_outbox.showing import UNSEEN, spelled_out

_NARROWEST: Final = 12


class Screen:
    """Where one command writes.

    Attributes:
        as_json: one JSON document on standard output instead of words.
        out: for answers.
        err: for progress.
    """

    def __init__(self, *, as_json: bool, no_color: bool) -> None:
        self.as_json = as_json
        plain = no_color or bool(os.environ.get("NO_COLOR"))
        self.out = _console(sys.stdout, plain)
        self.err = _console(sys.stderr, plain)

    @property
    def is_terminal(self) -> bool:
        """Whether somebody looks at standard output."""
        return self.out.is_terminal

    def say(self, text: str = "", style: str = "") -> None:
        """A line of the answer, for people."""
        if not self.as_json:
            _line(self.out, sys.stdout, Text(text, style))

    def note(self, text: str, style: str = "") -> None:
        """A line about the answer, on standard error."""
        _line(self.err, sys.stderr, Text(text, style))

    def listing(self, names: Sequence[str], rows: Sequence[Sequence[Text]], numbers: Collection[str]) -> None:
        """Rows under the names of their columns, those of numbers to the right.

        On a terminal an id is folded where it would take more than a third of a line, and the last column is cut to
        what is left of it; what is piped on is neither.
        """
        if self.as_json:
            return
        widths = [max([len(name), *(row[place].cell_len for row in rows)]) for place, name in enumerate(names[:-1])]
        if not self.is_terminal:
            head = [Text(name) for name in names]
            write(_plain([head, *rows], widths, [name in numbers for name in names]), _encoding(sys.stdout))
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        widest = self.out.width // 3
        rest = self.out.width - min(widths[0], widest) - sum(widths[1:]) - 2 * (len(names) - 1)
        for name in names:
            table.add_column(
                name,
                justify="right" if name in numbers else "left",
                overflow="fold" if name == names[0] else "ellipsis",
                no_wrap=name != names[0],
                max_width={names[0]: widest, names[-1]: max(rest, _NARROWEST)}.get(name),
            )
        for row in rows:
            table.add_row(*row[:-1], row[-1][: self.out.width])
        self.out.print(table)

    def pairs(self, rows: Sequence[tuple[str, Text | str]]) -> None:
        """Names and values, one pair a line."""
        if self.as_json:
            return
        lines = [(Text(name, "bold"), value if isinstance(value, Text) else Text(value)) for name, value in rows]
        if not self.is_terminal:
            widths = [max(len(name) for name, _ in rows)]
            write(_plain(lines, widths, [False, False]), _encoding(sys.stdout))
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for line in lines:
            table.add_row(*line)
        self.out.print(table)

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """A sign of life on standard error, where somebody looks, for as long as it is entered."""
        return self.err.status(text) if self.err.is_terminal else nullcontext()

    def emit(self, document: dict[str, Any]) -> None:
        """The answer for programs; nothing where words were asked for."""
        if self.as_json:
            write(f"{_escaped(encode_foreign(document))}\n")


def write(text: str, encoding: str = "utf-8", stream: TextIO | None = None) -> None:
    """Raw text, whole, to standard output or another stream; in UTF-8 whatever the terminal's encoding is."""
    stream = stream or sys.stdout
    stream.flush()
    buffer = getattr(stream, "buffer", None)
    if buffer is None:  # somebody put a text stream in its place
        stream.write(text)
        return
    errors = "surrogatepass" if encoding == "utf-8" else "backslashreplace"
    rest = memoryview(text.encode(encoding, errors))
    while rest:  # with PYTHONUNBUFFERED there is no buffer that would see to it that all is written
        rest = rest[buffer.write(rest) :]
    buffer.flush()


def pretty(value: Any) -> str:
    """A decoded value as JSON over several lines, escaped like everything else."""
    import json

    try:
        text = json.dumps(value, ensure_ascii=False, indent=2)
    except RecursionError:
        text = encode_foreign(value)
    return "\n".join(_escaped(line) for line in text.split("\n"))


def moment(at_ms: float) -> str:
    """An instant in local time, to the second; ``?`` where it makes no sense."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return "?"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process with 1 here, which means problems."""
        raise BrokenPipeError


def _console(stream: TextIO, plain: bool) -> Console:
    return _Console(file=stream, color_system=None if plain else "auto", markup=False, emoji=False, highlight=False)


def _line(console: Console, stream: TextIO, text: Text) -> None:
    """A line; whole, where nobody looks: Rich would break it."""
    if console.is_terminal:
        console.print(text)
    else:
        write(f"{text.plain}\n", _encoding(stream), stream)


def _plain(rows: Sequence[Sequence[Text]], widths: Sequence[int], right: Sequence[bool]) -> str:
    """Columns without a style, two spaces between them; ``widths`` are those of all but the last."""
    lines = []
    for row in rows:
        cells = []
        for cell, width, to_right in zip(row[:-1], widths, right[:-1], strict=True):
            space = " " * (width - cell.cell_len)
            cells.append(f"{space}{cell.plain}" if to_right else f"{cell.plain}{space}")
        lines.append("  ".join([*cells, row[-1].plain]).rstrip(" ") + "\n")
    return "".join(lines)


def _encoding(stream: TextIO) -> str:
    return (stream.encoding or "utf-8").lower()


def _escaped(json_text: str) -> str:
    """JSON text in which strings hold nothing unprintable; it still means the same."""
    return UNSEEN.sub(lambda found: found[0] if found[0].isprintable() else spelled_out(found[0]), json_text)
