"""What another program may have stored, one HAZARDS row a name, and what a queue makes of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

Fate = Literal["read", "kept", "quarantined", "damage"]

PLAIN: Final[dict[str, Any]] = {"id": "x", "item": 1, "status": "queued", "attempts": 0, "enqueuedAt": 5}


def compact(value: Any) -> str:
    """As ``JSON.stringify`` writes values of plain types without floats."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def same(one: Any, other: Any) -> bool:
    """Whether they are equal in type as well: 1, 1.0 and True are three things."""
    return json.dumps(one) == json.dumps(other) and type(one) is type(other)


def entry(**changes: Any) -> dict[str, Any]:
    """A plain entry with other values; ``...`` leaves a key out, a new key goes behind."""
    merged = {**PLAIN, **changes}
    return {key: value for key, value in merged.items() if value is not ...}


def spelled(**tokens: str) -> str:
    """The text of a plain entry in which some values are spelled as given."""
    return "{" + ",".join(f'"{key}":{tokens.get(key, compact(value))}' for key, value in PLAIN.items()) + "}"


def numbered(id: str) -> str:
    return compact(entry(id=id))


@dataclass(frozen=True)
class Element:
    """One or more elements of a stored array (``text``) and what becomes of them.

    Attributes:
        read: the entries that ``get()`` shows of it, as ``to_dict`` gives them.
        stored: its text after the next write; None: it left the array.
        said: what a line of ``status().set_aside`` says; empty: nothing is said of it.
        fate: ``read`` as entries; ``kept`` in the text alone; ``quarantined`` as an element; ``damage``: the whole text
            is set aside and the neighbours are found in it.
        closed: what is stored satisfies the reader form of the schema.
        javascript_keeps: Node writes the same text again.
    """

    text: str
    read: tuple[dict[str, Any], ...]
    stored: str | None
    said: str
    fate: Fate = "read"
    closed: bool = True
    javascript_keeps: bool = True


def clean(text: str, stored: str | None = None, *, keeps: bool = True, **read: Any) -> Element:
    """Nothing is wrong with it."""
    return Element(text, (entry(**read),), text if stored is None else stored, "", javascript_keeps=keeps)


def guessed(text: str, said: str, *, closed: bool = True, **read: Any) -> Element:
    """One value had to be guessed."""
    return Element(text, (entry(**read),), compact(entry(**read)), said, closed=closed)


def quarantined(text: str, said: str) -> Element:
    return Element(text, (), None, said, "quarantined")


def kept(*ids: str) -> Element:
    """Elements whose ids are no strings."""
    text = ",".join(spelled(id=id) for id in ids)
    unsafe = any("900719925474099" in id or id == "1.0" for id in ids)
    return Element(text, (), text, "id is no string", "kept", closed=False, javascript_keeps=not unsafe)


def damaged(text: str, said: str) -> Element:
    return Element(text, (), None, said, "damage")


BIG: Final = 12345678901234567890
NFC, NFD = "\u00e9", "e\u0301"

ELEMENTS: Final[dict[str, Element]] = {
    "R1-item-missing": guessed(compact(entry(item=...)), "$[1].item is missing", item=None),
    "R2-id-missing": quarantined(compact(entry(id=...)), "has no id"),
    **{
        f"R3-attempts-{name}": guessed(spelled(attempts=token), "$[1].attempts is no count", attempts=0)
        for name, token in {
            "null": "null",
            "word": '"abc"',
            "empty-text": '""',
            "array": "[]",
            "array-of-5": "[5]",
            "object": "{}",
        }.items()
    },
    "R3-attempts-1e400": damaged(spelled(attempts="1e400"), "infinite"),
    "R4-attempts-missing": guessed(compact(entry(attempts=...)), "$[1].attempts is missing", attempts=0),
    "R5-attempts-digits": guessed(spelled(attempts='"2"'), "$[1].attempts is no count", attempts=2),
    "R5-attempts-true": guessed(spelled(attempts="true"), "$[1].attempts is no count", attempts=0),
    "R5-attempts-fraction": guessed(spelled(attempts="1.5"), "$[1].attempts is no count", attempts=1),
    "R5-attempts-negative": guessed(spelled(attempts="-3"), "$[1].attempts is no count", attempts=0),
    **{
        f"R6-enqueuedAt-{name}": guessed(spelled(enqueuedAt=token), "$[1].enqueuedAt is no number", enqueuedAt=0)
        for name, token in {"null": "null", "iso-date": '"2026-01-01T00:00:00Z"', "array": "[]"}.items()
    },
    "R6-enqueuedAt-1e400": damaged(spelled(enqueuedAt="1e400"), "infinite"),
    "R6-enqueuedAt-NaN": damaged(spelled(enqueuedAt="NaN"), "NaN"),
    "R7-enqueuedAt-missing": guessed(compact(entry(enqueuedAt=...)), "$[1].enqueuedAt is missing", enqueuedAt=0),
    "R7-enqueuedAt-fraction": clean(spelled(enqueuedAt="1700000000000.75"), enqueuedAt=1700000000000.75),
    "R7-enqueuedAt-2.0": clean(spelled(enqueuedAt="2.0"), spelled(enqueuedAt="2"), enqueuedAt=2),
    "R7-enqueuedAt-digits": guessed(
        spelled(enqueuedAt='"1700000000000"'), "$[1].enqueuedAt is no number", enqueuedAt=1700000000000
    ),
    **{
        f"R7-enqueuedAt-{name}": guessed(spelled(enqueuedAt=token), "$[1].enqueuedAt is no number", enqueuedAt=0)
        for name, token in {"false": "false", "spaces": '" 12 "', "underscore": '"1_000"'}.items()
    },
    "R8-status-missing": guessed(compact(entry(status=...)), "$[1].status is missing", status="queued"),
    **{
        f"R9-status-{status or 'empty'}": guessed(
            compact(entry(status=status)), "$[1].status is unknown: kept", status=status
        )
        for status in ("", "Queued", "paused", "sent")
    },
    **{
        f"R9-status-{name}": guessed(
            compact(entry(status=status)), "$[1].status is unknown: kept", closed=False, status=status
        )
        for name, status in {"null": None, "number": 1, "array": ["queued"]}.items()
    },
    # A number is a double: what was 2.0 reads as 2 from the first moment, as it will after it was written.
    "R9-status-double": Element(
        spelled(status="2.0"), (entry(status=2),), spelled(status="2"), "$[1].status is unknown: kept", closed=False
    ),
    "R9-status-lone-surrogate": Element(
        spelled(status='"\\uD800"'),
        (entry(status="\ud800"),),
        spelled(status='"\\ud800"'),
        "$[1].status is unknown: kept",
    ),
    # The clock's present: nobody knows when the claimer went.
    "R10-status-sending": clean(
        compact(entry(status="sending")), compact(entry(maybeSent=1_700_000_000_000)), maybeSent=1_700_000_000_000
    ),
    "R10-status-sending-maybeSent": clean(
        compact(entry(status="sending", maybeSent=7)), compact(entry(maybeSent=7)), maybeSent=7
    ),
    # Whoever claimed it is gone, and whoever tried it since did not know the key: the newer item takes its place.
    **{
        f"R11-replacement-{status}": Element(
            compact(entry(status=status, attempts=2, replacement={"item": {"b": 1}, "enqueuedAt": 7}, meta=1)),
            (entry(item={"b": 1}, enqueuedAt=7, **marks, meta=1),),
            compact(entry(item={"b": 1}, enqueuedAt=7, **marks, meta=1)),
            "",
        )
        for status, marks in (("sending", {"maybeSent": 1_700_000_000_000}), ("queued", {}), ("failed", {}))
    },
    "R11-replacement-unknown-status": Element(
        compact(entry(status="paused", replacement={"item": 2, "enqueuedAt": 7})),
        (entry(status="paused", replacement={"item": 2, "enqueuedAt": 7}),),
        compact(entry(status="paused", replacement={"item": 2, "enqueuedAt": 7})),
        "$[1].status is unknown: kept",
    ),
    "R11-replacement-in-a-form-that-is-not-ours": clean(
        compact(entry(replacement={"item": 2, "enqueuedAt": "7"})), replacement={"item": 2, "enqueuedAt": "7"}
    ),
    "R11-unknown-keys": clean(
        compact(entry(zeta=[1, {"a": None}], nextAttemptAt="soon", meta={"b": 1, "a": 2}, __proto__={"x": 1})),
        zeta=[1, {"a": None}],
        nextAttemptAt="soon",
        meta={"b": 1, "a": 2},
        __proto__={"x": 1},
    ),
    "R11-our-own-keys": clean(
        compact(entry(maybeSent=1, nextAttemptAt=2, lastError={"type": "E", "message": "m", "at": 3}, meta=1)),
        maybeSent=1,
        nextAttemptAt=2,
        lastError={"type": "E", "message": "m", "at": 3},
        meta=1,
    ),
    "R11-our-own-keys-in-a-form-that-is-not-ours": clean(
        compact(entry(maybeSent=True, nextAttemptAt=-1, lastError={"type": "E", "message": "m", "at": 3, "more": 4})),
        maybeSent=True,
        nextAttemptAt=-1,
        lastError={"type": "E", "message": "m", "at": 3, "more": 4},
    ),
    "R11-unknown-key-lone-surrogate": Element(
        compact(PLAIN)[:-1] + ',"\\ud800":["\\udfff"],"":{}}',
        ({**PLAIN, "\ud800": ["\udfff"], "": {}},),
        compact(PLAIN)[:-1] + ',"\\ud800":["\\udfff"],"":{}}',
        "",
    ),
    "R12-order-of-keys": clean(compact(dict(reversed(PLAIN.items()))), compact(PLAIN)),
    "R13-null": quarantined("null", "is no object"),
    **{
        f"R14-{name}": quarantined(token, "is no object")
        for name, token in {"number": "1", "text": '"x"', "true": "true", "array": "[]", "pair": '["x", 2]'}.items()
    },
    "R14-object": quarantined("{ }", "has no id"),
    "R15-one-id-twice": Element(
        f"{numbered('x')},{compact(entry(item=2))}",
        (entry(), entry(item=2)),
        f"{numbered('x')},{compact(entry(item=2))}",
        "id 'x' stands 2 times",
    ),
    "R16-id-twice": clean(spelled(id='"first","id":"x"'), compact(PLAIN)),
    "R16-key-twice-in-item": clean(
        spelled(item='{"a":1,"b":2,"a":3}'), spelled(item='{"a":3,"b":2}'), item={"a": 3, "b": 2}
    ),
    "R17-id-number": kept("7"),
    "R17-id-null": kept("null"),
    "R17-id-object": kept('{"x":1}'),
    "R18-ids-1.0-and-1": kept("1.0", "1"),
    "R18-ids-true-and-1": kept("true", "1"),
    "R19-ids-past-2-53": kept("9007199254740992", "9007199254740993"),
    "R20-ids-that-look-alike": Element(
        ",".join(numbered(id) for id in ("", NFC, NFD, " x", "x", "__proto__")) + "," + spelled(id='"x\\u0000"'),
        tuple(entry(id=id) for id in ("", NFC, NFD, " x", "x", "__proto__", "x\0")),
        ",".join(numbered(id) for id in ("", NFC, NFD, " x", "x", "__proto__")) + "," + spelled(id='"x\\u0000"'),
        "",
    ),
    "R20-id-lone-surrogate": clean(spelled(id='"\\uD83D"'), spelled(id='"\\ud83d"'), id="\ud83d"),
    **{
        f"R21-{token}": damaged(spelled(item=f'{{"a":[{token}]}}'), "not JSON")
        for token in ("NaN", "Infinity", "-Infinity")
    },
    **{f"R22-{token}": damaged(spelled(item=token), "infinite") for token in ("1e400", "-1e400", "[0,1E+999]")},
    **{
        f"R23-{value}": clean(spelled(item=str(value)), item=value, keeps=False)
        for value in (2**53 + 1, -(2**53) - 1, 1234567890123456789, BIG)
    },
    "R23-as-JavaScript-spells-it": clean(spelled(item="10000000000000000"), item=1e16),
    "R24-400-digits": clean(spelled(item="7" * 400), item=int("7" * 400), keeps=False),
    "R24-5000-digits": damaged(spelled(item="7" * 5000), "4,300 digits"),
    "R24-attempts-past-2-53": guessed(spelled(attempts=str(2**60)), "$[1].attempts is no count", attempts=2**53 - 1),
    "R24-attempts-of-400-digits": guessed(spelled(attempts="7" * 400), "$[1].attempts is no count", attempts=2**53 - 1),
    "R24-attempts-1e300": guessed(spelled(attempts="1e300"), "$[1].attempts is no count", attempts=2**53 - 1),
    "R24-enqueuedAt-of-20-digits": Element(
        spelled(enqueuedAt=str(BIG)),
        (entry(enqueuedAt=float(BIG)),),
        spelled(enqueuedAt="12345678901234567000"),
        "$[1].enqueuedAt is no instant",
    ),
    "R24-enqueuedAt-of-400-digits": guessed(
        spelled(enqueuedAt="7" * 400), "$[1].enqueuedAt is no instant", enqueuedAt=0
    ),
    **{
        f"R25-{token}": clean(spelled(item=token), spelled(item=str(value)), item=value)
        for token, value in {"1.0": 1, "1E5": 100000, "-0": 0, "-0.0": 0}.items()
    },
    "R26-more-digits-than-a-double": clean(
        spelled(item="[0.30000000000000004441,5e-324,1e-400,1e21,1e308]"),
        spelled(item="[0.30000000000000004,5e-324,0,1e+21,1e+308]"),
        item=[0.30000000000000004, 5e-324, 0, 1e21, 1e308],
    ),
    "R27-integer-like-keys": clean(spelled(item='{"b":0,"10":1,"2":2}'), item={"b": 0, "10": 1, "2": 2}, keeps=False),
    "R28-keys-javascript-knows": clean(
        spelled(item='{"__proto__":1,"constructor":2,"toJSON":"x","":3}'),
        item={"__proto__": 1, "constructor": 2, "toJSON": "x", "": 3},
    ),
    "R29-strings": clean(
        spelled(item='["\\ud800","\\u0000","\u2028\u2029","a\ufeffb","\x7f","\U0001f427"]'),
        item=["\ud800", "\0", "\u2028\u2029", "a\ufeffb", "\x7f", "\U0001f427"],
    ),
    "R29-escapes-that-nobody-needs": clean(
        spelled(item='["\\/","\\u00e9","\\uD83D\\uDC27","\\uDEAD"]'),
        spelled(item='["/","\u00e9","\U0001f427","\\udead"]'),
        item=["/", "\u00e9", "\U0001f427", "\udead"],
    ),
}

ONE, TWO = numbered("one"), numbered("two")


def between(middle: str) -> str:
    return f"[{ONE},{middle},{TWO}]"


@dataclass(frozen=True)
class Whole:
    """A stored text that is no JSON array in UTF-8, and the ids of the entries that are found in it."""

    text: str | bytes
    found: tuple[str, ...] = ("one", "two")


WHOLES: Final[dict[str, Whole]] = {
    "R30-bad-escape": Whole(between(spelled(item=r'"\x41"'))),
    "R30-raw-control-character": Whole(between(spelled(item='"a\tb"')), ("one", "x", "two")),
    "R30-comment": Whole(f"[{ONE},/* said the other */{TWO}]"),
    "R30-trailing-comma": Whole(f"[{ONE},{TWO},]"),
    "R30-missing-comma": Whole(f"[{ONE} {TWO}]"),
    "R30-single-quotes": Whole(between("{'id':'x'}")),
    "R30-no-break-space": Whole(f"[{ONE},\u00a0{TWO}]"),
    "R30-trailing-text": Whole(f"[{ONE},{TWO}]\nEOF"),
    "R30-trailing-NULs": Whole(f"[{ONE},{TWO}]" + "\0" * 512),
    "R30-leading-NULs": Whole("\0" * 512 + f"{TWO}]", ("two",)),
    "R30-two-documents": Whole(f"[{ONE}][{TWO}]"),
    "R30-truncated-in-an-entry": Whole(f"[{ONE},{TWO},{numbered('x')[:40]}"),
    "R30-truncated-behind-an-entry": Whole(f"[{ONE},{TWO}"),
    "R30-truncated-to-a-bracket": Whole("[", ()),
    "R30-all-NUL": Whole("\0" * 4096, ()),
    "R30-byte-order-mark": Whole(f"\ufeff[{ONE},{TWO}]"),
    "R30-UTF-16": Whole(f"[{ONE},{TWO}]".encode("utf-16"), ()),
    "R30-no-JSON-at-all": Whole("<html>404</html>", ()),
    "R33-latin-1": Whole(between(spelled(item='"Zürich"')).encode("latin-1")),
    "R33-byte-between-entries": Whole(f"[{ONE},\udcff{TWO}]".encode("utf-8", "surrogateescape")),
    "R33-cut-in-a-character": Whole(f'[{ONE},{TWO},{{"id":"x","item":"€'.encode()[:-1]),
    "R33-surrogate-in-UTF-8": Whole(between(spelled(id='"\ud800"')).encode("utf-8", "surrogatepass")),
}

NO_ARRAYS: Final = {
    "R31-envelope": f'{{"v":2,"entries":[{ONE}]}}',
    "R31-entry": ONE,
    "R31-empty-object": " {} ",
    "R31-text": '"[]"',
    "R31-number": "7",
    "R31-true": "true",
    "R31-null": "null\n",
}

HARMLESS: Final = {
    "R32-empty-text": ("", ()),
    "R32-white-space-alone": (" \r\n\t", ()),
    "R32-empty-array": ("[]", ()),
    "R32-space-in-an-empty-array": ("\r\n[ ]\r\n", ()),
    "R32-CRLF-and-space-around": (f"\r\n [\r\n {ONE} ,\t{TWO}\r\n]\r\n", ("one", "two")),
}
