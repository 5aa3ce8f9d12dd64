"""``starfish_push`` and ``starfish_append`` with the published SDK on the published server: what one send comes to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from starfish_outbox.senders import starfish_append, starfish_push, union_by_id
from tests.starfish.bench import Bench, running
from tests.starfish.wire import Wire

ODD = {
    "floats": [1.0, -0.0, 0.1, 1e-7, 1.5e300, 1e21, 123456789.125],
    "integers": [0, -1, 2**53 - 1, 2**60, 10**20],
    "constructor": {"gone": True},
    "nested": {"__proto__": 1, "kept": {"__class__": "gone", "x": None}, "list": [{"prototype": "kept"}]},
    "Schlüssel 🐧": "\u2028 \ue000 𝒳",
    "\uffff": 1,
    "\U00010000": 2,
}
KEPT = {**ODD, "nested": {"kept": {"x": None}, "list": [{"prototype": "kept"}]}}
del KEPT["constructor"]

pytestmark = pytest.mark.timeout(1800)  # whoever comes first makes the environment

with_and_without_hash = pytest.mark.parametrize("without_hash", [False, True], ids=["hash", "look"])
"""The protocol's hash function, or a look where it is not installed."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running(tmp_path_factory.mktemp("starfish")) as made:
        yield made


def test_the_senders_import_nothing_that_is_not_ours() -> None:
    code = (
        "import sys, starfish_outbox.senders as s\n"
        "assert s.starfish_push and s.starfish_append\n"
        "print(sorted({'httpx', 'starfish_protocol', 'starfish_sdk'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


@with_and_without_hash
async def test_a_document_that_is_there_already_is_a_success(bench: Bench, without_hash: bool) -> None:
    id = bench.fresh()
    send = await bench.sender("push", "/push/obs/{id}", without_hash=without_hash)
    first = await send(id, ODD)
    again = await send(id, ODD, maybe=1)
    assert first["returned"]["timestamp"] > 1_700_000_000_000
    assert again["returned"] == {"hash": first["returned"]["hash"]}
    assert (first["calls"], again["calls"]) == (1, 2 if without_hash else 1)
    assert await bench.document(f"/push/obs/{id}") == KEPT


@with_and_without_hash
@pytest.mark.parametrize("theirs", [{"x": 2}, {"x": True}, {"x": "1"}, {"x": 1, "y": None}, {}])
async def test_another_version_is_a_conflict_with_its_hash(bench: Bench, theirs: Any, without_hash: bool) -> None:
    id = bench.fresh()
    there = await bench.others_push(f"/push/obs/{id}", theirs)
    send = await bench.sender("push", "/push/obs/{id}", without_hash=without_hash)
    answer = await send(id, {"x": 1})
    assert (answer["raised"], answer["remote"]) == ("ConflictError", there)
    assert await bench.document(f"/push/obs/{id}") == theirs


@with_and_without_hash
async def test_a_base_that_is_gone_is_a_conflict_also_for_an_empty_document(bench: Bench, without_hash: bool) -> None:
    send = await bench.sender("push", "/push/obs/{id}", base="0" * 64, without_hash=without_hash)
    answer = await send(bench.fresh(), {})
    assert (answer["raised"], answer["remote"]) == ("ConflictError", "")


async def test_a_given_base_replaces_that_version_and_no_other(bench: Bench) -> None:
    id = bench.fresh()
    base = await bench.others_push(f"/push/obs/{id}", {"x": 1})
    send = await bench.sender("push", "/push/obs/{id}", base=base)
    assert "returned" in await send(id, {"x": 2})
    assert "returned" in await send(id, {"x": 2}, maybe=1), "its answer was lost"
    assert (await send(id, {"x": 3}))["raised"] == "ConflictError"
    assert await bench.document(f"/push/obs/{id}") == {"x": 2}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ([1], "a Starfish document is a dict, and the item is of type list"),
        ({"x": float("nan")}, r"\$\.x"),  # the server would take it and never give it back
        ({"x": ["\ud800"]}, r"\$\.x\[0\]"),  # the server would break each time
    ],
)
@pytest.mark.parametrize("kind", ["push", "append"])
async def test_what_the_server_would_choke_on_is_refused_here(bench: Bench, kind: str, item: Any, words: str) -> None:
    send = await bench.sender(kind, "/push/obs/{id}" if kind == "push" else "/push/log/choke")
    answer = await send(bench.fresh(), item)
    assert (answer["raised"], answer["calls"]) == ("RejectedError", 0)
    with pytest.raises(ValueError, match=words):
        raise ValueError(answer["says"])


@pytest.mark.parametrize("id", ["a/b", "../obs/x", "..", ".", "", "a b", "a?b", "a#b", "a%2fb", "Küken", "a\n", "a\\b"])
async def test_no_id_leads_to_another_place(bench: Bench, id: str) -> None:
    answer = await (await bench.sender("push", "/push/obs/{id}"))(id, {})
    assert (answer["raised"], answer["calls"]) == ("RejectedError", 0)


@pytest.mark.parametrize("path", ["", "push/obs/{id}", "@evil.example/push/x", "//evil.example/push/x", "/pull/x/y"])
def test_a_path_that_cannot_be_one_is_refused_at_once(path: str) -> None:
    for make in (starfish_push, starfish_append):
        with pytest.raises(ValueError, match="path must be like"):
            make(None, path=path)


def test_options_that_cannot_work_are_refused_at_once() -> None:
    async def merge(remote: Any, mine: Any) -> Any: ...

    with pytest.raises(TypeError, match="plain function"):
        starfish_push(None, path="/push/a/b", merge=merge)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give one"):
        starfish_push(None, path="/push/a/b", merge=union_by_id("a", "b"), base_hash=lambda _: None)
    with pytest.raises(ValueError, match="tries"):
        starfish_push(None, path="/push/a/b", tries=0)
    for id_field in ("", "__class__"):
        with pytest.raises(ValueError, match="id_field"):
            starfish_append(None, path="/push/a/b", id_field=id_field)
    with pytest.raises(ValueError, match="since"):
        starfish_append(None, path="/push/a/b", since=-1)


async def test_a_merge_adds_to_what_others_wrote_and_once(bench: Bench) -> None:
    path = f"/push/obs/{bench.fresh()}"
    send = await bench.sender("list", path)
    assert "returned" in await send("a", {"seen": [{"id": "a", "n": 1}]}), "there was no document"
    await bench.others_push(path, {"seen": [{"id": "a", "n": 1}, {"id": "b"}], "site": "Biscoe"})
    first = await send("c", {"seen": [{"id": "c"}]})
    again = await send("c", {"seen": [{"id": "c"}]}, maybe=1)
    assert "returned" in first
    assert "returned" in again
    assert (first["calls"], again["calls"]) == (2, 1)
    assert await bench.document(path) == {"seen": [{"id": "a", "n": 1}, {"id": "b"}, {"id": "c"}], "site": "Biscoe"}


async def test_a_merge_is_done_again_on_what_others_wrote_meanwhile(bench: Bench) -> None:
    path = f"/push/obs/{bench.fresh()}"
    async with Wire(bench.port) as wire:

        async def others_are_faster() -> bool:
            if wire.requests == 2:
                await bench.others_push(path, {"seen": [{"id": "b"}]})
            return True

        wire.on_request = others_are_faster
        send = await bench.sender("list", path, url=wire.url)
        answer = await send("a", {"seen": [{"id": "a"}]})
    assert "returned" in answer
    assert [said.status for said in wire.said] == [200, 409, 200, 200]
    assert await bench.document(path) == {"seen": [{"id": "b"}, {"id": "a"}]}


async def test_a_document_that_changes_during_each_try_is_busy_and_nothing_is_lost(bench: Bench) -> None:
    path = f"/push/obs/{bench.fresh()}"
    theirs: list[dict[str, Any]] = []
    async with Wire(bench.port) as wire:

        async def others_are_always_faster() -> bool:
            if wire.requests % 2 == 0:
                theirs.append({"id": len(theirs)})
                await bench.others_push(path, {"seen": theirs})
            return True

        wire.on_request = others_are_always_faster
        send = await bench.sender("list", path, url=wire.url, tries=3)
        answer = await send("a", {"seen": [{"id": "a"}]})
        assert (answer["raised"], answer["calls"]) == ("BusyError", 6)
        assert "3 tries" in answer["says"]
        wire.on_request = None
        assert "returned" in await send("a", {"seen": [{"id": "a"}]})
    assert await bench.document(path) == {"seen": [*theirs, {"id": "a"}]}


@pytest.mark.parametrize(
    ("remote", "mine"),
    [
        ({"seen": [{"id": "a", "n": 1}]}, {"seen": [{"id": "a", "n": 2}]}),
        ({"seen": [{"id": "a", "n": 1}]}, {"seen": [{"id": "a", "n": True}]}),
        ({"seen": "none"}, {"seen": [{"id": "a"}]}),
        ({"seen": [], "site": "Biscoe"}, {"seen": [{"id": "a"}], "site": "Dream"}),
    ],
)
async def test_a_union_overwrites_nothing(bench: Bench, remote: Any, mine: Any) -> None:
    path = f"/push/obs/{bench.fresh()}"
    await bench.others_push(path, remote)
    answer = await (await bench.sender("list", path))("a", mine)
    assert (answer["raised"], answer["calls"]) == ("ConflictError", 1)
    assert await bench.document(path) == remote


async def test_numbers_that_json_takes_for_one_are_one(bench: Bench) -> None:
    """The SDK writes 1.0 where JavaScript, and this package, writes 1."""
    path = f"/push/obs/{bench.fresh()}"
    await bench.others_push(path, {"seen": [{"id": 1.0, "n": [2.0, 1e3]}]})
    answer = await (await bench.sender("list", path))("a", {"seen": [{"id": 1, "n": [2, 1000]}]})
    assert "returned" in answer
    assert answer["calls"] == 1, "it is there"


@pytest.mark.parametrize("mine", [{"seen": {"id": "a"}}, {"seen": ["a"]}, {"seen": [{"name": "a"}]}])
async def test_an_item_that_a_union_cannot_add_is_refused(bench: Bench, mine: Any) -> None:
    answer = await (await bench.sender("list", f"/push/obs/{bench.fresh()}"))("a", mine)
    assert answer["raised"] == "RejectedError"


async def test_what_an_error_says_names_the_version_that_is_there_and_no_value(bench: Bench) -> None:
    id = bench.fresh()
    there = await bench.others_push(f"/push/obs/{id}", {"patient": "somebody"})
    answer = await (await bench.sender("push", "/push/obs/{id}"))(id, {"patient": "secret"})
    assert there in answer["says"]
    assert "secret" not in answer["says"]
    assert "somebody" not in answer["says"]
