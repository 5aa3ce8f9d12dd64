"""The demo's server: durable before it answers, one record a key, answers that get lost, and kills."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from starfish_outbox.demo import server
from starfish_outbox.demo.processes import Child, ChildError, child, free_port
from starfish_outbox.demo.server import RECORDS, REQUESTS, Shelf, read_lines


@asynccontextmanager
async def running(directory: Path, lose: float = 0.0, port: int = 0) -> AsyncIterator[tuple[Child, str]]:
    """The server as the demo starts it, and its URL."""
    arguments = [f"--directory={directory / 'shelf'}", f"--port={port}", f"--lose={lose}"]
    async with child(server.__name__, arguments, directory / "server.log") as process:
        word, number = (await process.line()).split()
        assert word == "ready"
        yield process, f"http://127.0.0.1:{number}/observations"


async def post(client: httpx.AsyncClient, url: str, key: str, body: str) -> tuple[int, Any]:
    response = await client.post(url, content=body, headers={"Idempotency-Key": key})
    return response.status_code, response.json()


def shelved(directory: Path) -> list[dict[str, Any]]:
    return list(read_lines(directory / "shelf" / RECORDS))


async def test_a_record_is_on_disk_when_the_answer_comes_and_a_key_holds_one(tmp_path: Path) -> None:
    async with running(tmp_path) as (process, url), httpx.AsyncClient(trust_env=False) as client:
        assert await post(client, url, "a", '{"mass":3750,"note":"K\\u00fcken"}') == (201, {"did": "stored"})
        assert shelved(tmp_path) == [{"key": "a", "item": {"mass": 3750, "note": "Küken"}}]
        assert await post(client, url, "a", '{"mass":3750,"note":"Küken"}') == (200, {"did": "already there"})
        assert await post(client, url, "a", '{"mass":1}') == (409, {"did": "another version is there"})
        assert await post(client, url, "b", "[0.1]") == (201, {"did": "stored"})
        await process.end()
    assert [record["key"] for record in shelved(tmp_path)] == ["a", "b"]
    noted = [line["did"] for line in read_lines(tmp_path / "shelf" / REQUESTS)]
    assert noted == ["stored", "already there", "another version is there", "stored"]


async def test_after_a_kill_it_knows_what_it_stored(tmp_path: Path) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        async with running(tmp_path) as (process, url):
            assert (await post(client, url, "a", "1"))[0] == 201
            assert process.kill()
        with (tmp_path / "shelf" / RECORDS).open("ab") as file:
            file.write(b'{"key":"torn","item":{"ma')  # what a kill in the middle of a write leaves
        async with running(tmp_path) as (process, url):
            assert (await post(client, url, "a", "1"))[0] == 200
            assert (await post(client, url, "torn", "2"))[0] == 201
            await process.end()
    assert shelved(tmp_path) == [{"key": "a", "item": 1}, {"key": "torn", "item": 2}]


async def test_a_lost_answer_was_stored_and_the_same_share_is_lost_at_every_run(tmp_path: Path) -> None:
    async def lost_of(directory: Path) -> list[int]:
        directory.mkdir()
        lost = []
        async with running(directory, lose=0.5) as (process, url), httpx.AsyncClient(trust_env=False) as client:
            for n in range(40):
                try:
                    await post(client, url, str(n), str(n))
                except httpx.RemoteProtocolError:
                    lost.append(n)
            await process.end()
        assert [record["item"] for record in shelved(directory)] == list(range(40))
        assert [int(line["key"]) for line in read_lines(directory / "shelf" / REQUESTS) if line["lost"]] == lost
        return lost

    first = await lost_of(tmp_path / "one")
    assert 5 < len(first) < 35
    assert await lost_of(tmp_path / "two") == first


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Idempotency-Key": "a"}, b"not json"),
        ({"Idempotency-Key": "a"}, b"[NaN]"),
        ({"Idempotency-Key": "a"}, b"\xff"),
        ({"Idempotency-Key": "a"}, b""),
        ({}, b"{}"),
        ({"Idempotency-Key": "a"}, b" " * (server.LARGEST_BODY + 1)),
    ],
    ids=["text", "NaN", "not UTF-8", "empty", "no key", "too large"],
)
async def test_what_is_no_json_or_has_no_key_is_refused(tmp_path: Path, headers: dict[str, str], body: bytes) -> None:
    async with running(tmp_path) as (process, url), httpx.AsyncClient(trust_env=False) as client:
        assert (await client.post(url, content=body, headers=headers)).status_code == 400
        await process.end()
    assert shelved(tmp_path) == []


async def test_it_ends_when_the_one_who_started_it_is_gone(tmp_path: Path) -> None:
    starter = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-m', {server.__name__!r}, '--directory', sys.argv[1]],"
        " stdin=subprocess.PIPE)\n"
        "input()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        starter,
        str(tmp_path / "shelf"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"ready ")
    process.kill()
    # The server holds the other end of this pipe: it ends when the server does.
    assert await asyncio.wait_for(process.stdout.read(), 30) == b""
    await process.wait()


async def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    async with child(server.__name__, ["--nonsense"], tmp_path / "log") as process:
        with pytest.raises(ChildError, match=r"ended with code 2[\s\S]*required: --directory"):
            await process.line()
        assert not process.kill()


async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, url):
        port = int(url.split(":")[2].split("/")[0])
        with pytest.raises(ChildError, match="Address already in use"):
            async with running(tmp_path, port=port):
                pass


def test_a_free_port_is_none_that_an_outgoing_connection_could_get() -> None:
    assert 20_000 <= free_port() < 32_000


def test_the_dice_go_on_elsewhere_after_a_restart(tmp_path: Path) -> None:
    def answers(keys: range) -> list[bool]:
        with Shelf(tmp_path, 0.5, seed=7) as shelf:
            return [shelf.store(str(key), key)[0] is None for key in keys]

    assert answers(range(30)) != answers(range(30, 60))
    assert [record["item"] for record in read_lines(tmp_path / RECORDS)] == list(range(60))
