"""``starfish_append`` with the published SDK on the published server: an element is there once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.starfish.bench import Bench, running
from tests.starfish.wire import Wire

pytestmark = pytest.mark.timeout(1800)  # whoever comes first makes the environment


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running(tmp_path_factory.mktemp("starfish")) as made:
        yield made


async def losing_an_answer(bench: Bench, path: str, id: str, item: Any, **options: Any) -> Any:
    """The sender and the cable of a device that appended and never heard of it."""
    async with Wire(bench.port) as wire:

        async def hung_up() -> bool:
            return False

        wire.on_answer = hung_up
        send = await bench.sender("append", path, url=wire.url, **options)
        answer = await send(id, item)
        assert (answer["raised"], wire.writes[200]) == ("UnackedError", 1)
    return wire, send


async def test_a_first_try_looks_for_nothing_and_the_id_stands_in_the_element(bench: Bench) -> None:
    path = f"/push/log/{bench.fresh()}"
    send = await bench.sender("append", path)
    answer = await send("a", {"mass": 3700.5})
    assert answer["calls"] == 1
    assert answer["returned"].keys() == {"hash", "timestamp"}
    assert await bench.elements(path) == [{"mass": 3700.5, "_id": "a"}]


async def test_an_element_whose_answer_was_lost_is_found_and_not_appended_again(bench: Bench) -> None:
    path = f"/push/log/{bench.fresh()}"
    wire, send = await losing_an_answer(bench, path, "a", {"mass": 1.0, "__class__": "gone"})
    async with wire:
        wire.on_answer = None
        answer = await send("a", {"mass": 1.0, "__class__": "gone"}, maybe=1)
        assert answer["calls"] == 1
        assert answer["returned"]["timestamp"] > 1_700_000_000_000
        assert wire.writes.total() == 1
    assert await bench.elements(path) == [{"mass": 1, "_id": "a"}]


@pytest.mark.parametrize("again", [{"maybe": 1}, {"attempts": 1}])
async def test_what_is_not_there_after_all_is_appended_after_a_look(bench: Bench, again: dict[str, int]) -> None:
    path = f"/push/log/{bench.fresh()}"
    send = await bench.sender("append", path)
    answer = await send("a", {"n": 1}, **again)
    assert (answer["calls"], answer["returned"].keys()) == (2, {"hash", "timestamp"})
    assert await bench.elements(path) == [{"n": 1, "_id": "a"}]


async def test_a_process_that_was_started_again_finds_what_the_one_before_appended(bench: Bench) -> None:
    path = f"/push/log/{bench.fresh()}"
    await losing_an_answer(bench, path, "a", {"n": 1})
    for number in range(5):
        await bench.others_append(path, {"n": number})
    send = await bench.sender("append", path)
    assert (await send("a", {"n": 1}, maybe=1))["calls"] == 1
    assert len(await bench.elements(path)) == 6


async def test_a_look_begins_at_the_servers_time_before_the_first_try(bench: Bench) -> None:
    """Whatever the clock of the device says, and though the log has a past that was never asked for."""
    path = f"/push/log/{bench.fresh()}"
    past = [await bench.others_append(path, {"n": number}) for number in range(5)]
    async with Wire(bench.port) as wire:
        send = await bench.sender("append", path, url=wire.url)
        first = (await send("a", {"n": 1}, clock=-86_400.0))["returned"]["timestamp"]

        async def hung_up() -> bool:
            return len(wire.said) != 2

        wire.on_answer = hung_up
        assert (await send("b", {"n": 2}, clock=-86_400.0))["raised"] == "UnackedError"
        assert "returned" in await send("b", {"n": 2}, maybe=1, clock=86_400.0)
        assert wire.lost == 1
    assert first > max(past)
    assert wire.said[-1].target.endswith(f"?checkpoint={first}")
    assert [element.get("_id") for element in await bench.elements(path)][-2:] == ["a", "b"]


async def test_looks_go_on_from_where_the_last_one_ended(bench: Bench) -> None:
    path = f"/push/log/{bench.fresh()}"
    past = [await bench.others_append(path, {"_id": f"e{number}"}) for number in range(5)]
    async with Wire(bench.port) as wire:
        send = await bench.sender("append", path, url=wire.url)
        answers = [await send(f"e{number}", {}, maybe=1) for number in (3, 0, 4)]
    assert [answer["returned"] for answer in answers] == [{"timestamp": past[number]} for number in (3, 0, 4)]
    asked = [said.target.rpartition("=")[2] for said in wire.said]
    assert asked == ["1", str(past[-1]), str(past[-1])]


async def test_a_look_that_began_late_does_not_hide_what_an_earlier_process_appended(bench: Bench) -> None:
    path = f"/push/log/{bench.fresh()}"
    await losing_an_answer(bench, path, "old", {"n": 1})
    async with Wire(bench.port) as wire:
        send = await bench.sender("append", path, url=wire.url)
        first = (await send("a", {}))["returned"]["timestamp"]

        async def hung_up() -> bool:
            return len(wire.said) != 2

        wire.on_answer = hung_up
        assert (await send("b", {}))["raised"] == "UnackedError"
        assert list((await send("b", {}, maybe=1))["returned"]) == ["timestamp"]
        assert list((await send("old", {"n": 1}, maybe=1))["returned"]) == ["timestamp"]
    assert [said.target.rpartition("=")[2] for said in wire.said[2:]] == [str(first), "1"]
    assert [element["_id"] for element in await bench.elements(path)] == ["old", "a", "b"]


async def test_a_look_does_not_read_what_lies_between_it_and_the_last_one(bench: Bench) -> None:
    path = f"/push/log/{bench.fresh()}"
    async with Wire(bench.port) as wire:
        send = await bench.sender("append", path, url=wire.url)
        await send("a", {}, maybe=1)  # a look, and then it is appended
        for number in range(5):
            await bench.others_append(path, {"n": number})
        latest = (await send("b", {}))["returned"]["timestamp"]

        async def hung_up() -> bool:
            return len(wire.said) != 4

        wire.on_answer = hung_up
        assert (await send("c", {}))["raised"] == "UnackedError"
        assert list((await send("c", {}, maybe=1))["returned"]) == ["timestamp"]
    assert wire.said[-1].target.endswith(f"?checkpoint={latest}")


async def test_a_given_since_spares_the_past_of_the_log(bench: Bench) -> None:
    path = f"/push/log/{bench.fresh()}"
    past = await bench.others_append(path, {})
    async with Wire(bench.port) as wire:
        send = await bench.sender("append", path, url=wire.url, since=past)
        assert (await send("a", {}, maybe=1))["calls"] == 2
    assert wire.said[0].target.endswith(f"?checkpoint={past}")


async def test_an_entry_that_was_edited_after_it_was_sent_is_a_conflict(bench: Bench) -> None:
    path = f"/push/log/{bench.fresh()}"
    _, send = await losing_an_answer(bench, path, "a", {"n": 1})
    send = await bench.sender("append", path)
    assert (await send("a", {"n": 2}, maybe=1))["raised"] == "ConflictError"
    assert await bench.elements(path) == [{"n": 1, "_id": "a"}]


@pytest.mark.parametrize("path", ["/push/dropbox/{}", "/push/recent/{}"])
async def test_where_nobody_may_look_it_is_appended_again_and_one_warning_says_so(bench: Bench, path: str) -> None:
    """A collection that only takes, and one that answers nobody who asks for an old past."""
    path = path.format(bench.fresh())
    send = await bench.sender("append", path)
    first, second = await send("a", {}, maybe=1), await send("b", {}, maybe=1)
    assert "returned" in first
    assert "returned" in second
    assert len(first["warned"]) == 1
    assert "duplicate" in first["warned"][0]
    assert second["warned"] == []


async def test_a_log_under_another_field_is_looked_at_all_the_same(bench: Bench) -> None:
    path = f"/push/events/{bench.fresh()}"
    _, _ = await losing_an_answer(bench, path, "a", {"n": 1})
    answer = await (await bench.sender("append", path))("a", {"n": 1}, maybe=1)
    assert (answer["calls"], list(answer["returned"])) == (1, ["timestamp"])


async def test_an_item_that_has_another_id_is_refused(bench: Bench) -> None:
    path = f"/push/log/{bench.fresh()}"
    answer = await (await bench.sender("append", path))("a", {"_id": "b"})
    assert (answer["raised"], answer["calls"]) == ("RejectedError", 0)
    assert "returned" in await (await bench.sender("append", path, id_field="key"))("a", {"_id": "b"})
    assert await bench.elements(path) == [{"_id": "b", "key": "a"}]


async def test_a_document_is_no_log(bench: Bench) -> None:
    path = f"/push/obs/{bench.fresh()}"
    await bench.others_push(path, {"x": [{"id": 1}]})
    send = await bench.sender("append", path)
    for state in ({}, {"maybe": 1}):
        answer = await send("a", {"n": 1}, **state)
        assert answer["raised"] == "RejectedError"
        assert "no append-only collection" in answer["says"]


async def test_a_full_log_is_no_conflict(bench: Bench) -> None:
    path = f"/push/short/{bench.fresh()}"
    send = await bench.sender("append", path)
    answers = [await send(id, {}) for id in "abc"]
    assert [answer.get("raised") for answer in answers] == [None, None, "RejectedError"]
    assert answers[2]["says"] == "the server answered 409: append_limit_exceeded"
