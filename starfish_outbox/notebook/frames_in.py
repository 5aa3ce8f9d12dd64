"""What stands in the cells of a data frame, as JSON; whose frame it is, is seen without importing its library.

1. What is missing (``None``, ``NaN``, ``NaT``, ``NA``) is null.
2. Numbers, truth values and texts of NumPy, pandas, Polars and Arrow are themselves; a categorical is its value.
3. An instant, a date or a time of day is its ISO 8601 text, with the offset of its time zone where it has one. (The
   name of the zone is lost.)
4. A time span is an ISO 8601 duration of days, hours, minutes and seconds: ``P1DT2H``, ``-PT0.5S``.
5. Lists, arrays and dicts keep their form, and their elements follow these rules.
6. Anything else is left as it is, so that the queue's ``default=`` can turn it into JSON or the queue refuses it.
   Infinities and integers that JavaScript would round are refused as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any, Final, NamedTuple

from starfish_outbox.jsontext.advice import type_name

_PLAIN: Final = frozenset({str, int, bool, type(None)})
_NESTED_DEEPEST: Final = 128
_TO_MICROSECONDS: Final = "holds nanoseconds, which would be lost here: cast it to microseconds"


class BadRow(NamedTuple):
    """A row that cannot be taken, and why.

    Attributes:
        number: which row, from 0.
        label: its label in the frame's index, as JSON; its number where a frame has none.
        column: which column, or None where it is about the row as a whole.
        reason: in words.
    """

    number: int
    label: Any
    column: str | None
    reason: str

    def __str__(self) -> str:
        """In one line."""
        label = "" if str(self.label) == str(self.number) else f" ({self.label!r})"
        where = "" if self.column is None else f", column {self.column!r}"
        return f"row {self.number}{label}{where}: {self.reason}"


@dataclass
class Columns:
    """A frame, column by column.

    Attributes:
        values: of each column its cells as JSON.
        labels: of each row what its index says.
        bad: cells that cannot be read without a loss.
    """

    values: dict[str, list[Any]]
    labels: Sequence[Any]
    bad: list[BadRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def spoil(self, number: int, column: str | None, reason: str) -> None:
        """This row cannot be taken."""
        self.bad.append(BadRow(number, plain(self.labels[number]), column, reason))

    def good(self, numbers: Iterable[int]) -> list[int]:
        """Those of these rows that can be taken."""
        spoilt = {one.number for one in self.bad}
        return [number for number in numbers if number not in spoilt]

    def refused(self) -> tuple[BadRow, ...]:
        """What is wrong, row by row."""
        return tuple(sorted(self.bad, key=lambda one: one.number))


def columns_of(frame: Any) -> Columns:
    """The cells of a pandas or Polars ``DataFrame`` or of an Arrow ``Table``.

    The named levels of a pandas index are columns too.

    Raises:
        TypeError: it is none of them, or a column is named by no text.
        ValueError: two columns share a name.
    """
    for kind in type(frame).__mro__:
        read = _READERS.get(type_name(kind))
        if read is not None:
            return read(frame)
    hint = _HINTS.get(type_name(type(frame)), "")
    raise TypeError(f"a frame is a DataFrame of pandas or Polars, or an Arrow Table, not {type(frame).__name__}{hint}")


def plain(value: Any, depth: int = 0) -> Any:
    """One cell as JSON, as far as there is a rule for it; see the module."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return None if value != value else value  # noqa: PLR0124  # NaN alone differs from itself
    convert = _converter(kind)  # type: ignore[arg-type]  # mypy does not know that a class is hashable
    return value if convert is None or depth > _NESTED_DEEPEST else convert(value, depth)


def span(value: timedelta) -> str:
    """A time span as an ISO 8601 duration; pandas' own has nanoseconds, and they are kept."""
    whole = (value.days * 86_400 + value.seconds) * 10**9 + value.microseconds * 1000 + getattr(value, "nanoseconds", 0)
    seconds, rest = divmod(abs(whole), 10**9)
    days, seconds = divmod(seconds, 86_400)
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    parts = [f"{hours}H" * bool(hours), f"{minutes}M" * bool(minutes), f"{seconds}{fraction}S" * bool(seconds or rest)]
    time = "".join(parts)
    date = f"{days}D" if days else ""
    return f"{'-' if whole < 0 else ''}P{date}{f'T{time}' if time else '' if date else 'T0S'}"


@cache
def _converter(kind: type[object]) -> Callable[[Any, int], Any] | None:
    return next((_CONVERTERS[name] for name in map(type_name, kind.__mro__) if name in _CONVERTERS), None)


def _nothing(_: Any, __: int) -> None:
    return None


def _scalar(value: Any, depth: int) -> Any:
    item = value.item()
    return value if type(item) is type(value) else plain(item, depth + 1)  # a long double is its own item


def _array(value: Any, depth: int) -> Any:
    return [plain(element, depth + 1) for element in value] if value.ndim else plain(value[()], depth + 1)


def _list(value: Any, depth: int) -> Any:
    return [plain(element, depth + 1) for element in value]


def _dict(value: Any, depth: int) -> Any:
    return {key: plain(element, depth + 1) for key, element in value.items()}


_CONVERTERS: Final[dict[str, Callable[[Any, int], Any]]] = {
    "float": lambda value, _: None if value != value else value,  # noqa: PLR0124  # as above
    "list": _list,
    "tuple": _list,
    "dict": _dict,
    "pandas.NAType": _nothing,
    "pandas.NaTType": _nothing,
    "datetime.date": lambda value, _: value.isoformat(),
    "datetime.datetime": lambda value, _: value.isoformat(),
    "datetime.time": lambda value, _: value.isoformat(),
    "datetime.timedelta": lambda value, _: span(value),
    "numpy.datetime64": lambda value, _: None if value != value else str(value),  # noqa: PLR0124  # NaT differs too
    "numpy.timedelta64": lambda value, _: None if value != value else value,  # noqa: PLR0124
    "numpy.generic": _scalar,
    "numpy.ndarray": _array,
}


def _pandas(frame: Any) -> Columns:
    labels = frame.index
    named = [level for level, name in enumerate(frame.index.names) if name is not None]
    series = [(frame.index.names[level], frame.index.get_level_values(level)) for level in named]
    series += [(name, frame.iloc[:, place]) for place, name in enumerate(frame.columns)]
    _check_names([name for name, _ in series])
    return Columns({name: _pandas_values(one) for name, one in series}, labels)


def _pandas_values(series: Any) -> list[Any]:
    kind = getattr(series.dtype, "kind", "O") if type(series.dtype).__module__.startswith("numpy") else "O"
    if kind in "biu":
        return list(series.tolist())
    if kind == "f" and series.dtype.itemsize <= 8:
        return [None if value != value else value for value in series.tolist()]  # noqa: PLR0124
    return [plain(value) for value in series.astype(object).tolist()]


def _polars(frame: Any) -> Columns:
    columns = Columns({}, range(frame.height))
    for series in frame.iter_columns():
        columns.values[series.name] = [plain(value) for value in series.to_list()]
        for number in _with_nanoseconds(series):
            columns.spoil(number, series.name, _TO_MICROSECONDS)
    return columns


def _with_nanoseconds(series: Any) -> list[int]:
    """Rows of a Polars column whose instants, times or spans are finer than what Python can hold."""
    dtype = repr(series.dtype)
    if "'ns'" not in dtype and not dtype.startswith("Time") and "(Time" not in dtype:
        return []
    if series.dtype.is_nested():
        return list((~series.is_null()).arg_true().to_list())
    return list((series.to_physical() % 1000 != 0).fill_null(value=False).arg_true().to_list())


def _arrow(table: Any) -> Columns:
    _check_names(table.column_names)
    columns = Columns({}, range(table.num_rows))
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            if str(column.type) == "time64[ns]":
                column = column.cast("time64[us]")  # noqa: PLW2901  # refuses what would be cut off; Python has no finer time
            columns.values[name] = [plain(value) for value in column.to_pylist()]
        except ValueError as error:  # nanoseconds, where there is no pandas to hold them, and the like
            columns.values[name] = [None] * len(columns)
            for number in range(len(columns)):
                columns.spoil(number, name, f"cannot be read: {error}")
    return columns


_READERS: Final[dict[str, Callable[[Any], Columns]]] = {
    "pandas.DataFrame": _pandas,
    "polars.DataFrame": _polars,
    "pyarrow.Table": _arrow,
}
_HINTS: Final = {"polars.LazyFrame": "; collect() it first", "pandas.Series": "; to_frame() makes one of it"}


def _check_names(names: Sequence[Any]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"the column {name!r} is named by no text, as JSON's keys are: "
                "frame.columns = list(map(str, frame.columns))"
            )
    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        raise ValueError(f"two columns (or levels of the index) are named {twice[0]!r}")
