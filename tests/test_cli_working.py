"""``retry`` and ``drain``, against a real server on loopback, and interrupted in a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from starfish_outbox.cli.fields import FIELDS
from tests.cli import KINDS, cli, cli_process, command, entries_in, fill, holder, key_in, store
from tests.loopback import Endpoint, Request, refused_port, serving

THREE = [("obs 1", {"n": 1}), ("obs-2", {"n": 2}), ("ö", {"n": 3})]


class Judge(Endpoint):
    """An endpoint that refuses what its ``refuse`` names, and stalls for ever at what its ``stall`` names."""

    def __init__(self, *, refuse: tuple[int, ...] = (), stall: tuple[int, ...] = ()) -> None:
        super().__init__()
        self._refuse = refuse
        self._stall = stall
        self.stalled = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
            length = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = await reader.readexactly(length)
            self.requests.append(Request(head, body))
            number = json.loads(body)["n"]
            if number in self._stall:
                self.stalled.set()
                await asyncio.Event().wait()
            said = (
                b"422 No\r\nContent-Length: 3\r\n\r\nbad"
                if number in self._refuse
                else b"201 Yes\r\nContent-Length: 0\r\n\r\n"
            )
            writer.write(b"HTTP/1.1 " + said)
            await writer.drain()


@pytest.mark.parametrize("kind", KINDS)
async def test_drain_posts_every_item_once_under_its_key_and_leaves_an_empty_queue(tmp_path: Path, kind: str) -> None:
    place = store(tmp_path, kind)
    await asyncio.to_thread(fill, place, THREE)
    server = Judge()
    async with serving(server.handle) as url:
        ran = await asyncio.to_thread(cli, "drain", "--to", f"{url}in?token=4711", "--store", place.path, "--json")
    assert ran.code == 0, ran
    assert [(r.method, r.target, r.body) for r in server.requests] == [
        ("POST", "/in?token=4711", b'{"n":1}'),
        ("POST", "/in?token=4711", b'{"n":2}'),
        ("POST", "/in?token=4711", b'{"n":3}'),
    ]
    assert [r.headers["idempotency-key"] for r in server.requests] == ["obs%201", "obs-2", "%C3%B6"]
    document = ran.document
    assert document.keys() == FIELDS["drain"].keys()
    assert (document["sent"], document["failed"], document["stopped"]) == (3, 0, "finished")
    assert document["to"] == f"{url}in"
    assert document["left"] == {"queued": 0, "sending": 0, "failed": 0, "other": 0}
    assert await asyncio.to_thread(entries_in, place) == []


async def test_drain_ends_with_3_while_anything_is_left_and_says_what(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, THREE)
    server = Judge(refuse=(2,))
    async with serving(server.handle) as url:
        ran = await asyncio.to_thread(cli, "drain", "--to", url, "--store", place.path, "--limit", "2")
        assert ran.code == 3
        assert ran.out == (
            f"1 sent, 1 failed, 2 left: '{key_in(place)}' in {place.path}\n\n"
            "left    entries  because\n"
            "failed        1  RejectedError: the server answered 422: bad\n"
            "queued        1  it was not tried yet\n"
        )
        assert "stopped (limit): 2 entries were taken" in ran.err
        assert "1 failed: `list --status failed` says why" in ran.err
        ran = await asyncio.to_thread(cli, "drain", "--to", url, "--store", place.path)
    assert ran.code == 3  # what failed waits for a person
    assert ran.out.startswith("1 sent, 0 failed, 1 left: ")
    [failed] = await asyncio.to_thread(entries_in, place)
    assert failed["lastError"]["message"] == "the server answered 422: bad"


async def test_a_failing_entry_is_parked_after_max_attempts(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, THREE[:1])
    server = Endpoint()
    server.answers(500)
    async with serving(server.handle) as url:
        for failed in (0, 1):
            args = ["drain", "--to", url, "--store", str(place.path), "--max-attempts", "2", "--now", "--json"]
            ran = await asyncio.to_thread(cli, *args)
            assert (ran.code, ran.document["failed"]) == (3, failed)


async def test_a_busy_server_ends_the_pass_and_how_long_it_asks_to_wait_is_said(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, THREE)
    server = Endpoint()
    server.answers(503, Retry_After="90")
    async with serving(server.handle) as url:
        ran = await asyncio.to_thread(cli, "drain", "--to", url, "--store", place.path, "--json")
    assert (ran.code, ran.document["stopped"], ran.document["retryAfter"]) == (3, "busy", 90)
    assert "the server asks to wait 1 min 30 s" in ran.err
    assert len(server.requests) == 1


def test_being_offline_costs_no_attempt(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, THREE)
    with refused_port() as port:
        ran = cli("drain", "--to", f"http://127.0.0.1:{port}/", "--store", place.path, "--json")
    assert (ran.code, ran.document["stopped"], ran.document["left"]["queued"]) == (3, "offline", 3)
    assert [entry["attempts"] for entry in entries_in(place)] == [0, 0, 0]


async def test_an_answer_that_does_not_come_in_time_marks_the_entry(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, THREE[:1])
    server = Judge(stall=(1,))
    async with serving(server.handle) as url:
        args = ["drain", "--to", url, "--store", str(place.path), "--timeout", "0.2", "--json"]
        ran = await asyncio.to_thread(cli, *args)
    assert (ran.code, ran.document["stopped"]) == (3, "unacked")
    [entry] = await asyncio.to_thread(entries_in, place)
    assert (entry["status"], entry["attempts"], "maybeSent" in entry) == ("queued", 0, True)


async def test_headers_come_from_the_command_line_and_from_a_file(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, THREE[:1])
    (tmp_path / "headers").write_text("Authorization: Bearer 4711\n\nX-Two: a:b \n")
    server = Judge()
    async with serving(server.handle) as url:
        more = ["--header", "X-One: 1", "--header", f"@{tmp_path}/headers"]
        ran = await asyncio.to_thread(cli, "drain", "--to", url, "--store", place.path, *more)
    assert ran.code == 0
    sent = server.requests[0].headers
    assert (sent["x-one"], sent["x-two"], sent["authorization"]) == ("1", "a:b", "Bearer 4711")


def test_what_cannot_be_sent_anywhere_is_refused_before_anything_is_claimed(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, THREE)
    before = entries_in(place)
    for args, why in (
        (["--to", "ftp://x/"], "base_url must be like"),
        (["--to", "http://me:4711@x/"], "holds a name or password"),
        (["--to", "http://x/", "--header", "4711"], "header 1 has no colon"),
        (["--to", "http://x/", "--header", "A B: 4711"], "not the name of a header"),
        (["--to", "http://x/", "--header", f"@{tmp_path}/nix"], "No such file"),
    ):
        ran = cli("drain", *args, "--store", str(place.path), "--json")
        assert ran.code == 2, args
        assert why in ran.document["error"]["message"]
        assert "4711" not in ran.out + ran.err
    assert entries_in(place) == before


async def test_ctrl_c_leaves_nothing_stuck_and_says_what_is_left(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, THREE)
    server = Judge(stall=(2,))
    async with serving(server.handle) as url:
        child = await asyncio.create_subprocess_exec(
            *command("drain", "--to", url, "--store", place.path, "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            await server.stalled.wait()
            child.send_signal(signal.SIGINT)
            out, err = await child.communicate()
    assert child.returncode == 130, err
    document = json.loads(out)
    assert (document["sent"], document["failed"], document["stopped"]) == (1, 0, "interrupted")
    assert document["left"] == {"queued": 2, "sending": 0, "failed": 0, "other": 0}
    assert "marked as maybe sent" in err.decode()
    left = await asyncio.to_thread(entries_in, place)
    assert [(entry["id"], entry["status"], "maybeSent" in entry) for entry in left] == [
        ("obs-2", "queued", True),
        ("ö", "queued", False),
    ]


async def test_a_drain_that_is_killed_gives_its_claim_up_and_the_next_one_sends_it(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, THREE)
    stalling, willing = Judge(stall=(1,)), Judge()
    async with serving(stalling.handle) as url:
        child = await asyncio.create_subprocess_exec(*command("drain", "--to", url, "--store", place.path))
        async with asyncio.timeout(60):
            await stalling.stalled.wait()
            listed = await asyncio.to_thread(cli, "list", "--store", place.path, "--json")
            child.kill()
            await child.wait()
    assert [entry["claimed"] for entry in listed.document["entries"]] == ["live", None, None]
    after = await asyncio.to_thread(cli, "list", "--store", place.path, "--json")
    assert [entry["claimed"] for entry in after.document["entries"]] == ["gone", None, None]
    async with serving(willing.handle) as url:
        ran = await asyncio.to_thread(cli, "drain", "--to", url, "--store", place.path)
    assert ran.code == 0
    assert len(willing.requests) == 3


async def test_beside_a_live_queue_a_database_is_drained_but_for_what_the_other_holds(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, THREE)
    server = Judge()
    with holder(place, "obs-2"):
        async with serving(server.handle) as url:
            ran = await asyncio.to_thread(cli, "drain", "--to", url, "--store", place.path, "--json")
    assert (ran.code, ran.document["sent"], ran.document["left"]["sending"]) == (3, 2, 1)


def test_files_that_another_process_owns_are_not_drained(tmp_path: Path) -> None:
    place = store(tmp_path, "directory")
    fill(place, THREE)
    with holder(place, "obs-2") as child:
        for args in (["drain", "--to", "http://127.0.0.1:9/"], ["retry", "obs-2"]):
            ran = cli(*args, "--store", str(place.path))
            assert ran.code == 2
            assert f"is owned by pid {child.pid}" in ran.err


@pytest.mark.parametrize("kind", KINDS)
def test_retry_puts_back_what_is_named_and_says_what_became_of_each(tmp_path: Path, kind: str) -> None:
    place = store(tmp_path, kind)
    fill(place, THREE, fail=["obs-2", "ö"])
    ran = cli("retry", "obs-2", "obs 1", "nix", "obs-2", "--store", place.path, "--json")
    assert ran.code == 3
    document = ran.document
    assert document.keys() == FIELDS["retry"].keys()
    assert (document["retried"], document["already"], document["unknown"]) == (["obs-2"], ["obs 1"], ["nix"])
    assert [(entry["status"], entry["attempts"]) for entry in entries_in(place)] == [
        ("queued", 0),
        ("queued", 1),
        ("failed", 1),
    ]
    assert "no such entry: 'nix'" in ran.err


@pytest.mark.parametrize("kind", KINDS)
def test_retry_of_all_that_failed_counts_from_0_again_where_it_is_told_to(tmp_path: Path, kind: str) -> None:
    place = store(tmp_path, kind)
    fill(place, THREE, fail=["obs-2", "ö"])
    ran = cli("retry", "--all-failed", "--reset-attempts", "--store", place.path)
    assert ran.code == 0
    assert ran.out.startswith("2 entries queued again: ")
    assert [(entry["status"], entry["attempts"]) for entry in entries_in(place)] == [("queued", 0)] * 3
    assert cli("retry", "--all-failed", "--store", place.path, "--json").document["retried"] == []


async def test_retry_leaves_what_a_drain_is_sending(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    await asyncio.to_thread(fill, place, THREE)
    server = Judge(stall=(1,))
    async with serving(server.handle) as url:
        child = await asyncio.create_subprocess_exec(*command("drain", "--to", url, "--store", place.path))
        async with asyncio.timeout(60):
            await server.stalled.wait()
            ran = await asyncio.to_thread(cli, "retry", "obs 1", "--store", place.path, "--json")
            child.kill()
            await child.wait()
    assert (ran.code, ran.document["sending"]) == (3, ["obs 1"])


def test_retry_wants_ids_or_all_failed_and_not_both(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, THREE)
    assert cli("retry", "--store", place.path).code == 2
    assert cli("retry", "obs-2", "--all-failed", "--store", place.path).code == 2


def test_a_damaged_database_is_saved_by_the_next_drain_and_what_was_done_is_said(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, THREE, fail=["obs-2"])
    data = place.path.read_bytes()
    place.path.write_bytes(b"\0" * 100 + data[100:])
    refused = cli_process("retry", "--all-failed", "--store", place.path)
    assert refused.code == 2  # which queue it is cannot be read from it
    ran = cli_process("retry", "--all-failed", "--store", place.path, "--identity", "me", "--json")
    assert ran.code == 0, ran
    assert ran.document["retried"] == ["obs-2"]
    assert "was damaged" in ran.err
    assert (tmp_path / "outbox.db.corrupt.1").exists()
    assert len(entries_in(place)) == 3
