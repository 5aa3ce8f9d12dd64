"""The stored text, searched by hypothesis: any text is read, what is read is written so that it reads back the same."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings, strategies as st
from jsonschema import Draft202012Validator

from starfish_outbox import codec
from starfish_outbox.codec import NotAQueueError, Reading
from starfish_outbox.errors import ItemError
from starfish_outbox.jsontext import MAX_SAFE_INTEGER as SAFE, decode, encode_foreign
from starfish_outbox.schema import schema
from tests.reading_cases import PLAIN, compact, entry, spelled
from tests.stored_texts import NUMBERS, WORDS, any_text, array_texts, entry_texts, mutated_texts, texts, values

EXAMPLES = int(os.environ.get("OUTBOX_EXAMPLES", "200"))
often = settings(
    max_examples=EXAMPLES, deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
READER = Draft202012Validator(schema("reader"))


def written(reading: Reading) -> str:
    return codec.encode_array([codec.encode_entry(entry) for entry in reading.entries])


def read(text: str) -> Reading | None:
    """What the codec reads; None where it is JSON but no array, which is all that may be refused."""
    try:
        return codec.read(text)
    except NotAQueueError:
        assert not isinstance(decode(text), list)
        return None


@often
@given(text=any_text)
def test_any_text_is_read_or_is_json_that_is_no_array(text: str) -> None:
    reading = read(text)
    if reading is None:
        return
    event("damaged" if reading.damage else "whole")
    assert [entry.seq for entry in reading.entries] == list(range(len(reading.entries)))
    assert all(element.text in text and element.reason for element in reading.rejected)
    if reading.damage is None:
        elements = decode(text) if text.strip(" \t\r\n") else []
        assert len(reading.entries) + len(reading.rejected) == len(elements)
        strings = [
            element["id"] for element in elements if isinstance(element, dict) and isinstance(element.get("id"), str)
        ]
        assert [entry.id for entry in reading.entries if entry.id is not None] == strings


@often
@given(text=any_text)
def test_what_was_read_is_written_as_a_text_that_reads_back_the_same(text: str) -> None:
    reading = read(text)
    assume(reading is not None)
    assert reading is not None
    once = written(reading)
    again = codec.read(once)
    assert again.damage is None
    assert again.rejected == []
    assert again.entries == [replace(entry, seq=seq) for seq, entry in enumerate(reading.entries)]
    assert written(again) == once
    assert once.encode()  # no raw surrogate: any cache can hold it as UTF-8


@often
@given(text=st.lists(entry_texts(), max_size=3).map(lambda elements: f"[{','.join(elements)}]") | mutated_texts())
def test_every_entry_that_was_read_can_be_shown_and_shows_what_is_written(text: str) -> None:
    reading = read(text)
    for stored in reading.entries if reading else ():
        if stored.id is None:
            continue
        shown = codec.public(stored)
        assert encode_foreign(shown.to_dict()) == codec.encode_entry(stored)
        assert shown.from_dict(shown.to_dict()).to_dict() == shown.to_dict()


def said_beyond_the_schema(value: dict[str, Any]) -> bool:
    """What the codec remarks on in an entry that the reader form accepts: all that the two differ in.

    A status is any text to the schema; the codec says which will never be drained. Numbers are bounded by the doubles
    there; the codec says where it reads a count or an integer past 2^53-1 as something else.
    """
    at = value["enqueuedAt"]
    unknown = value["status"] not in ("queued", "sending", "failed")
    return unknown or value["attempts"] > SAFE or (isinstance(at, int) and abs(at) > SAFE)


# A good entry with one value that the codec may remark on although the schema takes it.
one_odd_value = st.one_of(
    st.sampled_from(WORDS).map(lambda token: spelled(status=token)),
    st.sampled_from(NUMBERS).map(lambda token: spelled(attempts=token)),
    st.sampled_from(NUMBERS).map(lambda token: spelled(enqueuedAt=token)),
)


def test_the_reader_form_accepts_what_is_read_without_a_word() -> None:
    seen = {"valid, silent": 0, "invalid, said": 0, "valid, said": 0}

    @settings(often, max_examples=3 * EXAMPLES)
    @given(text=entry_texts() | entry_texts() | one_odd_value | values.map(encode_foreign))
    def compare(text: str) -> None:
        reading = codec.read(f"[{text}]")
        assert reading.damage is None
        silent = not reading.notes and not reading.rejected
        value = decode(text)
        valid = READER.is_valid([value])
        assert silent == (valid and not said_beyond_the_schema(value))
        seen[f"{'valid' if valid else 'invalid'}, {'silent' if silent else 'said'}"] += 1

    compare()
    assert min(seen.values()) > EXAMPLES // 40, seen


@often
@given(text=array_texts)
def test_what_is_written_after_reading_satisfies_the_reader_form_but_for_foreign_ids_and_statuses(text: str) -> None:
    for stored in codec.read(text).entries:
        if stored.id is not None and isinstance(stored.status, str):
            READER.validate([decode(codec.encode_entry(stored))])


@pytest.mark.parametrize("token", ["1e400", "-1e400", "NaN", "Infinity", "7" * 4301])
@pytest.mark.parametrize("key", [*PLAIN, "maybeSent", "meta"])
def test_a_number_that_is_no_double_damages_the_text_wherever_it_stands(key: str, token: str) -> None:
    """The lexical rules r21, r22 and r24, which no schema sees once a parser has read the number."""
    text = compact(entry(**{key: "@"})).replace('"@"', token)
    reading = codec.read(f"[{compact(entry(id='one'))},{text}]")
    assert reading.damage is not None
    assert [entry.id for entry in reading.entries] == ["one"]


@often
@given(
    items=st.lists(values, min_size=1, max_size=4),
    which=st.integers(0, 3),
    cut=st.tuples(st.integers(0, 200), st.integers(0, 8)),
    other=st.sampled_from(['"', "\\", "{", "}", "[", "]", ",", ":", '{"', '"}', "\0", "\udcff", "NaN", ""]),
)
def test_damage_within_one_entry_costs_no_other(items: list[Any], which: int, cut: tuple[int, int], other: str) -> None:
    elements = [
        compact(entry(id=f"e{n}")).replace('"item":1', f'"item":{encode_foreign(item)}') for n, item in enumerate(items)
    ]
    which %= len(elements)
    target = elements[which]
    start = 1 + cut[0] % (len(target) - 1)
    end = min(len(target) - 1, start + cut[1])
    edited = target[:start] + other + target[end:]
    # An array left open takes in what follows: nobody can say whether that was an entry or lay in an item.
    assume(edited.count("[") - edited.count("]") <= target.count("[") - target.count("]"))
    reading = codec.read(f"[{','.join([*elements[:which], edited, *elements[which + 1 :]])}]")
    found = {stored.id: codec.encode_entry(stored) for stored in reading.entries}
    for number, text in enumerate(elements):
        if number != which:
            assert found[f"e{number}"] == text


def test_an_item_that_looks_like_an_entry_is_no_entry_when_the_one_around_it_is_damaged() -> None:
    inner = compact(entry(id="inner"))
    for outer in (f'{{"id":"outer","item":{inner},"status":"que', f'{{"id":"outer","item":[{inner}],"status":NaN}},'):
        reading = codec.read(f"[{compact(entry(id='one'))},{outer}{compact(entry(id='two'))}]")
        assert reading.damage is not None
        assert [stored.id for stored in reading.entries] == ["one", "two"]


@often
@given(text=st.none() | any_text, elements=st.lists(texts, max_size=3), more=st.lists(texts, max_size=3))
def test_a_quarantine_only_grows_whatever_stood_there(text: str | None, elements: list[str], more: list[str]) -> None:
    def add(before: str | None, texts: list[str]) -> str | None:
        return codec.add_to_quarantine(before, [codec.Rejected(text, "why") for text in texts], 5)

    first = add(text, elements)
    assert (first is None) <= (not elements or text is not None)
    if first is None:
        return
    known = json.loads(first)
    assert {element["text"] for element in known[-len(set(elements)) :]} <= set(elements)
    assert add(first, elements) is None
    second = add(first, more)
    assert json.loads(second or first)[: len(known)] == known


@often
@given(value=values)
def test_a_content_id_goes_by_what_an_item_says(value: Any) -> None:
    try:
        id = codec.content_id(value)
    except ItemError:
        event("refused")  # a lone surrogate, or an integer past 2^53-1
        return
    assert id == codec.content_id(json.loads(json.dumps(value)))
    assert len(id) == 32
    if isinstance(value, dict):
        assert id == codec.content_id(dict(reversed(value.items())))
    assert id != codec.content_id([value])
