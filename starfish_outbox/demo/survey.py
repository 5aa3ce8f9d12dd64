"""A CSV file as observations, and the comparison of what a server stored with that file, cell by cell.

How a cell becomes JSON:

1. An empty cell, and one that is a "not available" mark (``NA`` by default), is ``null``.
2. A cell that spells a number is that number, where the number says no less than the cell: a whole number up to 2^53-1,
   or the shortest or the 17-digit spelling of a double (what Python and R write). ``3750``, ``39.1`` and
   ``8.3945900000000009`` are numbers; ``007``, ``1.50``, ``+5``, ``1e3`` and twenty digits stay text.
3. Anything else is text, space and all.

The file is UTF-8, with or without a byte order mark, separated by commas (RFC 4180). A row with nothing in any cell is
no observation.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

Value: TypeAlias = str | int | float | None

PENGUIN_ID: Final = "studyName,Individual ID"
NOT_AVAILABLE: Final = ("NA",)

_LARGEST_CELL: Final = 1 << 20  # characters; an item of more bytes is refused by the outbox anyway
_MAX_SAFE_INTEGER: Final = 2**53 - 1
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]*[1-9])?")


class SurveyError(Exception):
    """The CSV cannot be used; the text says what is wrong, where, and what would work."""


class Observation(NamedTuple):
    """One row.

    Attributes:
        line: where it ends in the file, from 1; the header is line 1.
        id: what names it: the cells of the id columns, joined by ``/``.
        cells: column -> the cell's text.
    """

    line: int
    id: str
    cells: dict[str, str]


class Repeat(NamedTuple):
    """A row whose id an earlier row has: the outbox refuses it, and it is named in the report.

    Attributes:
        same: whether all its cells are those of the earlier row.
    """

    line: int
    first_line: int
    id: str
    same: bool


@dataclass
class Survey:
    """What is in a CSV file.

    Attributes:
        columns: in the order of the file.
        observations: every row, those whose id repeats included.
        repeats: the rows whose id an earlier row has.
    """

    path: Path
    columns: list[str]
    observations: list[Observation]
    repeats: list[Repeat] = field(default_factory=list)


@dataclass
class Comparison:
    """How the records of a server agree with a CSV.

    Attributes:
        cells: how many were compared.
        differing: cells that the record tells differently, or not at all, and columns that the file has not.
        missing: observations without a record.
        unexpected: records without an observation.
        examples: the first few of each, in words.
    """

    cells: int = 0
    differing: int = 0
    missing: int = 0
    unexpected: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Nothing differs, nothing is missing, nothing is there that should not be."""
        return not (self.differing or self.missing or self.unexpected)


def penguins() -> Path:
    """Where the ``palmerpenguins`` package keeps the raw field data; the package itself is not imported.

    Raises:
        SurveyError: the package is not installed.
    """
    spec = find_spec("palmerpenguins")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place, "data", "penguins-raw.csv")).is_file():
            return path
    raise SurveyError("the penguins are not here: pip install 'starfish-outbox[demo]', or give --csv FILE --id COLUMN")


def read_survey(path: Path, id_columns: str) -> Survey:
    """The observations of a CSV file.

    Args:
        path: the file.
        id_columns: the columns that together name a row, separated by commas; a name with a comma goes in quotes.

    Raises:
        SurveyError: the file cannot be used as it is.
    """
    rows = _rows(path)
    try:
        _, columns = next(rows)
    except StopIteration:
        raise SurveyError(f"{path} is empty; the first line must name the columns") from None
    if doubled := sorted({name for name in columns if columns.count(name) > 1}):
        raise SurveyError(f"{path} has more than one column named {_listed(doubled)}; rename them in the first line")
    chosen = _chosen(path, id_columns, columns)
    survey = Survey(path, columns, [])
    first: dict[str, Observation] = {}
    for line, row in rows:
        if not any(row):
            continue
        if len(row) != len(columns):
            raise SurveyError(
                f"{path}, line {line}: {len(row)} cells where the first line names {len(columns)} columns; "
                "a cell with a comma or a line end in it must be in double quotes"
            )
        cells = dict(zip(columns, row, strict=True))
        if not any(cells[name] for name in chosen):
            raise SurveyError(
                f"{path}, line {line}: nothing in {_listed(chosen)}, so the row has no id; choose other columns"
            )
        observation = Observation(line, _id([cells[name] for name in chosen]), cells)
        survey.observations.append(observation)
        earlier = first.setdefault(observation.id, observation)
        if earlier is not observation:
            survey.repeats.append(Repeat(line, earlier.line, observation.id, earlier.cells == cells))
    if not survey.observations:
        raise SurveyError(f"{path} names its columns and has no rows")
    return survey


def value(cell: str, na: Sequence[str] = NOT_AVAILABLE) -> Value:
    """What a cell becomes in JSON, by the three rules at the head of this module."""
    if cell == "" or cell in na:
        return None
    if _NUMBER.fullmatch(cell) and cell != "-0":
        if "." not in cell:
            whole = int(cell)
            return whole if abs(whole) <= _MAX_SAFE_INTEGER else cell
        number = float(cell)
        if cell in (repr(number), f"{number:.17g}"):
            return number
    return cell


def item(observation: Observation, na: Sequence[str] = NOT_AVAILABLE) -> dict[str, Value]:
    """The observation as the outbox takes it: column -> value."""
    return {column: value(cell, na) for column, cell in observation.cells.items()}


def compare(
    survey: Survey, records: Mapping[str, object], na: Sequence[str] = NOT_AVAILABLE, *, most_examples: int = 5
) -> Comparison:
    """How a server's records agree with the file: every cell of every row, the first where an id repeats.

    It does not go through `value`: a record's number must spell the cell's text, its text must be the cell's text, and
    its ``null`` needs an empty cell or a mark.

    Args:
        survey: what was read from the file.
        records: id -> the JSON that the server stored for it, decoded.
        na: the marks that stand for nothing, as they were when the items were made.
        most_examples: how many differences are put into words.
    """
    result = Comparison()

    def example(text: str) -> None:
        if len(result.examples) < most_examples:
            result.examples.append(text)

    expected = {one.id: one for one in reversed(survey.observations)}
    for id, one in sorted(expected.items(), key=lambda pair: pair[1].line):
        record = records.get(id)
        if not isinstance(record, dict):
            result.missing += 1
            example(f"line {one.line}, id {id!r}: no record")
            continue
        for column, cell in one.cells.items():
            result.cells += 1
            if column not in record or not _tells(record[column], cell, na):
                result.differing += 1
                example(f"line {one.line}, id {id!r}, {column!r}: {cell!r} in the file, {record.get(column)!r} there")
        for column in record.keys() - one.cells.keys():
            result.differing += 1
            example(f"line {one.line}, id {id!r}: the record has {column!r}, which is no column")
    for id in records.keys() - expected.keys():
        result.unexpected += 1
        example(f"a record {id!r} that no row of the file has")
    return result


def _tells(stored: object, cell: str, na: Sequence[str]) -> bool:
    """Whether a stored value says what the cell says."""
    if cell == "" or cell in na:
        return stored is None
    if isinstance(stored, str):
        return stored == cell
    if isinstance(stored, bool):
        return False
    if isinstance(stored, int):
        return str(stored) == cell
    return isinstance(stored, float) and cell in (repr(stored), f"{stored:.17g}")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a file with the lines on which they end.

    Raises:
        SurveyError: it cannot be opened, is not UTF-8, or is not CSV.
    """
    previous = csv.field_size_limit(_LARGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise SurveyError(f"{path} is not UTF-8 ({_undecodable(path)}); save it as UTF-8") from error
    except csv.Error as error:
        raise SurveyError(f"{path}, line {reader.line_num}: {error}") from error
    except IsADirectoryError as error:
        raise SurveyError(f"{path} is a directory; name a CSV file") from error
    except OSError as error:
        raise SurveyError(f"{path} cannot be read: {error.strerror or error}") from error
    finally:
        csv.field_size_limit(previous)


def _undecodable(path: Path) -> str:
    """Where the first byte lies that is not UTF-8; the decoder of a text file counts from its last buffer."""
    line = 0
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):  # the last line is named where none fails alone
            try:
                raw.decode()
            except UnicodeDecodeError as error:
                return f"line {line}, byte 0x{raw[error.start]:02x}"
    return f"line {line}"


def _chosen(path: Path, id_columns: str, columns: list[str]) -> list[str]:
    """The id columns, each of which the file must have."""
    if id_columns in columns:
        return [id_columns]
    names = next(csv.reader([id_columns], skipinitialspace=True), [])
    chosen = [name if name in columns else name.strip() for name in names]
    unknown = [name for name in chosen if name not in columns]
    if unknown or not chosen:
        hint = ""
        if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0]):
            hint = " (one column only: is the file separated by something else than commas?)"
        raise SurveyError(f"{path} has no column {_listed(unknown or [''])}; it has {_listed(columns)}{hint}")
    return list(dict.fromkeys(chosen))


def _id(cells: list[str]) -> str:
    """One id of several cells; a ``/`` inside a cell is written ``%2F``, so that "a/b", "c" and "a", "b/c" differ."""
    if len(cells) == 1:
        return cells[0]
    return "/".join(cell.replace("%", "%25").replace("/", "%2F") for cell in cells)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
