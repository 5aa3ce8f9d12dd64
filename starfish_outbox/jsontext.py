"""JSON text that Python and JavaScript read and write alike; the bottom layer under the codec.

What is written is byte for byte what ``JSON.stringify`` writes (ECMA-262, well-formed ``JSON.stringify`` included):
compact, raw UTF-8, numbers as ``Number::toString`` spells them. What is read is RFC 8259 and nothing more. Two doors
to write:

- `encode_item` is strict: what JavaScript would change or lose is refused, with a path to it.
- `encode_foreign` is lenient: what another program wrote is kept, even where `encode_item` would refuse it.

The C coders of the standard library do the work wherever their answer is right. The loops here keep their own stack, so
neither the depth of a value nor that of the caller runs into Python's recursion limit.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring
from math import isfinite
from typing import Any, Final, Never

from starfish_outbox.errors import ItemError

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer that JavaScript keeps exact (``Number.MAX_SAFE_INTEGER``)."""

_MAX_DIGITS: Final = 4300  # CPython's default limit for reading an integer, fixed here so that every host agrees
_PLAIN_DIGITS: Final = 640  # the lowest that sys.set_int_max_str_digits can make it
_PLAIN_INTEGER: Final = 10**_PLAIN_DIGITS
_EXACT_TYPES: Final = frozenset({str, int, float, bool, type(None), dict, list, tuple})
_CONTAINERS: Final = frozenset({dict, list, tuple})
_CLOSER: Final = {"[": "]", "{": "}"}
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SPACE: Final = re.compile(r"[ \t\n\r]*")
# Every integer beyond 2^53-1 and every number that is infinite as a double, within a list or dict, looks like this.
# What looks like it in a string costs time only.
_UNUSUAL_NUMBER: Final = re.compile(r"[\[:, \t\n\r]-?[0-9](?:[0-9]{15}|[0-9.]*+[eE]\+?[0-9]{3})")
# A float as Python spells it and JavaScript may not: repr always signs an exponent. In a string a quote would follow.
_PYTHON_FLOAT: Final = re.compile(r"(?:\.0|e[-+][0-9]{2,3})(?=[,\]}]|\Z)")


class DamagedText(ValueError):  # noqa: N818 -- what is wrong is the text, and the name says that
    """A text that is no JSON, or that two languages would not read alike.

    Attributes:
        reason: what is wrong, in words, without the text itself.
        pos: where, as an index into the text (in characters, from 0).
    """

    def __init__(self, reason: str, pos: int) -> None:
        super().__init__(f"{reason} at character {pos}")
        self.reason = reason
        self.pos = pos


class _OutOfRoom(Exception):  # noqa: N818 -- never leaves this module
    """The text is sure to be far too long."""


class _Refusal(Exception):  # noqa: N818 -- never leaves this module
    """Why a value (or the container of a bad key) is refused; the loop, which knows the place, makes an `ItemError`."""

    def __init__(self, why: str, *, of_container: bool = False) -> None:
        super().__init__(why)
        self.of_container = of_container


def encode_item(
    value: Any,
    *,
    big_ints: bool = False,
    default: Callable[[Any], Any] | None = None,
    max_depth: int = 128,
    max_bytes: int = 1 << 20,
) -> str:
    """The text that ``JSON.stringify`` would write for the item, when both languages are sure to read it back equal.

    Subclasses of the JSON types count as their base type, as in `json` (``IntEnum``, ``namedtuple``, ``np.float64``);
    two code points that form a surrogate pair become one character. The text comes however deep the caller is: it takes
    five free frames of Python's stack, no more for a deeper item. With fewer it raises `ItemError`, and Python's own
    RecursionError comes through only where not even that error can be made.

    Args:
        value: the item.
        big_ints: allow integers beyond ±(2^53-1), which JavaScript would round, as far as a double reaches.
        default: called with each value of any other type; its answer is encoded in that value's place.
        max_depth: how many lists and dicts may lie within each other.
        max_bytes: how long the text may be, in bytes of UTF-8.

    Raises:
        ItemError: the item is refused; ``path`` says where. The message never holds a value.
    """
    # Far beyond the limit we stop counting: one list that many others hold many times over would never end.
    room = 4 * max_bytes + (1 << 20)
    try:
        text = _write(value, big_ints, default, max_depth, room, foreign=False)
    except _OutOfRoom:
        raise _too_large(f"more than {room:,} bytes", max_bytes) from None
    except RecursionError:
        raise ItemError("$ cannot be encoded so deep within nested calls: Python's stack is nearly used up") from None
    size = len(text) if text.isascii() else len(text.encode())
    if size > max_bytes:
        raise _too_large(f"{size:,} bytes", max_bytes)
    return text


def encode_string(text: str) -> str:
    """The text that ``JSON.stringify`` writes for a string: pairs merged, a lone surrogate as a lower-case escape."""
    if text.isascii() or _SURROGATE.search(text) is None:
        return encode_basestring(text)
    return _SURROGATE.sub(lambda lone: f"\\u{ord(lone[0]):04x}", encode_basestring(_merge_pairs(text)))


def encode_number(x: float) -> str:
    """The text of a number: a float as ECMA-262 ``Number::toString`` spells it, an int with all its digits.

    Raises:
        ValueError: it is NaN or infinite, for which JSON has no form.
    """
    if isinstance(x, int):
        return _integer_text(int(x))
    text = float.__repr__(x)  # the shortest digits that read back equal, as in JavaScript; only the layout differs
    if text.endswith(".0"):
        return "0" if text == "-0.0" else text[:-2]
    if "e" in text:
        return _lay_out(text)
    if text[-1] in "nf":
        raise ValueError("JSON has no form for NaN and infinity")
    return text


def encode_foreign(value: Any) -> str:
    """The ``JSON.stringify`` text of a value that `decode` made of another program's text.

    Nothing is refused for size or depth: integers keep all their digits, lone surrogates are written as escapes.

    Raises:
        ValueError: it holds NaN or an infinity, which `decode` never makes.
        TypeError: it holds a type that `decode` never makes.
    """
    if _c_is_safe():
        try:
            text = _ENCODER.encode(value)
        except (ValueError, RecursionError):
            pass  # an integer too long for C, or too deep for it: the loop below can do both
        else:
            pythonic = (".0" in text or "e-" in text or "e+" in text) and _PYTHON_FLOAT.search(text)
            if not pythonic and (text.isascii() or _SURROGATE.search(text) is None):
                return text
    return _write(value, True, None, sys.maxsize, sys.maxsize, foreign=True)


def decode(text: str) -> Any:
    """The Python value of one JSON text, with space around it allowed.

    Numbers are doubles: an integer beyond 2^53-1 spelled as JavaScript spells its double (``10000000000000000``) reads
    as a float. Any other integer reads exact, up to 4,300 digits, although JavaScript would round it.

    Raises:
        DamagedText: it is not RFC 8259; or a number with a point or an exponent is infinite as a double (``1e400``), an
            integer has more than 4,300 digits, or a raw surrogate stands in it (for a byte that was not UTF-8).
    """
    value, end = scan(text, _after_space(text, 0))
    end = _after_space(text, end)
    if end != len(text):
        raise DamagedText("more text after the end of the value", end)
    return value


def scan(text: str, index: int, *, strict: bool = True) -> tuple[Any, int]:
    """The JSON value that starts at ``index`` and the index where it ends, by the rules of `decode`; skips no space.

    Args:
        text: anything that holds a JSON value at that place.
        index: where the value starts.
        strict: refuse raw control characters within strings, as RFC 8259 does.

    Raises:
        DamagedText: as for `decode`.
    """
    usual, careful = _DECODERS[strict]
    if not 0 < sys.get_int_max_str_digits() <= 100_000:
        usual = careful  # without that limit int() takes minutes over a long token
    if not _c_is_safe():
        value, end = _parse(text, index, careful)
    else:
        try:
            value, end = usual.raw_decode(text, index)
            if isinstance(value, float | int) or _UNUSUAL_NUMBER.search(text, index, end):
                value, end = careful.raw_decode(text, index)
        except (ValueError, RecursionError):  # damaged, too deep for C, or a number: the loop knows which, and where
            value, end = _parse(text, index, careful)
    if not text.isascii() and (raw := _SURROGATE.search(text, index, end)):
        raise DamagedText("raw surrogate, which stands for a byte that is not UTF-8", raw.start())
    return value, end


def _write(  # noqa: C901 -- the hot path: each call moved out of this loop costs as much as the work it does
    root: Any, big_ints: bool, default: Callable[[Any], Any] | None, max_depth: int, room: int, *, foreign: bool
) -> str:
    """The text of a value, checked and built in one pass that gives up when it is sure to pass ``room`` characters."""
    out: list[str] = []
    write = out.append
    quote = encode_basestring
    lowest, highest = -MAX_SAFE_INTEGER, MAX_SAFE_INTEGER
    # The open container: what is left of it, what goes before its next element, how it ends, and, for a dict, its pairs
    # and whether their keys may collide. Those around it wait in `outer`, each with the key at which it stands.
    rest: Iterator[tuple[Any, Any]] = iter(((0, root),))
    lead = close = ""
    key: Any = 0
    pairs: list[tuple[Any, Any]] = []
    odd = False
    outer: list[tuple[Iterator[tuple[Any, Any]], str, Any, list[tuple[Any, Any]], bool]] = []
    try:
        while True:
            for key, value in rest:
                if close != "}":
                    head = lead
                elif type(key) is str and len(key) < 100 and key.isascii():
                    head = f"{lead}{quote(key)}:"
                else:
                    head = f"{lead}{_key_text(key, foreign)}:"
                    room -= len(head)
                    odd = True
                lead = ","
                kind = type(value)
                if kind is str and value.isascii() and len(value) < 100:
                    write(f"{head}{quote(value)}")
                elif kind is float:
                    text = repr(value)
                    if text[-1] in "0nf" or "e" in text:  # ends in .0, is not finite, or has an exponent
                        text = _scalar_text(value, big_ints, foreign)
                    write(f"{head}{text}")
                elif kind is int and lowest <= value <= highest:
                    write(f"{head}{value}")
                elif value is None:
                    write(f"{head}null")
                else:
                    if kind not in _EXACT_TYPES:
                        value = _base_value(value, default, max_depth)  # noqa: PLW2901 -- it stands in the same place
                        kind = type(value)
                    if kind not in _CONTAINERS:
                        text = _scalar_text(value, big_ints, foreign)
                        room -= len(text)
                        if room < 0:
                            raise _OutOfRoom
                        write(f"{head}{text}")
                        continue
                    if len(outer) >= max_depth:
                        raise _Refusal(f"is nested deeper than {max_depth} levels, or contains itself")
                    # Brackets and commas; in a dict also colons and the quotes of its keys.
                    room -= len(value) * (4 if kind is dict else 1) + 1
                    if room < 0:
                        raise _OutOfRoom
                    outer.append((rest, close, key, pairs, odd))
                    if kind is dict:
                        pairs = list(value.items())
                        rest, close, odd = iter(pairs), "}", False
                        write(head + "{")
                    else:
                        rest, close, odd = enumerate(value), "]", False
                        write(head + "[")
                    lead = ""
                    break
            else:
                if not outer:
                    return "".join(out)
                if odd and len({_key_text(name, foreign) for name, _ in pairs}) < len(pairs):
                    raise _Refusal("has two keys with the same text", of_container=True)
                write(close)
                lead = ","
                rest, close, key, pairs, odd = outer.pop()
    except _Refusal as refusal:
        keys = [frame[2] for frame in outer] + ([] if refusal.of_container else [key])
        path = "$" + "".join(map(_step, keys[1:]))  # the first is the place of the item itself
        short = path if len(path) <= 200 else f"{path[:100]}…{path[-99:]}"
        raise ItemError(f"{short} {refusal}", path) from refusal.__cause__


def _step(key: int | str) -> str:
    """One step of a path: ``[3]``, ``.value``, or ``["odd key"]`` for a key that is no identifier."""
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if key.isidentifier() else f"[{encode_string(key)}]"


def _too_large(size: str, max_bytes: int) -> ItemError:
    advice = "keep large data in a file and enqueue its path"
    return ItemError(f"$ takes {size} as JSON text, and {max_bytes:,} are allowed: {advice}")


def _base_value(value: Any, default: Callable[[Any], Any] | None, max_depth: int) -> Any:
    """The value as one of the JSON types themselves: a subclass stripped, any other type through ``default``."""
    for _ in range(max_depth + 1):
        kind = type(value)  # what isinstance says can be a proxy's claim
        if kind in _EXACT_TYPES:
            return value
        if issubclass(kind, str):
            return str.__str__(value)
        if issubclass(kind, int):
            return int.__int__(value)
        if issubclass(kind, float):
            return float.__float__(value)
        if issubclass(kind, dict | list | tuple):
            return _base_container(value)
        if default is None:
            raise _Refusal(f"is of type {_type_name(kind)}, which JSON does not have: {_advice(kind)}")
        try:
            value = default(value)
        except Exception as error:
            what = f"is of type {_type_name(kind)}, for which default= raised {type(error).__name__}"
            raise _Refusal(f"{what}: {_advice(kind)}") from error
    raise _Refusal(f"is still of no JSON type after {max_depth + 1} calls of default=")


def _base_container(value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> dict[Any, Any] | list[Any]:
    """A dict or list of what a subclass says it holds, as `json` takes it: by ``items()`` or by iterating."""
    try:
        if not isinstance(value, dict):
            return list(value)
        pairs = list(value.items())
        plain = dict(pairs)
    except Exception as error:
        what = f"is of type {_type_name(type(value))}, and reading it raised {type(error).__name__}"
        raise _Refusal(what) from error
    if len(plain) < len(pairs):
        raise _Refusal("has two keys with the same text")
    return plain


def _scalar_text(value: Any, big_ints: bool, foreign: bool) -> str:
    """The text of a str, int, float, bool or None (no subclass), where JavaScript reads back the same."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return _string_text(value, "holds", foreign)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not isfinite(value):
            raise _Refusal("is NaN or infinite, for which JSON has no form: store None where a value is missing")
        return encode_number(value)
    if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER or foreign:
        return _integer_text(value)
    if not big_ints:
        advice = "store it as a string, or make the queue with big_ints=True where only Python reads it"
        raise _Refusal(f"is an integer beyond ±(2^53-1), which JavaScript would round: {advice}")
    try:
        float(value)
    except OverflowError:
        raise _Refusal("is an integer too large for a double: store it as a string") from None
    return _integer_text(value)


def _key_text(key: Any, foreign: bool) -> str:
    if not isinstance(key, str):
        why = f"has a key of type {_type_name(type(key))}, and JSON keys are strings: use str(key)"
        raise _Refusal(why, of_container=True)
    try:
        return _string_text(str.__str__(key), "has a key with", foreign)
    except _Refusal as refusal:
        raise _Refusal(str(refusal), of_container=True) from None


def _string_text(text: str, verb: str, foreign: bool) -> str:
    if text.isascii() or _SURROGATE.search(text) is None:
        return encode_basestring(text)
    if foreign:
        return encode_string(text)
    text = _merge_pairs(text)
    if _SURROGATE.search(text):
        advice = "os.fsencode() or errors='surrogateescape' gives the bytes back; store them as base64"
        raise _Refusal(f"{verb} a lone surrogate, half a character that UTF-8 cannot hold: {advice}")
    return encode_basestring(text)


def _merge_pairs(text: str) -> str:
    """The text with each two code points that form a surrogate pair as the one character that they mean in UTF-16."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _integer_text(value: int) -> str:
    if -_PLAIN_INTEGER < value < _PLAIN_INTEGER:
        return int.__repr__(value)
    from decimal import Decimal  # seldom needed; knows neither Python's limit on digits nor its quadratic cost

    return str(Decimal(value))


def _lay_out(text: str) -> str:
    """A float that Python spells with an exponent, as ECMA-262 Number::toString (6.1.6.1.20) lays out its digits."""
    mantissa, _, exponent = text.partition("e")
    point = int(exponent) + 1  # where the point stands in the digits: n in ECMA-262
    if not -6 < point <= 21:
        return f"{mantissa}e{point - 1:+d}"
    sign = "-" if text[0] == "-" else ""
    digits = mantissa.lstrip("-").replace(".", "")
    return f"{sign}{digits.ljust(point, '0')}" if point > 0 else f"{sign}0.{'0' * -point}{digits}"


def _type_name(kind: type) -> str:
    """``datetime.datetime``, ``numpy.bool``, ``set``: the top package and the name, as people import it."""
    package = kind.__module__.partition(".")[0]
    return kind.__name__ if package == "builtins" else f"{package}.{kind.__name__}"


def _advice(kind: type) -> str:
    """What to store in place of a value that JSON has no type for, by its types' names alone: nothing is imported."""
    instead = next((_ADVICE[name] for name in map(_type_name, kind.__mro__) if name in _ADVICE), None)
    if instead is None and hasattr(kind, "__dataclass_fields__"):
        instead = "dataclasses.asdict(value)"
    return f"store {instead}, or pass default= to the queue" if instead else "pass default= to the queue"


# What to store instead, by `_type_name`, looked up along a type's bases, nearest first.
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


def _c_is_safe() -> bool:
    """Whether C would hit Python's recursion limit before it hits the end of its own stack, which is a crash."""
    return sys.version_info >= (3, 12) or sys.getrecursionlimit() <= 10_000


def _after_space(text: str, index: int) -> int:
    space = _SPACE.match(text, index)
    return space.end() if space else index


def _read_integer(token: str) -> int | float:
    if len(token.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"integer of more than {_MAX_DIGITS:,} digits")
    if len(token) <= _PLAIN_DIGITS:
        value = int(token)
    else:
        from decimal import Decimal

        value = int(Decimal(token))
    if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER or len(token) > 22:
        return value
    double = float(value)
    return double if encode_number(double) == token else value


def _read_float(token: str) -> float:
    value = float(token)
    if not isfinite(value):
        raise ValueError("number that is infinite as a double")
    return value


def _refuse_constant(token: str) -> Never:
    raise ValueError(f"{token}, which is not JSON")


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)


def _decoders(strict: bool) -> tuple[json.JSONDecoder, json.JSONDecoder]:
    """A decoder that reads numbers in C, and one that looks at each number."""
    return (
        json.JSONDecoder(strict=strict, parse_constant=_refuse_constant),
        json.JSONDecoder(
            strict=strict, parse_constant=_refuse_constant, parse_int=_read_integer, parse_float=_read_float
        ),
    )


_DECODERS: Final = {strict: _decoders(strict) for strict in (True, False)}


def _parse(text: str, index: int, decoder: json.JSONDecoder) -> tuple[Any, int]:
    """What ``decoder.raw_decode`` gives, at any depth: C reads strings, numbers and names, the loop what holds them."""
    outer: list[Any] = []
    keys: list[str] = []
    while True:
        opener = text[index : index + 1]
        if opener in ("[", "{"):
            value: Any = [] if opener == "[" else {}
            index = _after_space(text, index + 1)
            if not text.startswith(_CLOSER[opener], index):
                outer.append(value)
                if opener == "{":
                    index = _parse_key(text, index, decoder, keys)
                continue
            index += 1
        else:
            value, index = _parse_scalar(text, index, decoder)
        while True:  # the value is whole: put it where it belongs, and see what that container says next
            if not outer:
                return value, index
            holder = outer[-1]
            if isinstance(holder, list):
                holder.append(value)
                closer = "]"
            else:
                holder[keys.pop()] = value
                closer = "}"
            index = _after_space(text, index)
            mark = text[index : index + 1]
            if mark == ",":
                index = _after_space(text, index + 1)
                if closer == "}":
                    index = _parse_key(text, index, decoder, keys)
                break
            if mark != closer:
                raise DamagedText(f"expected ',' or '{closer}'", index)
            value = outer.pop()
            index += 1


def _parse_key(text: str, index: int, decoder: json.JSONDecoder, keys: list[str]) -> int:
    """Where the value of the pair that starts at ``index`` starts; its key goes onto ``keys``."""
    if not text.startswith('"', index):
        raise DamagedText("expected a key in double quotes", index)
    key, index = _parse_scalar(text, index, decoder)
    keys.append(key)
    index = _after_space(text, index)
    if not text.startswith(":", index):
        raise DamagedText("expected ':'", index)
    return _after_space(text, index + 1)


def _parse_scalar(text: str, index: int, decoder: json.JSONDecoder) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, index)
    except json.JSONDecodeError as error:
        raise DamagedText(error.msg, error.pos) from None
    except ValueError as error:
        raise DamagedText(str(error), index) from None
