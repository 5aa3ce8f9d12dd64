"""What ``drain`` and ``watch`` can be told, each option against a real server on loopback."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import OutboxEntry
from starfish_outbox.cli.target import lane_of
from starfish_outbox.testing import Answer, Lost, MisbehavingServer, Slow
from tests.cli import KINDS, cli, entries_in, fill, numbered, store
from tests.loopback import Request, serving
from tests.watching import Service, response, running

QUICK = ("--interval", "0.05", "--backoff", "0.01", "--backoff-cap", "0.05")


@pytest.mark.parametrize(("given", "at_once"), [((), {1}), (("--concurrency", "4"), {2, 3, 4})])
def test_as_many_sends_are_under_way_as_it_is_told(tmp_path: Path, given: tuple[str, ...], at_once: set[int]) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, numbered(12))
    with MisbehavingServer(latency=0.05) as server:
        assert cli("drain", "--to", server.url, "--store", place.path, *given).code == 0
    assert server.stored == dict(numbered(12))
    assert server.most_at_once in at_once


@pytest.mark.parametrize("lane", ["--lane", ""])
def test_within_a_lane_one_follows_the_other_and_without_lanes_none_waits(tmp_path: Path, lane: str) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [("first", {"n": 0, "place": {"site": "b"}}), *numbered(6, place={"site": "a"})])
    given = (lane, "/place/site") if lane else ()
    with MisbehavingServer() as server:
        server.plan(None, Slow(0.3))  # the first of a pass goes alone
        assert cli("drain", "--to", server.url, "--store", place.path, "--concurrency", "4", *given).code == 0
    [slow] = [request for request in server.requests if request.fault == "Slow"]
    assert slow.ended is not None
    meanwhile = [request for request in server.requests if slow.at < request.at < slow.ended]
    assert bool(meanwhile) == (not lane)
    if lane:
        assert [request.key for request in server.requests][1:] == [id for id, _ in numbered(6)]


def test_a_lane_is_a_member_or_a_pointer_and_what_has_none_is_one_lane() -> None:
    items = [{"s": 1}, {"s": "1"}, {"s": True}, {"s": [1]}, {"a/b": {"~": [7, 8]}}, {}, [], None, "s"]

    def lanes(member: str) -> list[object]:
        return [lane_of(member)(OutboxEntry("id", item, "queued", 0, 0)) for item in items]

    none = [None] * 9
    assert lanes("s") == lanes("/s") == ["1", '"1"', "true", "[1]", *none[4:]]
    assert lanes("/a~1b/~0/1") == [*none[:4], "8", *none[5:]]
    assert lanes("a/b") == [*none[:4], '{"~":[7,8]}', *none[5:]]
    for member in ("/a~1b/~0/2", "/a~1b/~0/-1", "/a~1b/~0/x", "/s/t", "/", ""):
        assert lanes(member) == none, member


@pytest.mark.parametrize(("policy", "sent"), [("free", ["a2", "b1"]), ("hold", ["b1"])])
def test_what_is_parked_frees_its_lane_or_holds_it(tmp_path: Path, policy: str, sent: list[str]) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, [(id, {"site": id[0]}) for id in ("a1", "a2", "b1")])
    with MisbehavingServer() as server:
        server.plan(Answer(400, body="no site"))
        args = ("drain", "--to", server.url, "--store", place.path, "--lane", "site", "--on-parked", policy, "--json")
        document = cli(*args).document
    assert sorted(server.stored) == sent
    assert (document["failed"], document["waiting"]) == (1, 2 - len(sent))
    assert document["reasons"][0]["reason"] == "RejectedError: the server answered 400: no site"


def test_a_rate_is_kept_to(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, numbered(11))
    with MisbehavingServer() as server:
        document = cli("drain", "--to", server.url, "--store", place.path, "--rate", "10", "--json").document
    assert document["sent"] == len(server.stored) == 11
    assert document["seconds"] > 0.9  # of 1; it may catch up a twentieth of a second


def test_a_failed_entry_is_left_alone_by_later_runs_too_unless_they_are_to_try_it_now(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, numbered(1))
    patient = ("--backoff", "86400", "--backoff-cap", "86400", "--json")
    with MisbehavingServer() as server:
        server.plan(Answer(500))
        drain = ("drain", "--to", server.url, "--store", place.path)
        first, second = cli(*drain, *patient), cli(*drain, "--json")
        assert len(server.requests) == 1
        third = cli(*drain, "--now", "--json")
    [group] = first.document["reasons"]
    assert (group["status"], group["entries"], group["id"]) == ("queued", 1, "obs-0")
    assert group["reason"].startswith("SendError: the server answered 500")
    assert second.document["waiting"] == 1
    assert second.document["nextAttemptAt"] == group["nextAttemptAt"]
    assert "1 entry was passed over: not due, the first at " in second.err
    assert "; --now does not wait" in second.err
    assert (third.code, third.document["sent"]) == (0, 1)


def test_a_server_that_asked_to_wait_is_not_asked_again_by_the_next_run(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, numbered(3))
    with MisbehavingServer() as server:
        server.plan(None, Answer(429, retry_after=120))
        drain = ("drain", "--to", server.url, "--store", place.path, "--json")
        first, second = cli(*drain), cli(*drain)
        assert len(server.requests) == 2
        third = cli(*drain, "--now")
    assert (first.document["sent"], first.document["stopped"], first.document["retryAfter"]) == (1, "busy", 120)
    assert (second.document["sent"], second.document["stopped"]) == (0, "busy")
    assert 100 < second.document["retryAfter"] <= 122
    assert "the server asks to wait" in second.err
    assert (third.code, third.document["sent"]) == (0, 2)
    assert server.stored == dict(numbered(3))


def test_refused_credentials_end_the_pass_and_cost_no_attempt(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, numbered(3))
    with MisbehavingServer() as server:
        server.plan(Answer(401))
        ran = cli("drain", "--to", server.url, "--store", place.path, "--concurrency", "3", "--json")
    assert (ran.code, ran.document["stopped"], ran.document["left"]["queued"]) == (3, "auth", 3)
    assert len(server.requests) == 1
    assert "stopped (auth): AuthNeededError: the server answered 401" in ran.err
    assert [entry["attempts"] for entry in entries_in(place)] == [0, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_lost_answers_cost_nothing_and_nothing_is_stored_twice(tmp_path: Path, kind: str) -> None:
    place = store(tmp_path, kind)
    fill(place, numbered(30))
    with MisbehavingServer(odds={Lost(): 0.3}, seed=7) as server:
        watch = ("watch", "--to", server.url, "--store", place.path, "--until-empty", "--concurrency", "3", *QUICK)
        ran = cli(*watch, "--json")
    assert (ran.code, ran.document["sent"], ran.document["failed"]) == (0, 30, 0)
    assert server.injected["Lost"] > 3
    assert len(server.requests) >= 30 + server.injected["Lost"]
    assert server.stored == dict(numbered(30))
    assert server.duplicates == []


def test_adaptive_it_goes_slower_after_the_server_asked_to_wait(tmp_path: Path) -> None:
    took = {}
    for given in ("--adaptive", "--no-adaptive"):
        (tmp_path / given).mkdir()
        place = store(tmp_path / given, "sqlite")
        fill(place, numbered(8))
        with MisbehavingServer() as server:
            server.plan(None, None, None, None, Answer(429, retry_after=1))
            watch = ("watch", "--to", server.url, "--store", place.path, "--until-empty", given, *QUICK, "--json")
            ran = cli(*watch)
            assert (ran.code, ran.document["sent"], ran.document["failed"]) == (0, 8, 0)
            assert server.injected["Answer"] == 1
            assert server.impatient() == []
        took[given] = ran.document["seconds"]
    assert took["--no-adaptive"] >= 1  # what the server asked for
    assert took["--adaptive"] > 1 + 3 / 2.2 - 0.1  # and four more, at half of the four that got through in a second


def test_receipts_are_kept_where_they_are_asked_for_and_show_tells_them(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, numbered(2))
    with MisbehavingServer() as server:
        server.plan(Answer(201, body='{"row": 4711}'))
        drain = ("drain", "--to", server.url, "--store", place.path, "--limit", "1")
        cli(*drain, "--receipts")
        cli(*drain)
    shown = cli("show", "obs-0", "--store", place.path, "--json").document
    assert shown["entries"] == []
    assert shown["situation"] == "sent"
    assert [(event["event"], event["detail"]) for event in shown["history"]] == [
        ("sent", {"status": 201, "answer": {"row": 4711}})
    ]
    ran = cli("show", "obs-0", "--store", place.path)
    assert ran.code == 3
    assert "'obs-0' was delivered at " in ran.out
    assert 'sent: {"status":201,"answer":{"row":4711}}\n' in ran.out
    [event] = cli("show", "obs-1", "--store", place.path, "--json").document["history"]
    assert (event["event"], event["detail"]) == ("sent", None)


class Table:
    """Answers to arrays as a server gives them that takes an array whole or not at all."""

    def __init__(self, *, refuses: tuple[int, ...] = (), at_most: int = 1000, busy_at: int = -1) -> None:
        self.refuses, self.at_most, self.busy_at = refuses, at_most, busy_at
        self.rows: dict[str, Any] = {}
        self.sizes: list[int] = []

    async def __call__(self, request: Request) -> bytes:
        array = json.loads(request.body)
        numbers = [element["item"]["n"] for element in array]
        self.sizes.append(len(array))
        if self.busy_at in numbers and len(array) < 4:
            return response(503, Retry_After="60")
        if len(array) > self.at_most:
            return response(413)
        if set(numbers) & set(self.refuses):
            return response(400, b"bad")
        self.rows.update((element["id"], element["item"]) for element in array)
        return response(201)


async def test_with_a_batch_size_many_travel_together_and_only_what_cannot_be_taken_is_parked(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, numbered(20))
    service = Service(table := Table(refuses=(3,), at_most=8))
    async with serving(service.handle) as url:
        args = ("drain", "--to", url, "--store", place.path, "--batch-size", "10", "--json")
        ran = await asyncio.to_thread(cli, *args)
    assert (ran.code, ran.document["sent"], ran.document["failed"]) == (3, 19, 1)
    assert table.rows == {id: item for id, item in numbered(20) if item["n"] != 3}
    assert table.sizes == [10, 5, 2, 3, 1, 2, 1, 1, 5, 10, 5, 5]
    keys = [request.headers["idempotency-key"] for request in service.requests]
    assert len(set(keys)) == len(keys)
    [left] = await asyncio.to_thread(entries_in, place)
    assert (left["id"], left["status"], left["lastError"]["message"]) == (
        "obs-3",
        "failed",
        "the server answered 400: bad",
    )


async def test_of_a_batch_that_is_halved_nothing_more_is_sent_to_a_server_that_asks_to_wait(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, numbered(8))
    table = Table(refuses=(1,), busy_at=2)
    async with serving(Service(table).handle) as url:
        args = ("drain", "--to", url, "--store", place.path, "--batch-size", "8", "--json")
        ran = await asyncio.to_thread(cli, *args)
    assert table.sizes == [8, 4, 2, 1, 1, 2]
    assert (ran.document["sent"], ran.document["failed"], ran.document["stopped"]) == (1, 1, "busy")
    assert ran.document["left"]["queued"] == 6
    left = await asyncio.to_thread(entries_in, place)
    assert [(entry["attempts"], "maybeSent" in entry) for entry in left if entry["status"] == "queued"] == [
        (0, False)
    ] * 6


async def test_a_batch_without_an_answer_is_asked_for_again_under_the_same_key(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, numbered(3))
    with MisbehavingServer() as server:
        server.plan(Lost())
        args = ("drain", "--to", server.url, "--store", place.path, "--batch-size", "5", "--json")
        ran = await asyncio.to_thread(cli, *args)
    assert (ran.code, ran.document["sent"]) == (0, 3)
    first, second = server.requests
    assert (first.key, first.body) == (second.key, second.body)
    assert list(server.stored.values()) == [[{"id": id, "item": item} for id, item in numbered(3)]]


def test_what_does_not_go_together_is_refused_before_anything_is_claimed(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    files = store(tmp_path, "directory")
    for one in (place, files):
        fill(one, numbered(1))
    for args, why in (
        (["--on-parked", "hold"], "give --lane as well"),
        (["--on-parked", "nix"], "'nix' is not one of"),
        (["--backoff", "10", "--backoff-cap", "5"], "--backoff (10) is longer than --backoff-cap (5)"),
        (["--receipts", "--batch-size", "2"], "--receipts tell what was answered about one entry"),
        *(
            (["--" + name, bad], f"'--{name}'")
            for name in ("rate", "timeout", "backoff")
            for bad in ("0", "nan", "inf")
        ),
        *((["--" + name, "0"], f"'--{name}'") for name in ("concurrency", "batch-size", "max-attempts")),
    ):
        for command in ("drain", "watch"):
            ran = cli(command, "--to", "http://127.0.0.1:9/", "--store", place.path, *args)
            assert ran.code == 2, args
            assert why in " ".join(ran.err.replace("│", " ").split()), args
    ran = cli("watch", "--to", "http://127.0.0.1:9/", "--store", place.path, "--interval", "inf")
    assert (ran.code, "'--interval'" in ran.err) == (2, True)
    ran = cli("drain", "--to", "http://127.0.0.1:9/", "--store", f"{files.path}/", "--receipts")
    assert (ran.code, "files have none" in ran.err) == (2, True)
    assert "maybeSent" not in entries_in(place)[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_cut_off_with_many_under_way_nothing_is_stuck_and_each_of_them_is_marked(
    tmp_path: Path, number: signal.Signals
) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, numbered(9))

    async def judge(request: Request) -> bytes:
        if json.loads(request.body)["n"]:
            await asyncio.Event().wait()
        return response(201)

    service = Service(judge)
    async with (
        serving(service.handle) as url,
        running("drain", "--to", url, "--store", place.path, "--concurrency", "4", "--json") as child,
    ):
        await service.asked(5)  # one alone, then four at a time
        child.is_told(number)
        ran = await child.ends()
    assert ran.code == 130, ran
    assert (ran.document["sent"], ran.document["stopped"]) == (1, "interrupted")
    assert ran.document["left"] == {"queued": 8, "sending": 0, "failed": 0, "other": 0}
    assert "Traceback" not in ran.err
    left = await asyncio.to_thread(entries_in, place)
    assert {entry["item"]["n"]: "maybeSent" in entry for entry in left} == {n: n < 5 for n in range(1, 9)}
    assert sorted(service.numbers) == [0, 1, 2, 3, 4]
