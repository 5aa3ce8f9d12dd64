"""What each rule is about, and what each program makes of a text that breaks it.

The numbers are those of schema/README.md. What the published packages do was measured by running them: Python 3.0.0a72
and TypeScript 3.0.0-alpha.62. A rule that they treat differently by what stands there has one line for each kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Level: TypeAlias = Literal["error", "warning"]

PROGRAMS: Final = ("this package", "Python 3.0.0a72", "TypeScript 3.0.0-alpha.62")
"""Whose doings a rule tells, in the order of its fields."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        level: ``error`` where an entry is lost, repeated, stranded or silently changed by somebody, or the text is not
            what the reader form of the schema allows; ``warning`` where a value only comes back in another form.
        about: what is wrong, in a few words.
        here: what this package does.
        python: what the published Python package does.
        typescript: what the published TypeScript package does.
    """

    level: Level
    about: str
    here: str
    python: str
    typescript: str

    @property
    def consequences(self) -> tuple[tuple[str, str], ...]:
        """Each program and what it does."""
        return tuple(zip(PROGRAMS, (self.here, self.python, self.typescript), strict=True))


_LOST: Final = "loses the whole queue: reads it as empty, and its next write replaces it"
_BOTH_LOSE: Final = (_LOST, _LOST)
_ASIDE: Final = "sets this element aside, keeps the others, and says so"
_TEXT_ASIDE: Final = "sets the whole text aside, goes on with every entry that stands whole in it, and says so"
_ZERO: Final = "reads 0 and says so"
_AS_IT_IS: Final = "keeps it as it is"
_SAME_ORDER: Final = "keeps the order"

RULES: Final[dict[str, Rule]] = {
    "r01": Rule(
        "error",
        "an entry without an item",
        "reads null, says so, and writes null",
        _LOST,
        "sends it with the item undefined, and writes it back without one",
    ),
    "r02": Rule("error", "an entry without an id", _ASIDE, _LOST, "sends it with the id undefined"),
    "r03 null": Rule("error", "attempts is no count", _ZERO, _LOST, "counts from 0"),
    "r03 empty": Rule(
        "error", "attempts is no count", _ZERO, _LOST, 'adds to it as text: "11" after two, and parks it'
    ),
    "r03 list": Rule("error", "attempts is no count", _ZERO, _LOST, 'adds to it as text: "51", and parks it at once'),
    "r03 text": Rule("error", "attempts is no count", _ZERO, _LOST, "never parks it: a failing send goes on for ever"),
    "r03 infinite": Rule(
        "error",
        "attempts is no count",
        _TEXT_ASIDE,
        _LOST,
        "parks it at the first failure, and writes null, over which Python loses the queue",
    ),
    "r04": Rule(
        "error",
        "an entry without attempts",
        _ZERO,
        "reads 0",
        "never parks it: a failing send goes on for ever; it writes null, over which Python loses the queue",
    ),
    "r05 digits": Rule(
        "error",
        "attempts is text, not a number",
        "reads the number and says so",
        "reads the number",
        'adds to it as text: "2" becomes "21", and it is parked at once',
    ),
    "r05 boolean": Rule("error", "attempts is true or false", _ZERO, "reads 1 or 0", "counts from 1 or 0"),
    "r05 fraction": Rule(
        "error", "attempts is a fraction", "reads the whole part and says so", "reads the whole part", "adds to it"
    ),
    "r05 negative": Rule("error", "attempts is negative", _ZERO, "grants extra tries", "grants extra tries"),
    "r06": Rule("error", "enqueuedAt is no number", _ZERO, _LOST, _AS_IT_IS),
    "r06 infinite": Rule(
        "error", "enqueuedAt is no number", _TEXT_ASIDE, _LOST, "writes null, over which Python loses the queue"
    ),
    "r07 missing": Rule("error", "an entry without enqueuedAt", _ZERO, "reads 0", "goes on without it"),
    "r07 false": Rule("error", "enqueuedAt is true or false", _ZERO, "reads 1 or 0", _AS_IT_IS),
    "r07 digits": Rule(
        "error", "enqueuedAt is text, not a number", "reads the number and says so", "reads the number", _AS_IT_IS
    ),
    "r07 fraction": Rule("warning", "enqueuedAt is a fraction", _AS_IT_IS, "cuts it to a whole number", _AS_IT_IS),
    "r08": Rule(
        "error", "an entry without a status", 'reads "queued" and says so', 'reads "queued", sends it', "never sends it"
    ),
    "r09": Rule(
        "error",
        "a status that is no text",
        "keeps it, never sends it, and says so; retry puts it back",
        "keeps it and never sends it",
        "keeps it and never sends it",
    ),
    "r09 unknown": Rule(
        "warning",
        "a status that none of the programs knows",
        "keeps it, never sends it, and says so; retry puts it back",
        "keeps it and never sends it",
        "keeps it and never sends it",
    ),
    "r11": Rule(
        "warning",
        "a key of another program, or one of ours with a value of another kind",
        "keeps it, in its place among the unknown keys",
        "drops it with its next write",
        _AS_IT_IS,
    ),
    "r13": Rule(
        "error",
        "null in place of an entry",
        _ASIDE,
        _LOST,
        "cannot open the queue, and goes on with the entries of whoever was there before, under this key",
    ),
    "r14": Rule("error", "an element that is no entry", _ASIDE, _LOST, "keeps it, never sends it, writes it back"),
    "r15": Rule(
        "error",
        "one id in two entries",
        "keeps and sends both; what is asked by id acts on the first",
        "sends the first, then removes both",
        "sends the first, then removes both",
    ),
    "r16": Rule("warning", "one key twice in an object", "reads the last", "reads the last", "reads the last"),
    "r17": Rule(
        "error",
        "an id that is no text",
        "keeps it in the text, never sends it, and says so",
        "sends it with that id",
        "sends it with that id",
    ),
    "r18": Rule(
        "error",
        "two ids that are equal in Python and not in JavaScript",
        "keeps both in the text, never sends them, and says so",
        "sends one, then removes both",
        "sends both",
    ),
    "r19": Rule(
        "error",
        "two ids that are equal in JavaScript and not in Python",
        "keeps both in the text, never sends them, and says so",
        "sends both",
        "sends one, then removes both",
    ),
    "r20": Rule(
        "warning",
        "an id that is empty, or holds half a surrogate pair",
        "keeps and sends it; enqueue would refuse it",
        "keeps and sends it",
        "keeps and sends it",
    ),
    "r21": Rule("error", "NaN or Infinity", _TEXT_ASIDE, "reads it and writes it again", _LOST),
    "r22": Rule(
        "error",
        "a number that no double holds",
        _TEXT_ASIDE,
        "reads infinity and writes Infinity, over which TypeScript loses the queue",
        "reads Infinity and writes null",
    ),
    "r23": Rule(
        "error",
        "an integer that no double holds exactly",
        "keeps its digits; enqueue would refuse it",
        "keeps its digits",
        "rounds it, and writes the rounded number back",
    ),
    "r24": Rule(
        "error",
        "an integer that is infinite as a double",
        "keeps up to 4,300 digits; with more it sets the whole text aside and goes on with the other entries",
        "keeps up to 4,300 digits; with more it loses the whole queue",
        "reads Infinity and writes null",
    ),
    "r25": Rule(
        "warning",
        "a whole number spelled with a point, an exponent or as minus zero",
        "writes it as a whole number with its next write",
        "keeps it a float (-0 becomes 0)",
        "writes it as a whole number",
    ),
    "r26": Rule(
        "warning",
        "more digits than a double holds",
        "reads the nearest double",
        "reads the nearest double",
        "reads the nearest double",
    ),
    "r27": Rule(
        "warning",
        "keys that look like array indices",
        _SAME_ORDER,
        _SAME_ORDER,
        "moves them to the front, in ascending order, when it writes",
    ),
    "r29": Rule(
        "warning",
        "half a surrogate pair",
        "keeps it, escaped; enqueue would refuse it, since many servers choke on it",
        "keeps it",
        "keeps it",
    ),
    "r30": Rule("error", "no JSON in UTF-8", _TEXT_ASIDE, *_BOTH_LOSE),
    "r31": Rule(
        "error",
        "JSON, but no array",
        "refuses to open it, and leaves it untouched: it may be a newer format",
        *_BOTH_LOSE,
    ),
    "r33": Rule("error", "bytes that are no UTF-8", _TEXT_ASIDE, _LOST, "reads and writes U+FFFD in their place"),
    "r34": Rule(
        "error",
        "an item of more than 128 levels",
        "keeps and sends it; enqueue would refuse it",
        "loses the whole queue beyond a depth of 490 to 9,998, which depends on its version and its caller",
        "keeps it; beyond 4,103 levels it can write nothing any more",
    ),
    "r35 item": Rule(
        "warning",
        "an item of more than 1 MiB",
        "keeps and sends it; enqueue would refuse it",
        "keeps it, and writes it anew with every change",
        "keeps it, and writes it anew with every change",
    ),
    "r35 text": Rule(
        "error",
        "a text of more than 536,870,888 UTF-16 units",
        "reads it, and refuses to write so much into a file",
        "keeps it",
        "reads it as empty, and its next write replaces it",
    ),
    "db file": Rule(
        "error",
        "a damaged database",
        "sets the file aside, saves every row that can be read into a new one, and says so",
        "reads no databases",
        "reads no databases",
    ),
    "db row": Rule(
        "error",
        "a row that does not match its checksum",
        "sets this row aside, keeps the others, and says so",
        "reads no databases",
        "reads no databases",
    ),
}
"""Every rule by its number and, where programs tell kinds apart, the kind."""
