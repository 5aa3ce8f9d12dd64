"""The driver protocol: every driver keeps it, the runner notices one that does not, and gates stop what they should."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from starfish_outbox.conformance.driver import (
    Driver,
    DriverDiedError,
    DriverTimeoutError,
    NonsenseError,
    ask_all,
)
from starfish_outbox.conformance.protocol import ProtocolRules
from starfish_outbox.conformance.sequences import random_steps
from tests.interop import (
    INTEROP,
    divergences,
    protocol_rules,
    published_driver,
    python_driver,
    typescript_driver,
)

DRIVERS: dict[str, Callable[..., Driver]] = {
    "python": python_driver,
    "published-typescript": typescript_driver,
    "published-python": published_driver,
}
GATED: list[dict[str, Any]] = [
    {"op": "open", "store": "memory"},
    {"op": "put", "key": "k", "text": '[{"id":"old","item":1,"status":"queued","attempts":0,"enqueuedAt":5}]'},
    {"op": "gates", "on": True},
    {"op": "start", "task": "hydrate", "call": {"op": "hydrate", "key": "k"}},
]


@pytest.fixture(scope="module")
def rules() -> ProtocolRules:
    return protocol_rules()


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, rules: ProtocolRules) -> Any:
    with DRIVERS[request.param](rules=rules) as started:
        assert started.name == request.param
        yield started


def test_every_driver_keeps_the_protocol_in_both_directions(driver: Driver, rules: ProtocolRules) -> None:
    """Its object holds every request and every answer against the schema; here are all operations there are."""
    requests = [request for seed in range(6) for request in random_steps(seed).requests]
    requests += [{"op": "notifications"}, {"op": "text", "key": "k"}, {"op": "put", "key": "k", "text": None}]
    requests += [
        {"op": "subscribe", "name": "a"},
        {"op": "unsubscribe", "name": "a"},
        {"op": "heard"},
        {"op": "meddle"},
    ]
    requests += [*GATED, {"op": "pass", "gate": 1}, {"op": "cancel", "task": "hydrate"}, {"op": "close"}, {"op": "get"}]
    answers = driver.ask_many(requests)
    assert {request["op"] for request in requests} | {"hello", "stop"} == rules.operations
    assert answers[-1].error is not None, "nothing is open"
    assert driver.hello.language in {"python", "typescript"}
    assert driver.hello.capabilities >= {"memory", "gates"}


def test_the_number_of_notifications_is_the_sum_of_those_that_came_with_the_answers(driver: Driver) -> None:
    answers = driver.ask_many([*random_steps(3).requests, {"op": "notifications"}])
    assert answers[-1].value == sum(answer.notified for answer in answers)
    assert answers[-1].value > 10


def test_what_a_driver_cannot_do_it_says(driver: Driver) -> None:
    driver.ask("open", store="memory")
    driver.ask("hydrate", key="k")
    driver.ask("enqueue", id="a", item="1")
    drained = driver.ask("drain", outcomes={"a": ["offline"]}, look="k")
    if "outcomes" in driver.hello.capabilities:
        assert (drained.error, drained.value["stopped"]) == (None, "offline")
    else:
        assert drained.error is not None
        assert drained.error.kind == "unsupported"
    assert json.loads(drained.text or "")[0]["status"] == "queued"


def test_gates_show_who_forgets_what_is_enqueued_while_it_hydrates(driver: Driver) -> None:
    """HAZARDS C2: the published packages write `[new]` over the stored queue; ours waits for the read."""
    *_, reading = driver.ask_many(GATED)
    assert [(gate["at"], gate["what"]) for gate in reading.value["waiting"]] == [("getItem", "k")]
    driver.ask("start", task="enqueue", call={"op": "enqueue", "id": "new", "item": "2"})
    gates = [reading.value["waiting"][0]["gate"]]
    seen: dict[str, Any] = {}
    texts = []
    while gates:
        moved = driver.ask("pass", gate=gates[0])
        gates = [gate["gate"] for gate in moved.value["waiting"]]
        seen |= {ended["task"]: ended for ended in moved.value["finished"]}
        texts.append([entry["id"] for entry in json.loads(driver.ask("text", key="k").value)])
    ids = [entry["id"] for entry in json.loads(driver.ask("get").value)]
    assert "error" not in seen.get("hydrate", {})
    if driver.name == "python":
        assert (ids, texts[-1]) == (["old", "new"], ["old", "new"])
    else:
        assert ids == ["old"], "the published packages now keep what is enqueued meanwhile: say so in HAZARDS C2"


def test_a_gate_can_fail_what_stands_at_it(driver: Driver) -> None:
    """HAZARDS C1: the published packages take a failing read for an empty queue; ours raises and stays unbound."""
    driver.ask_many(GATED)
    moved = driver.ask("pass", gate=1, fail="the disk is on fire")
    (ended,) = moved.value["finished"]
    assert (moved.value["waiting"], ended["task"]) == ([], "hydrate")
    assert driver.ask("get").value == "[]"
    assert ("error" in ended) == (driver.name == "python")
    if "error" in ended:
        assert ended["error"]["kind"] == "cache"
        assert "on fire" in ended["error"]["message"]


def test_a_send_at_a_gate_does_what_the_runner_says(driver: Driver) -> None:
    driver.ask("open", store="memory")
    driver.ask("hydrate", key="k")
    driver.ask("enqueue", id="a", item="1")
    driver.ask("gates", on=True)
    moved = driver.ask("start", task="drain", call={"op": "drain", "maxAttempts": 1})
    for _ in range(4):
        if any(gate["at"] == "send" for gate in moved.value["waiting"]):
            break
        moved = driver.ask("pass", gate=moved.value["waiting"][0]["gate"])
    (send,) = [gate for gate in moved.value["waiting"] if gate["at"] == "send"]
    assert send["what"] == "a"
    moved = driver.ask("pass", gate=send["gate"], outcome="error")
    while moved.value["waiting"]:
        ended = moved.value["finished"]
        moved = driver.ask("pass", gate=moved.value["waiting"][0]["gate"])
        moved.value["finished"][:0] = ended
    assert moved.value["finished"][0]["value"]["failed"] == 1
    assert json.loads(driver.ask("get").value)[0]["status"] == "failed"


def test_listeners_have_names_and_may_misbehave(driver: Driver) -> None:
    driver.ask("open", store="memory")
    driver.ask("subscribe", name="a", does={"subscribe": "late"})
    driver.ask("subscribe", name="b")
    driver.ask("hydrate", key="k")
    assert {"a", "b"} <= set(driver.ask("heard").value) <= {"a", "b", "late"}
    driver.ask("unsubscribe", name="b")
    driver.ask("enqueue", id="a", item="1")
    assert sorted(driver.ask("heard").value) == ["a", "late"]
    driver.ask("subscribe", name="c", does="raise")
    assert (driver.ask("enqueue", id="b", item="1").error is None) == (driver.name == "python")
    assert "c" in driver.ask("heard").value


def test_a_caller_who_meddles_with_what_it_was_given_is_played(driver: Driver) -> None:
    driver.ask("open", store="memory")
    driver.ask("hydrate", key="k")
    driver.ask("enqueue", id="a", item='{"x":1}')
    drained = driver.ask("drain", send="meddling", outcomes={"a": ["error"]})
    assert [json.loads(text)["item"] for text in drained.value["sends"]] == [{"x": 1}]
    driver.ask("meddle")
    entries = json.loads(driver.ask("get").value)
    assert [entry["item"] for entry in entries] == ([{"x": 1}] if driver.name == "python" else [])


def test_a_started_operation_can_be_cancelled_where_the_language_can(driver: Driver) -> None:
    driver.ask_many(GATED)
    moved = driver.ask("cancel", task="hydrate")
    if "cancel" in driver.hello.capabilities:
        assert moved.value["waiting"] == []
        assert [(one["task"], one["error"]["kind"]) for one in moved.value["finished"]] == [("hydrate", "cancelled")]
    else:
        assert moved.error is not None
        assert moved.error.kind == "unsupported"


def test_a_line_may_hold_what_other_programs_take_for_its_end(driver: Driver) -> None:
    item = json.dumps("\u2028\u2029\x85\x0b\x0c\x1c", ensure_ascii=False).replace("\x85", "\\u0085")
    driver.ask("open", store="memory")
    driver.ask("hydrate", key="k\u2028")
    driver.ask("enqueue", id="\u2028", item=item, ts=5, look="k\u2028")
    (entry,) = json.loads(driver.ask("text", key="k\u2028").value)
    assert (entry["id"], entry["item"]) == ("\u2028", json.loads(item))


def test_requests_and_answers_longer_than_a_pipe_holds_come_through(driver: Driver) -> None:
    item = json.dumps("x" * 700_000)
    requests: list[dict[str, Any]] = [{"op": "open", "store": "memory"}, {"op": "hydrate", "key": "k"}]
    requests += [{"op": "enqueue", "id": str(number), "item": item, "ts": 5, "look": "k"} for number in range(3)]
    (answers,) = ask_all([driver], requests)
    assert [answer.error for answer in answers] == [None] * 5
    assert len(answers[-1].text or "") > 2_100_000


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ({"n": 1, "op": "sing"}, "no operation 'sing'"),
        ({"n": 1, "op": "enqueue", "id": "a"}, "'item' is a required property"),
        ({"n": 1, "op": "enqueue", "id": "a", "item": {"x": 1}}, "is not of type 'string'"),
        ({"n": 1, "op": "hydrate", "key": 7}, "7 is not of type 'string'"),
        ({"n": 1, "op": "subscribe", "name": "a", "does": "sing"}, "'sing' is not valid under any"),
        ({"n": 1, "op": "drain", "outcomes": {"a": ["maybe"]}}, "'maybe' is not one of"),
        ({"n": 1, "op": "open", "store": "cloud"}, "'cloud' is not one of"),
        ({"n": 1, "op": "get", "loook": "k"}, "Additional properties are not allowed"),
        ({"op": "get"}, "'n' is a required property"),
    ],
)
def test_a_request_that_is_not_of_the_protocol_is_refused(
    request_: dict[str, Any], problem: str, rules: ProtocolRules
) -> None:
    assert problem in (rules.check_request(request_) or "")


@pytest.mark.parametrize(
    ("op", "answer", "problem"),
    [
        ("get", {"n": 1, "value": "[]"}, "'notified' is a required property"),
        ("get", {"n": 1, "notified": 0}, "is not valid under any of the given schemas"),
        (
            "get",
            {"n": 1, "notified": 0, "value": "[]", "error": {"kind": "other", "name": "E", "message": ""}},
            "is valid",
        ),
        ("get", {"n": 1, "notified": 0, "value": []}, "is not of type 'string'"),
        ("claim", {"n": 1, "notified": 0, "value": None}, "None is not of type 'boolean'"),
        ("drain", {"n": 1, "notified": 0, "value": {"sent": 1, "failed": 0}}, "'sends' is a required property"),
        ("get", {"n": 1, "notified": 0, "error": {"kind": "oops", "name": "E", "message": ""}}, "'oops' is not one of"),
        ("remove", {"n": 1, "notified": 0, "value": True}, "True is not of type 'null'"),
    ],
)
def test_an_answer_that_is_not_of_the_protocol_is_noticed(
    op: str, answer: dict[str, Any], problem: str, rules: ProtocolRules
) -> None:
    assert problem in (rules.check_answer(op, answer) or "")


HELLO = '{"n":1,"notified":0,"value":{"protocol":1,"name":"x","version":"1","language":"x","capabilities":[]}}'


def script(hello: str, *lines: str) -> list[str]:
    """A driver in a few lines of Python; it greets and then does what they say."""
    start = [
        "import sys",
        "ask = sys.stdin.readline",
        "def say(text): print(text, flush=True)",
        "ask()",
        f"say({hello!r})",
    ]
    return [sys.executable, "-c", "\n".join([*start, *lines])]


@pytest.mark.parametrize(
    ("lines", "error", "words"),
    [
        (
            ["sys.exit('out of paper')"],
            DriverDiedError,
            r"ended \(exit code 1\) before it answered 'get'\s.*\sout of paper",
        ),
        (["import os; os.kill(os.getpid(), 9)"], DriverDiedError, "killed by signal 9"),
        (["say('hello?')"], NonsenseError, r"answered 'get' with what is no JSON: 'hello\?'"),
        (["say('[1]')"], NonsenseError, r"answered 'get' with '\[1\]': it is no answer"),
        (["""say('{"n":7,"notified":0,"value":1}')"""], NonsenseError, "it is no answer to request 2"),
        (["ask()"], DriverTimeoutError, r"did not answer 'get' within 0\.5 s"),
    ],
)
def test_a_driver_that_dies_or_speaks_nonsense_is_ended_and_said_so(
    lines: list[str], error: type[Exception], words: str
) -> None:
    with Driver(script(HELLO, "ask()", *lines, "ask()"), timeout=0.5) as driver:
        with pytest.raises(error, match=words):
            driver.ask("get")
        with pytest.raises(ProcessLookupError):
            os.kill(driver.pid, 0)


def test_a_driver_that_does_not_say_who_it_is_is_of_no_use() -> None:
    with pytest.raises(NonsenseError, match="does not say who it is"):
        Driver(script('{"n":1,"notified":0,"value":null}', "ask()"))
    with pytest.raises(NonsenseError, match="speaks protocol 2"):
        Driver(script(HELLO.replace('"protocol":1', '"protocol":2'), "ask()"))
    with pytest.raises(DriverDiedError, match="could not be started"):
        Driver("no-such-driver-anywhere --really")


def test_rules_stop_a_request_that_the_runner_should_not_have_made(rules: ProtocolRules) -> None:
    driver = Driver(script(HELLO, "ask()"), rules=rules)
    with pytest.raises(NonsenseError, match="was to be asked what is not of the protocol"):
        driver.ask("enqueue", id="a", item={"not": "text"})


def test_the_readme_shows_the_protocol_and_the_divergences_as_they_are(rules: ProtocolRules) -> None:
    readme = (INTEROP / "README.md").read_text("utf-8")
    lines = [json.loads(line) for line in readme.split("```json\n")[1].split("```")[0].splitlines() if "…" not in line]
    assert len(lines) > 5
    ops: dict[int, str] = {}
    for line in lines:
        if "op" in line:
            ops[line["n"]] = line["op"]
            assert rules.check_request(line) is None
        else:
            assert rules.check_answer(ops[line["n"]], line) is None
    table = readme.split("## Declared divergences")[1]
    assert {one.id for one in divergences()} == set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", table))
    for name in re.findall(r"^\| `([^`]+)` \|", readme.split("## Using a queue")[0], re.MULTILINE):
        assert list(INTEROP.glob(name)), f"there is no {name}"


def test_a_driver_is_closed_once_and_has_ended_then() -> None:
    driver = python_driver()
    driver.close()
    driver.close()
    with pytest.raises(ProcessLookupError):
        os.kill(driver.pid, 0)
    with pytest.raises(DriverDiedError):
        driver.ask("get")
