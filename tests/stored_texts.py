"""Strategies for hypothesis: texts that may stand under a key, from what other programs store to plain damage."""

from __future__ import annotations

from hypothesis import strategies as st

from starfish_outbox.jsontext import MAX_SAFE_INTEGER as SAFE, encode_foreign
from tests.reading_cases import PLAIN


def merged(text: str) -> str:
    """Two code points that form a surrogate pair as the one character that they are in any JSON text."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


# Lone surrogates too.
texts = st.text(st.characters(exclude_categories=()), max_size=6).map(merged)
numbers = (
    st.integers(-3, 3)
    | st.integers(SAFE - 2, SAFE + 3)
    | st.integers(-5, 5).map(lambda n: n * 7 ** (n * n * 20))  # to 425 digits
    | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
NUMBERS = (
    *("0", "1", "-1", "2.0", "1e2", "-0", "-0.0", "0.5", "1E300", "1e-400", "9007199254740991", "9007199254740992"),
    *("9007199254740993", "10000000000000000", "-9007199254740993", "1700000000000.75", "7" * 400, "-" + "7" * 400),
)
WORDS = (
    '""',
    '"2"',
    '"1700000000000"',
    '" 12 "',
    '"queued"',
    '"sending"',
    '"failed"',
    '"Queued"',
    r'"\ud800"',
    r'"\u0000"',
)
ERRORS = ('{"type":"E","message":"m","at":1}', '{"type":"E","message":"m","at":1.5}')
REPLACEMENTS = (
    '{"item":[1],"enqueuedAt":2}',
    '{"enqueuedAt":-2.0,"item":{"b":1e2}}',
    '{"item":null,"enqueuedAt":1.5}',
    '{"item":0}',
    '{"item":0,"enqueuedAt":1,"id":"x"}',
)
SPELLINGS = (*NUMBERS, *WORDS, *ERRORS, *REPLACEMENTS, "null", "true", "false", "[]", "{}")
USUAL = {
    "id": WORDS,
    "status": WORDS,
    "attempts": NUMBERS,
    "enqueuedAt": NUMBERS,
    "maybeSent": NUMBERS,
    "lastError": ERRORS,
    "replacement": REPLACEMENTS,
}
KEYS = (*PLAIN, "maybeSent", "nextAttemptAt", "lastError", "replacement", "meta", "__proto__", "")


@st.composite
def entry_texts(draw: st.DrawFn) -> str:
    """The text of an entry with up to three keys missing, doubled, of other types or spelled in other ways."""
    plain = {**PLAIN, "id": draw(texts), "item": draw(values)}
    pairs = [(key, encode_foreign(value)) for key, value in plain.items()]
    for key in draw(st.lists(st.sampled_from(KEYS), min_size=draw(st.integers(0, 2)), max_size=3)):
        if draw(st.integers(0, 5)) == 0:
            pairs = [pair for pair in pairs if pair[0] != key]
        else:
            usual = st.sampled_from(USUAL.get(key, SPELLINGS))
            token = draw(usual | usual | st.sampled_from(SPELLINGS) | values.map(encode_foreign))
            pairs.insert(draw(st.integers(0, len(pairs))), (key, token))
    space = draw(st.sampled_from(["", " ", "\r\n\t"]))
    return "{" + ",".join(f"{space}{encode_foreign(key)}{space}:{token}" for key, token in pairs) + space + "}"


element_texts = entry_texts() | values.map(encode_foreign) | st.sampled_from(SPELLINGS)
array_texts = st.lists(element_texts, max_size=4).map(lambda elements: f"[{' , '.join(elements)}]")


@st.composite
def mutated_texts(draw: st.DrawFn) -> str:
    """An array after one to three edits."""
    text = draw(array_texts)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        other = draw(
            st.sampled_from(
                ['"', "\\", "{", "}", "[", "]", ",", ":", "NaN", "1e999", "\0", "\udcff", text[start:end] * 2, ""]
            )
        )
        text = text[:start] + other + text[end:]
    return text


any_text = (
    array_texts
    | mutated_texts()
    | st.text(st.characters(exclude_categories=()))
    | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape"))
    | st.text(st.sampled_from('[]{}",:\\ \n0123456789eE.-+nulltruefase\ud800\udcff'))
)
