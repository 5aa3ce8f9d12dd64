"""How the demo reads a CSV, what a cell becomes, and how a server's records are held against the file."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from starfish_outbox.demo.survey import (
    PENGUIN_ID,
    Survey,
    SurveyError,
    Value,
    compare,
    item,
    penguins,
    read_survey,
    value,
)
from starfish_outbox.jsontext import decode, encode_item


def survey_of(tmp_path: Path, text: str | bytes, id: str = "id") -> Survey:
    path = tmp_path / "survey.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_survey(path, id)


def test_the_penguins_are_344_observations_that_two_columns_name() -> None:
    survey = read_survey(penguins(), PENGUIN_ID)
    assert len(survey.observations) == 344
    assert survey.repeats == []
    assert len(survey.columns) == 17
    first = item(survey.observations[0])
    assert survey.observations[0].id == "PAL0708/N1A1"
    assert first["Culmen Length (mm)"] == 39.1
    assert first["Body Mass (g)"] == 3750
    assert first["Delta 15 N (o/oo)"] is None
    assert first["Stage"] == "Adult, 1 Egg Stage"
    kinds = {type(item(one)["Delta 15 N (o/oo)"]) for one in survey.observations}
    assert kinds == {float, type(None)}  # "8.3945900000000009" among them


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("", None),
        ("NA", None),
        ("na", "na"),
        (" NA", " NA"),
        ("0", 0),
        ("3750", 3750),
        ("-7", -7),
        ("39.1", 39.1),
        ("-25.32426", -25.32426),
        ("0.5", 0.5),
        ("8.3945900000000009", 8.39459000000000),
        ("9007199254740991", 9007199254740991),
        ("9007199254740992", "9007199254740992"),
        ("12345678901234567890", "12345678901234567890"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("007", "007"),
        ("1.50", "1.50"),
        ("1.0", "1.0"),
        ("-0", "-0"),
        ("-0.0", "-0.0"),
        (".5", ".5"),
        ("5.", "5."),
        ("+5", "+5"),
        ("1e3", "1e3"),
        ("1_000", "1_000"),
        ("0.00001", "0.00001"),
        (" 5", " 5"),
        ("５", "５"),
        ("٣", "٣"),
        ("NaN", "NaN"),
        ("inf", "inf"),
        ("TRUE", "TRUE"),
        ("2024-05-01", "2024-05-01"),
        ("line\nbreak", "line\nbreak"),
    ],
)
def test_a_cell_becomes_a_number_only_where_the_number_says_no_less(cell: str, expected: Value) -> None:
    got = value(cell)
    assert type(got) is type(expected)
    assert got == pytest.approx(expected, abs=1e-15) if isinstance(expected, float) else got == expected


def test_other_marks_replace_na_and_an_empty_cell_is_always_nothing() -> None:
    assert [value(cell, ["-999", "n/a"]) for cell in ("-999", "n/a", "", "NA")] == [None, None, None, "NA"]
    assert [value(cell, []) for cell in ("NA", "")] == ["NA", None]


@given(st.one_of(st.text(), st.from_regex(r"-?[0-9]{1,19}(\.[0-9]{1,20})?", fullmatch=True), st.floats().map(repr)))
def test_the_stored_json_of_any_cell_still_tells_the_cell(cell: str) -> None:
    got = value(cell)
    try:
        stored = decode(encode_item(got))
    except ValueError:  # a lone surrogate, which no file in UTF-8 has
        assert any(0xD800 <= ord(char) <= 0xDFFF for char in cell)
        return
    if stored is None:
        assert cell in ("", "NA")
    elif isinstance(stored, str):
        assert stored == cell
    else:
        assert math.isfinite(stored)
        assert json.loads(cell) == stored  # the cell is the number's own JSON, to the last bit


def test_rows_that_repeat_an_id_are_kept_and_named(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, "id,x\na,1\nb,2\na,1\na,3\n")
    assert [one.id for one in survey.observations] == ["a", "b", "a", "a"]
    assert [(r.line, r.first_line, r.id, r.same) for r in survey.repeats] == [(4, 2, "a", True), (5, 2, "a", False)]


def test_several_columns_make_one_id_that_no_other_cells_can_make(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, 'p,q,x\n"a/b",c,1\na,"b/c",2\na%2Fb,c,3\n,c,4\n', "p,q")
    ids = [one.id for one in survey.observations]
    assert ids == ["a%2Fb/c", "a/b%2Fc", "a%252Fb/c", "/c"]
    assert survey.repeats == []


@pytest.mark.parametrize("id", ["Individual ID,studyName", "studyName, Individual ID", '"Individual ID",studyName'])
def test_id_columns_are_named_with_commas_between_them(id: str) -> None:
    assert read_survey(penguins(), id).repeats == []


def test_a_column_with_a_comma_in_its_name_can_be_the_id(tmp_path: Path) -> None:
    text = '"site, plot",q\na,b\nc,d\n'
    assert [one.id for one in survey_of(tmp_path, text, "site, plot").observations] == ["a", "c"]
    assert [one.id for one in survey_of(tmp_path, text, 'q,"site, plot"').observations] == ["b/a", "d/c"]


def test_a_byte_order_mark_other_line_ends_and_empty_rows_are_no_trouble(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, '\ufeffid,note\r\na,"two\r\nlines"\r\n\r\n,\r\nb,x')
    assert survey.columns == ["id", "note"]
    assert [(one.line, one.id, one.cells["note"]) for one in survey.observations] == [
        (3, "a", "two\r\nlines"),
        (6, "b", "x"),
    ]


@pytest.mark.parametrize(
    ("text", "id", "words"),
    [
        (b"", "id", "is empty"),
        (b"\n\n", "id", "is empty"),
        (b"id,x\n", "id", "has no rows"),
        (b"id,x\n,\n", "id", "has no rows"),
        (b"id,x\na,1\n", "nest", r"has no column 'nest'; it has 'id', 'x'"),
        (b"id,x\na,1\n", "id,nest,plot", r"has no column 'nest', 'plot'"),
        (b"id,x\na,1\n", "", "has no column ''"),
        (b"id;x\na;1\n", "id", "separated by something else"),
        (b"id\tx\na\t1\n", "id", "separated by something else"),
        (b"id,x,id,y,x\na,1,2,3,4\n", "id", r"more than one column named 'id', 'x'"),
        (b"id,x\na,1\nb,2,3\n", "id", r"line 3: 3 cells where the first line names 2 columns"),
        (b"id,x\na,1\nb\n", "id", r"line 3: 1 cells"),
        (b"id,x\na,1\n,2\n", "id", r"line 3: nothing in 'id'"),
        (b'id,x\na,"1\nb,2\n', "id", r"line 3"),
        (b'id,x\na,"1"2\n', "id", r"line 2"),
        (b"id,x\na," + b"x" * (1 << 21) + b"\n", "id", "field larger than field limit"),
        (b"id,x\na,1\nb,K\xfcken\n", "id", r"not UTF-8 \(line 3, byte 0xfc\)"),
        ("id,x\na,1\n".encode("utf-16"), "id", r"not UTF-8 \(line 1, byte 0xff\)"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_to_be_so(tmp_path: Path, text: bytes, id: str, words: str) -> None:
    with pytest.raises(SurveyError, match=words) as caught:
        survey_of(tmp_path, text, id)
    assert "survey.csv" in str(caught.value)


def test_a_file_that_is_not_there_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(SurveyError, match=r"nowhere\.csv cannot be read: No such file"):
        read_survey(tmp_path / "nowhere.csv", "id")
    with pytest.raises(SurveyError, match="is a directory"):
        read_survey(tmp_path, "id")


def test_the_limit_of_the_csv_module_is_as_before_afterwards(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    survey_of(tmp_path, "id,x\na," + "x" * 500_000 + "\n")
    assert csv.field_size_limit() == before


@pytest.fixture
def small(tmp_path: Path) -> tuple[Survey, dict[str, Any]]:
    """A survey and the records that agree with it."""
    survey = survey_of(tmp_path, "id,mass,note,where\na,3750,ok,NA\nb,39.1,,x\na,1,second,y\n")
    records: dict[str, Any] = {
        "a": {"id": "a", "mass": 3750, "note": "ok", "where": None},
        "b": {"id": "b", "mass": 39.1, "note": None, "where": "x"},
    }
    return survey, records


def test_records_that_agree_are_counted_cell_by_cell(small: tuple[Survey, dict[str, Any]]) -> None:
    survey, records = small
    found = compare(survey, records)
    assert (found.cells, found.differing, found.missing, found.unexpected) == (8, 0, 0, 0)
    assert found.agrees


@pytest.mark.parametrize(
    ("id", "column", "wrong"),
    [
        ("a", "mass", 3751),
        ("a", "mass", 3750.5),
        ("a", "mass", "3751"),
        ("a", "mass", None),
        ("a", "mass", [3750]),
        ("b", "mass", 39.10000000000001),
        ("a", "note", "OK"),
        ("a", "note", None),
        ("a", "note", True),
        ("a", "where", "NA"),
        ("a", "where", ""),
        ("b", "note", ""),
        ("b", "id", "a"),
    ],
)
def test_one_wrong_cell_is_found_and_shown(
    small: tuple[Survey, dict[str, Any]], id: str, column: str, wrong: object
) -> None:
    survey, records = small
    records[id][column] = wrong
    found = compare(survey, records)
    assert not found.agrees
    assert (found.differing, found.missing, found.unexpected) == (1, 0, 0)
    assert f"id {id!r}, {column!r}: " in found.examples[0]


def test_missing_and_unexpected_records_and_columns_are_found(small: tuple[Survey, dict[str, Any]]) -> None:
    survey, records = small
    records["c"] = {}
    records["a"]["extra"] = 1
    del records["a"]["note"]
    records["b"] = "not an object"
    found = compare(survey, records)
    assert (found.differing, found.missing, found.unexpected) == (2, 1, 1)
    assert not found.agrees


def test_only_a_few_differences_are_put_into_words(tmp_path: Path) -> None:
    rows = io.StringIO()
    csv.writer(rows).writerows([["id"], *([str(n)] for n in range(100))])
    found = compare(survey_of(tmp_path, rows.getvalue()), {}, most_examples=3)
    assert found.missing == 100
    assert len(found.examples) == 3


def test_the_marks_count_in_the_comparison_as_they_did_in_the_items(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, "id,x\na,-999\nb,NA\n")
    marks = ["-999"]
    records = {one.id: dict(item(one, marks)) for one in survey.observations}
    assert records == {"a": {"id": "a", "x": None}, "b": {"id": "b", "x": "NA"}}
    assert compare(survey, records, marks).agrees
    assert not compare(survey, records).agrees
