"""What to store in place of a value that JSON has no type for."""

from __future__ import annotations

from typing import Final

# What to store instead, by `type_name`, looked up along a type's bases, nearest first.
_ADVICE: Final = {
    name: advice
    for advice, names in {
        "value.isoformat()": "datetime.datetime datetime.date datetime.time",
        "value.total_seconds()": "datetime.timedelta",
        "str(value)": "decimal.Decimal fractions.Fraction uuid.UUID pathlib.PurePath BaseException "
        "numpy.datetime64 numpy.timedelta64 pandas.Period",
        "base64.b64encode(value).decode()": "bytes bytearray memoryview",
        "sorted(value)": "set frozenset",
        "list(value)": "range generator map filter zip dict_keys dict_values collections.deque collections.UserList",
        "dict(value)": "dict_items mappingproxy collections.UserDict",
        "[value.real, value.imag]": "complex numpy.complexfloating",
        "value.value": "enum.Enum",
        "value.item()": "numpy.generic",
        "value.tolist()": "numpy.ndarray pandas.Series pandas.Index",
        'value.to_dict("records")': "pandas.DataFrame",
        "None, since the value is missing": "pandas.NAType pandas.NaTType",
        "what it returns": "function method builtin_function_or_method",
        "what awaiting it returns": "coroutine",
    }.items()
    for name in names.split()
}


def type_name(kind: type) -> str:
    """``datetime.datetime``, ``numpy.bool``, ``set``: the top package and the name, as people import it."""
    package = kind.__module__.partition(".")[0]
    return kind.__name__ if package == "builtins" else f"{package}.{kind.__name__}"


def advice_for(kind: type) -> str:
    """What to store in place of a value that JSON has no type for, by its types' names alone: nothing is imported."""
    instead = next((_ADVICE[name] for name in map(type_name, kind.__mro__) if name in _ADVICE), None)
    if instead is None and hasattr(kind, "__dataclass_fields__"):
        instead = "dataclasses.asdict(value)"
    return f"store {instead}, or pass default= to the queue" if instead else "pass default= to the queue"
