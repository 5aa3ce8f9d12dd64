"""The entries of a queue as a data frame: its columns, what kind each is of, and the three libraries that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from starfish_outbox.entry import OutboxEntry
from starfish_outbox.jsontext import MAX_SAFE_INTEGER, encode_foreign

Library: TypeAlias = Literal["pandas", "polars", "pyarrow"]
Kind: TypeAlias = Literal["truth", "integer", "number", "text", "instant", "mixed"]

ITEM: Final = "item"
"""The column of items that are no dicts."""

_PREFIX: Final = f"{ITEM}."
_OURS: Final = ("id", "status", "attempts", "enqueued_at", "last_error", "next_attempt")
_YEAR_10000_MS: Final = 253_402_300_800_000
_MAX_INT64: Final = (1 << 63) - 1


class _Column(NamedTuple):
    kind: Kind
    values: list[Any]


def column_of(key: str) -> str:
    """The column of a key of items. No two keys share one."""
    return _PREFIX + key if key in _OURS or key == ITEM or key.startswith(_PREFIX) else key


def key_of(column: str) -> str | None:
    """The key of items that a column is of, or None for those that are about the entry or hold the whole item."""
    return None if column in _OURS or column == ITEM else column.removeprefix(_PREFIX)


def table_of(entries: Iterable[OutboxEntry[Any]], library: Library) -> Any:
    """The entries as a frame of this library; see `to_frame`.

    Raises:
        ModuleNotFoundError: it is not installed.
        ValueError: it is none of the three.
    """
    if library not in _BUILDERS:
        raise ValueError(f"the library of a frame is one of {', '.join(_BUILDERS)}, not {library!r}")
    try:
        module = import_module(library)
    except ModuleNotFoundError as error:
        others = " or ".join(f"library={name!r}" for name in _BUILDERS if name != library)
        raise ModuleNotFoundError(
            f"{library} is not installed: pip install {library}, or ask for a frame of another library ({others})",
            name=library,
        ) from error
    return _BUILDERS[library](module, _columns(entries))


def _columns(entries: Iterable[OutboxEntry[Any]]) -> dict[str, _Column]:
    ours: dict[str, list[Any]] = {name: [] for name in _OURS}
    items: dict[str, list[Any]] = {}
    for number, entry in enumerate(entries):
        error = entry.last_error
        ours["id"].append(entry.id)
        ours["status"].append(entry.status if isinstance(entry.status, str) else encode_foreign(entry.status))
        ours["attempts"].append(entry.attempts)
        ours["enqueued_at"].append(_instant(entry.enqueued_at))
        ours["last_error"].append(f"{error.type}: {error.message}" if error else None)
        ours["next_attempt"].append(_instant(entry.next_attempt_ms))
        item = {column_of(key): cell for key, cell in entry.item.items()} if isinstance(entry.item, dict) else None
        for name, cell in {ITEM: entry.item}.items() if item is None else item.items():
            if name not in items:
                items[name] = []
            cells = items[name]
            cells += [None] * (number - len(cells))
            cells.append(cell)
    length = len(ours["id"])
    kinds: tuple[Kind, ...] = ("text", "text", "integer", "instant", "text", "instant")
    columns = {name: _Column(kind, ours[name]) for name, kind in zip(_OURS, kinds, strict=True)}
    for name, cells in items.items():
        cells.extend([None] * (length - len(cells)))
        columns[name] = _Column(_kind(cells), cells)
    return columns


def _instant(at_ms: float | None) -> int | None:
    """Milliseconds since the Unix epoch; None also where another program wrote what is no year of our calendar."""
    return int(at_ms) if at_ms is not None and abs(at_ms) < _YEAR_10000_MS else None


def _kind(cells: list[Any]) -> Kind:
    """What the cells are of which something is known: of one kind, or mixed."""
    found = {type(cell) for cell in cells} - {type(None)}
    if found == {bool}:
        return "truth"
    if found == {str}:
        return "text"
    if found == {int} and all(-_MAX_INT64 <= cell <= _MAX_INT64 for cell in cells if cell is not None):
        return "integer"
    if found and found <= {int, float}:
        exact = (abs(cell) <= MAX_SAFE_INTEGER for cell in cells if type(cell) is int)
        return "number" if all(exact) else "mixed"
    return "mixed"


def _pandas(pandas: Any, columns: dict[str, _Column]) -> Any:
    series = {name: _pandas_series(pandas, column) for name, column in columns.items()}
    return pandas.DataFrame(series, columns=list(columns))


def _pandas_series(pandas: Any, column: _Column) -> Any:
    kind, values = column
    whole = None not in values
    if kind == "instant":
        import numpy as np

        stamps = np.array(["NaT" if value is None else value for value in values], dtype="datetime64[ms]")
        return pandas.Series(stamps).dt.tz_localize("UTC")
    if kind == "text":
        try:
            return pandas.Series(values, dtype=None if any(value is not None for value in values) else object)
        except UnicodeEncodeError:  # a lone surrogate of another program, where pandas keeps texts as UTF-8
            return pandas.Series(values, dtype=object)
    dtypes = {"truth": "bool" if whole else "boolean", "integer": "int64" if whole else "Int64", "number": "float64"}
    return pandas.Series(values, dtype=dtypes.get(kind, "object"))


def _polars(polars: Any, columns: dict[str, _Column]) -> Any:
    dtypes = {
        "truth": polars.Boolean,
        "integer": polars.Int64,
        "number": polars.Float64,
        "instant": polars.Datetime("ms", "UTC"),
    }
    series = (
        polars.Series(name, _texts(column), dtype=dtypes.get(column.kind, polars.String))
        for name, column in columns.items()
    )
    return polars.DataFrame(list(series))


def _arrow(pyarrow: Any, columns: dict[str, _Column]) -> Any:
    dtypes = {
        "truth": pyarrow.bool_(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "instant": pyarrow.timestamp("ms", "UTC"),
    }
    return pyarrow.table(
        {
            name: pyarrow.array(_texts(column), dtypes.get(column.kind, pyarrow.string()))
            for name, column in columns.items()
        }
    )


def _texts(column: _Column) -> list[Any]:
    """The values as libraries take them that hold one kind in a column and UTF-8 as text."""
    if column.kind == "mixed":
        return [None if value is None else _utf8(encode_foreign(value)) for value in column.values]
    if column.kind == "number":
        return [None if value is None else float(value) for value in column.values]
    return [_utf8(value) for value in column.values] if column.kind == "text" else column.values


def _utf8(text: str | None) -> str | None:
    """With a mark for each lone surrogate of another program."""
    return text if text is None else text.encode("utf-8", "replace").decode()


_BUILDERS: Final[dict[str, Callable[[Any, dict[str, _Column]], Any]]] = {
    "pandas": _pandas,
    "polars": _polars,
    "pyarrow": _arrow,
}
