"""``watch``: a real process, a real server on loopback, real signals."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from starfish_outbox.cli.fields import FIELDS
from tests.cli import KINDS, Ran, cli, entries_in, fill, store
from tests.loopback import Request, refused_port, serving
from tests.watching import Service, closed_port, created, response, running

FIRST = [(f"obs-{n}", {"n": n}) for n in range(3)]
QUICK = ("--interval", "0.05", "--backoff", "0.01", "--backoff-cap", "0.05")
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


class Held:
    """Answers to requests that wait until they are let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, request: Request) -> bytes:
        await self.go.wait()
        return await created(request)


@pytest.mark.parametrize("kind", KINDS)
@BOTH
async def test_it_sends_what_is_queued_and_ends_when_it_is_told_to(
    tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    place = store(tmp_path, kind)
    await asyncio.to_thread(fill, place, FIRST)
    service = Service()
    async with serving(service.handle) as url:
        args = ("watch", "--to", f"{url}in?token=1", "--store", place.path, "--json", *QUICK)
        async with running(*args) as child:
            await child.says("idle: nothing to send")
            child.is_told(number)
            ran = await child.ends()
    assert ran.code == 0, ran
    document = ran.document
    assert document.keys() == FIELDS["watch"].keys()
    assert (document["sent"], document["failed"], document["stopped"], document["reason"]) == (3, 0, "asked", "")
    assert (document["to"], document["reasons"]) == (f"{url}in", [])
    assert service.numbers == [0, 1, 2]
    assert await asyncio.to_thread(entries_in, place) == []


async def test_what_another_process_enqueues_meanwhile_is_sent_too(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, FIRST)
    service = Service()
    async with serving(service.handle) as url, running("watch", "--to", url, "--store", place.path, *QUICK) as child:
        await service.asked(3)
        await asyncio.to_thread(fill, place, [("later", {"n": 7})])
        await service.asked(4)
        await child.says("4 sent, 0 failed, 0 to go")
        child.is_told(signal.SIGINT)
        ran = await child.ends()
    assert ran.code == 0, ran
    assert ran.out == f"4 sent, 0 failed, 0 left: 'outbox.me' in {place.path}\n"
    assert service.numbers == [0, 1, 2, 7]


@BOTH
async def test_a_send_under_way_ends_before_it_does_and_no_other_begins(tmp_path: Path, number: signal.Signals) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, FIRST)
    held = Held()
    service = Service(held)
    async with (
        serving(service.handle) as url,
        running("watch", "--to", url, "--store", place.path, "--json", *QUICK) as child,
    ):
        await service.asked(1)
        child.is_told(number)
        await child.says("ending: sends under way are waited for")
        held.go.set()
        ran = await child.ends()
    assert ran.code == 3, ran
    assert (ran.document["sent"], ran.document["stopped"], ran.document["left"]["queued"]) == (1, "asked", 2)
    left = await asyncio.to_thread(entries_in, place)
    assert [(entry["id"], entry["status"], "maybeSent" in entry) for entry in left] == [
        ("obs-1", "queued", False),
        ("obs-2", "queued", False),
    ]


@BOTH
async def test_told_twice_it_cuts_the_send_off_and_marks_it(tmp_path: Path, number: signal.Signals) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, FIRST)
    service = Service(Held())
    async with (
        serving(service.handle) as url,
        running("watch", "--to", url, "--store", place.path, "--json", *QUICK) as child,
    ):
        await service.asked(1)
        child.is_told(number)
        await child.says("ending: sends under way are waited for")
        child.is_told(number)
        ran = await child.ends()
    assert ran.code == 130, ran
    assert (ran.document["sent"], ran.document["stopped"]) == (0, "interrupted")
    assert ran.document["left"] == {"queued": 3, "sending": 0, "failed": 0, "other": 0}
    assert "marked as maybe sent" in ran.err
    assert "Traceback" not in ran.err
    left = await asyncio.to_thread(entries_in, place)
    assert [(entry["status"], "maybeSent" in entry) for entry in left] == [
        ("queued", True),
        ("queued", False),
        ("queued", False),
    ]


@pytest.mark.parametrize("probe", ["--probe", "--no-probe"])
async def test_while_nobody_is_there_it_waits_and_goes_on_by_itself(tmp_path: Path, probe: str) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, FIRST)
    service = Service()
    with closed_port() as (port, bound):
        url = f"http://127.0.0.1:{port}/"
        args = ("watch", "--to", url, "--store", place.path, "--until-empty", "--json", probe, *QUICK)
        async with running(*args) as child:
            line = await child.says("offline: OfflineError: nobody was reached at 127.0.0.1")
            assert "next try in " in line
            assert "3 to go" in line
            async with serving(service.handle, sock=bound):
                ran = await child.ends()
    assert ran.code == 0, ran
    assert (ran.document["sent"], ran.document["failed"], ran.document["stopped"]) == (3, 0, "finished")
    assert service.numbers == [0, 1, 2]


async def test_told_to_end_while_it_is_offline_it_says_so_and_no_attempt_was_spent(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, FIRST)
    with refused_port() as port:
        args = ("watch", "--to", f"http://127.0.0.1:{port}/", "--store", place.path, *QUICK)
        async with running(*args) as child:
            await child.says("offline: ConnectionRefusedError")  # what the probe says, the second time
            child.is_told(signal.SIGTERM)
            ran = await child.ends()
    assert ran.code == 3, ran
    assert ran.out == (
        f"0 sent, 0 failed, 3 left: 'outbox.me' in {place.path}\n\n"
        "left    entries  because\n"
        "queued        3  it was not tried yet\n"
    )
    assert "stopped (asked): offline: ConnectionRefusedError" in ran.err
    assert [entry["attempts"] for entry in await asyncio.to_thread(entries_in, place)] == [0, 0, 0]


async def refused(_: Request) -> bytes:
    return response(401)


async def test_refused_credentials_pause_it_for_good_and_it_says_what_to_do(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, FIRST)
    service = Service(refused)
    async with (
        serving(service.handle) as url,
        running("watch", "--to", url, "--store", place.path, "--json", *QUICK) as child,
    ):
        line = await child.says("paused: AuthNeededError: the server answered 401. Check the credentials")
        assert "put that right, then end this (Ctrl-C) and start it again" in line
        await asyncio.to_thread(fill, place, [("later", {"n": 7})])  # nor is that a reason to try again
        child.is_told(signal.SIGINT)
        ran = await child.ends()
    assert ran.code == 3, ran
    assert (ran.document["stopped"], ran.document["left"]["queued"]) == ("auth", 4)
    assert len(service.requests) == 1


async def test_refused_credentials_end_it_where_nobody_waits_for_it(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, FIRST)
    service = Service(refused)
    async with (
        serving(service.handle) as url,
        running("watch", "--to", url, "--store", place.path, "--until-empty", "--json", *QUICK) as child,
    ):
        ran = await child.ends()
    assert (ran.code, ran.document["stopped"]) == (3, "auth")
    assert len(service.requests) == 1


async def test_with_retry_auth_it_reads_the_headers_again_and_goes_on(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, FIRST)
    headers = tmp_path / "headers"
    headers.write_text("Authorization: Bearer old\n")

    async def judge(request: Request) -> bytes:
        return response(201 if request.headers["authorization"] == "Bearer new" else 401)

    service = Service(judge)
    async with serving(service.handle) as url:
        given = ("--header", f"@{headers}", "--retry-auth", "0.05", "--until-empty", "--json")
        async with running("watch", "--to", url, "--store", place.path, *given, *QUICK) as child:
            assert "next try in 1 s" in await child.says("paused: AuthNeededError")
            headers.unlink()
            await child.says("the headers cannot be read")
            (tmp_path / "new").write_text("Authorization: Bearer new\n")
            (tmp_path / "new").rename(headers)
            ran = await child.ends()
    assert (ran.code, ran.document["sent"], ran.document["stopped"]) == (0, 3, "finished")
    assert service.numbers[-3:] == [0, 1, 2]


async def test_until_empty_waits_for_what_is_not_due_and_leaves_what_is_for_a_person(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, FIRST)
    answers = {0: [500, 500, 201], 1: [422], 2: [503, 201]}

    async def judge(request: Request) -> bytes:
        return response(answers[json.loads(request.body)["n"]].pop(0), b"bad")

    service = Service(judge)
    async with (
        serving(service.handle) as url,
        running("watch", "--to", url, "--store", place.path, "--until-empty", *QUICK) as child,
    ):
        ran = await child.ends()
    assert ran.code == 3, ran
    assert ran.out == (
        f"2 sent, 1 failed, 1 left: 'outbox.me' in {place.path}\n\n"
        "left    entries  because\n"
        "failed        1  RejectedError: the server answered 422: bad\n"
    )
    assert not any(answers.values())


async def test_until_empty_ends_where_all_that_is_left_is_held_behind_a_parked_entry(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    items = [("a1", {"n": 1, "site": "a"}), ("b1", {"n": 2, "site": "b"}), ("a2", {"n": 3, "site": "a"})]
    await asyncio.to_thread(fill, place, items)

    async def judge(request: Request) -> bytes:
        return response(422 if json.loads(request.body)["n"] == 1 else 201)

    service = Service(judge)
    async with serving(service.handle) as url:
        lanes = ("--lane", "site", "--on-parked", "hold", "--until-empty", "--json")
        async with running("watch", "--to", url, "--store", place.path, *lanes, *QUICK) as child:
            ran = await child.ends()
    assert ran.code == 3, ran
    assert (ran.document["sent"], ran.document["failed"], ran.document["waiting"]) == (1, 1, 1)
    assert "1 entry was passed over: held back by others of their lane" in ran.err
    assert service.numbers == [1, 2]


async def test_a_lock_that_another_process_holds_is_told_at_once(tmp_path: Path) -> None:
    place = store(tmp_path, "file")
    await asyncio.to_thread(fill, place, FIRST)
    async with serving(Service().handle) as url, running("watch", "--to", url, "--store", place.path, *QUICK) as child:
        await child.says("idle")
        second: Ran = await asyncio.to_thread(cli, "watch", "--to", url, "--store", place.path)
        child.is_told(signal.SIGTERM)
        assert (await child.ends()).code == 0
    assert second.code == 2
    assert "is owned by pid " in second.err


async def test_a_proxy_in_the_environment_means_that_no_connection_past_it_is_tried(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, FIRST)
    proxy = Service()
    async with (
        serving(proxy.handle) as url,
        running(
            *("watch", "--to", "http://no-such-host.invalid/in", "--store", place.path, "--until-empty", *QUICK),
            http_proxy=url,
        ) as child,
    ):
        ran = await child.ends()
    assert ran.code == 0, ran
    assert [request.target for request in proxy.requests] == ["http://no-such-host.invalid/in"] * 3
