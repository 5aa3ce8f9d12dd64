"""The example of a driver in a third language: ``interop/drivers/example.pl`` and the small outbox that it drives."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox.conformance.driver import Driver, Hello
from starfish_outbox.conformance.relay import relay
from starfish_outbox.conformance.sequences import Tally, compare, random_steps
from tests.interop import INTEROP, divergences, protocol_rules, python_driver, typescript_driver
from tests.reporting import report

EXAMPLE = INTEROP / "drivers/example.pl"
OUTBOX = EXAMPLE.with_name("Outbox.pm")
SEED = int(os.environ.get("STARFISH_SEED") or 0)
UNROUNDED = "9007199254740993"
BUGS = {
    "one attempt more than allowed": (">= $most", "> $most"),
    "markFailed counts no attempt": ("fail(0, named($id))", 'mark("failed", named($id))'),
    "a claim outlives its process": ('s/^"sending"$/"queued"/', 's/^"sending"$/"sending"/'),
    "a ts of 0 is taken for none": ("$at //", "$at ||"),
    "unknown keys are dropped": ("names => [pairkeys @parts]", "names => [(pairkeys @parts)[0 .. 4]]"),
}


def example(path: Path = EXAMPLE, **options: Any) -> Driver:
    perl = shutil.which("perl")
    assert perl, "these tests need Perl 5.20 or newer"
    return Driver([perl, str(path)], **options)


@pytest.fixture(scope="module")
def typescript() -> Iterator[Driver]:
    with typescript_driver() as driver:
        yield driver


def shown(tally: Tally) -> str:
    return "\n".join(map(str, [tally, *tally.differences]))


def test_it_keeps_the_protocol_in_both_directions_and_says_what_it_cannot_do() -> None:
    rules = protocol_rules()
    with example(rules=rules) as driver:
        assert driver.hello == Hello("example-perl", "1", "perl", frozenset({"memory"}))
        requests = [request for seed in range(20) for request in random_steps(seed).requests]
        requests += [{"op": "notifications"}, {"op": "text", "key": "k"}, {"op": "put", "key": "k", "text": None}]
        answers = driver.ask_many(requests)
        assert [answer.error for answer in answers] == [None] * len(requests)
        done = {request["op"] for request in requests} | {"hello", "close", "stop"}
        for unsupported in (
            driver.ask("open", store="files", path="/nowhere"),
            driver.ask("drain", outcomes={"a": ["offline"]}),
            driver.ask("gates", on=True),
        ):
            assert unsupported.error is not None
            assert unsupported.error.kind == "unsupported"
        assert rules.operations - done >= {"gates", "start", "pass"}
        driver.ask("close")
        closed = driver.ask("get").error
        assert closed is not None
        assert closed.message == "nothing is open\n"


@pytest.mark.parametrize("sequences", [100, pytest.param(5000, marks=[pytest.mark.proof, pytest.mark.timeout(1800)])])
def test_it_agrees_with_the_typescript_package_after_every_operation(sequences: int, typescript: Driver) -> None:
    with example() as driver:
        tally = compare([driver, typescript], range(SEED, SEED + sequences), divergences())
    report(str(tally), INTEROP)
    assert tally.differences == [], shown(tally)
    assert tally.sequences == sequences
    assert set(tally.declared) <= {"kept-as-spelled", "kept-unrounded"}


def test_one_queue_goes_from_hand_to_hand_between_three_languages(typescript: Driver) -> None:
    with example() as perl, python_driver() as python:
        tally = relay([perl, typescript, python], range(SEED, SEED + 40), divergences())
    report(str(tally), INTEROP)
    assert tally.differences == []
    assert tally.operations.keys() == {"example-perl", "published-typescript", "python"}
    assert tally.kept > 0


def test_each_of_its_declarations_is_needed(typescript: Driver) -> None:
    large = (seed for seed in range(10_000) if UNROUNDED in (one.get("item") for one in random_steps(seed).requests))
    seeds = {"kept-as-spelled": [0, 1, 2], "kept-unrounded": [next(large)]}
    assert seeds.keys() == {one.id for one in divergences() if one.of == "example-perl"}
    with example() as driver:
        for name, among in seeds.items():
            assert not compare([driver, typescript], among, divergences()).differences
            rest = [one for one in divergences() if one.id != name]
            assert compare([driver, typescript], among, rest, most=1).differences, f"{name} is no divergence"


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_planted_in_it_is_found(bug: str, tmp_path: Path, typescript: Driver) -> None:
    source = OUTBOX.read_text("utf-8")
    right, wrong = BUGS[bug]
    assert source.count(right) == 1
    (tmp_path / OUTBOX.name).write_text(source.replace(right, wrong), "utf-8")
    with example(Path(shutil.copy(EXAMPLE, tmp_path))) as driver:
        assert compare([driver, typescript], range(300), divergences(), most=1).differences


def test_entries_are_found_by_a_string_that_their_items_hold_and_by_nothing_else_that_looks_like_it(
    typescript: Driver,
) -> None:
    items = [
        '{"kind":"5"}',
        '{"kind":5}',
        '["kind","5"]',
        '{"a":{"kind":"5"}}',
        '{"k\\u0069nd":"\\u0035"}',
        '"kind"',
        "{}",
    ]
    with example() as driver:
        found = []
        for one in (driver, typescript):
            one.ask("open", store="memory")
            for number, item in enumerate(items):
                one.ask("enqueue", id=str(number), item=item, ts=number)
            found.append([entry["id"] for entry in json.loads(one.ask("pending", member="kind", equals="5").value)])
    assert found == [["0", "4"], ["0", "4"]]


def test_items_of_every_kind_stay_the_text_that_they_came_as() -> None:
    items = [
        '"]}\\"[{"',
        "-1.50E+2",
        "[ ]",
        '{"a" : [1,{"b":"}"}],"a\\n":""}',
        UNROUNDED,
        '["\\ud800"]',
        "[" * 900 + "]" * 900,
    ]
    with example() as driver:
        driver.ask("open", store="memory")
        driver.ask("hydrate", key="k")
        for number, item in enumerate(items):
            driver.ask("enqueue", id=str(number), item=item, ts=number)
        driver.ask("hydrate", key="k")
        text = driver.ask("get").value
    for number, item in enumerate(items):
        assert f'"item":{item},"status":"queued","attempts":0,"enqueuedAt":{number}}}' in text


def test_it_is_a_page_long_and_needs_nothing_but_perl() -> None:
    for path, longest in ((EXAMPLE, 55), (OUTBOX, 60)):
        lines = path.read_text("utf-8").splitlines()
        assert max(map(len, lines)) <= 120
        assert len([line for line in lines if line.strip() and not line.strip().startswith("#")]) <= longest
        used = {line.split()[1].rstrip(";") for line in lines if line.startswith("use ")}
        own = {"lib", "Outbox"}
        assert used - own <= {"v5.20", "warnings", "experimental", "FindBin", "JSON::PP", "List::Util"}, "all core"
