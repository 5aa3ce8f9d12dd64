"""The table of a panel, as its front end sees it: windows, and what is sent of them. No browser."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from starfish_outbox import OutboxQueue, RejectedError
from starfish_outbox.notebook.cards import previews
from starfish_outbox.notebook.controller import PanelController
from starfish_outbox.notebook.plain import PAGE, EntryList
from starfish_outbox.notebook.table import EntryTable, rows_of
from tests.drains import Server, in_virtual_time, opened_with
from tests.panels import done, seen


class Seen(EntryTable):
    """The table, and what it sends to its front end."""

    def __init__(self, controller: PanelController) -> None:
        self.sent: list[dict[str, Any]] = []
        super().__init__(controller, "Outbox outbox.me", rows_of(controller, 0, 5))

    def send(self, content: dict[str, Any], buffers: Any = None) -> None:
        self.sent.append(content)

    def asks(self, number: int = 1, start: int = 0, count: int = 3, view: str = "a") -> None:
        self._heard(self, {"type": "window", "view": view, "number": number, "start": start, "count": count}, [])


def table_of(queue: OutboxQueue[Any], server: Server) -> tuple[PanelController, Seen]:
    controller = PanelController(queue, server.send, loop=asyncio.get_running_loop())
    return controller, Seen(controller)


async def test_the_first_rows_are_there_before_anybody_asks() -> None:
    _, table = table_of(await opened_with(9), Server())
    assert [row[0] for row in table.first["rows"]] == ["e0", "e1", "e2", "e3", "e4"]
    assert table.first["total"] == 9
    assert table.first["rows"][0][1:] == ["e0", "queued", 0, "0 s", "0", ""]
    assert table.title == "Outbox outbox.me"


def test_a_window_is_answered_by_number_and_told_when_it_changes() -> None:
    async def main() -> None:
        queue, server = await opened_with(9), Server(1.0)
        controller, table = table_of(queue, server)
        table.asks(number=7, start=2)
        await asyncio.sleep(0.001)
        assert [(told["number"], told["start"], [row[0] for row in told["rows"]]) for told in table.sent] == [
            (7, 2, ["e2", "e3", "e4"])
        ]
        await done(controller.drain())
        await asyncio.sleep(1.9)
        assert [(told["number"], told["total"], [row[0] for row in told["rows"]]) for told in table.sent[-1:]] == [
            (None, 8, ["e3", "e4", "e5"])
        ]
        before = len(table.sent)
        await done(controller.lose_answers(0.5))  # nothing that a row shows
        await asyncio.sleep(0.05)
        assert len(table.sent) == before
        await done(controller.close())

    in_virtual_time(main())


def test_each_view_has_a_window_and_one_that_is_silent_or_says_so_is_gone() -> None:
    async def main() -> None:
        queue, server = await opened_with(5), Server()
        controller, table = table_of(queue, server)
        for view in ("a", "b", "c"):
            table.asks(view=view)
        await asyncio.sleep(0.001)
        table._heard(table, {"type": "gone", "view": "c"}, [])
        await asyncio.sleep(31)
        table.asks(number=2, view="a")
        await asyncio.sleep(0.001)
        table.sent.clear()
        await done(controller.enqueue("new", "1"))
        await done(controller.show_only("queued"))
        await asyncio.sleep(1)
        assert {told["view"] for told in table.sent} == {"a"}

    in_virtual_time(main())


def test_a_front_end_that_looks_learns_what_other_processes_did() -> None:
    async def main() -> None:
        queue = await opened_with(1)
        refreshed: list[int] = []
        real = queue.refresh

        async def counted() -> None:
            refreshed.append(1)
            await real()

        queue.refresh = counted  # type: ignore[method-assign]  # a counter in front of the real one
        _, table = table_of(queue, Server())
        for _ in range(11):
            table.asks()
            await asyncio.sleep(1)
        assert len(refreshed) == 2

    in_virtual_time(main())


async def test_what_is_asked_wrongly_is_passed_over() -> None:
    _, table = table_of(await opened_with(3), Server())
    for content in (
        "no",
        {"type": "window"},
        {"type": "window", "view": 1, "number": "x"},
        {"type": "select", "id": 3},
    ):
        table._heard(table, content, [])
    table.asks(start=-5, count=10**9)
    await asyncio.sleep(0)
    assert [len(told["rows"]) for told in table.sent] == [3]


async def test_a_row_that_is_chosen_is_looked_at_and_marked() -> None:
    controller, table = table_of(await opened_with(3), Server())
    table._heard(table, {"type": "select", "id": "e1"}, [])
    await seen(controller, lambda state: state.selected is not None)
    assert rows_of(controller, 0, 3)["selected"] == "e1"


async def test_what_nobody_would_see_is_spelled_out_and_items_are_shown_only_if_wanted() -> None:
    queue, server = await opened_with(0), Server()
    await queue.enqueue("a\u202eb", {"secret": "\u0000<b>"})
    server.script["a\u202eb"].append(RejectedError("\u2028<i>"))
    controller, _ = table_of(queue, server)
    await done(controller.drain())
    await seen(controller, lambda state: not state.running)
    (row,) = rows_of(controller, 0, 3)["rows"]
    assert row[:4] == ["a\u202eb", "a\\u202eb", "failed", 1]
    assert row[5:] == ['{"secret": "\\u0000<b>"}', "RejectedError: \\u2028<i>"]
    previews(False)
    try:
        (row,) = rows_of(controller, 0, 3)["rows"]
        assert "secret" not in str(row)
    finally:
        previews(True)


@pytest.mark.parametrize("count", [0, 3, 45])
async def test_without_anywidget_a_list_has_pages(count: int) -> None:
    queue = await opened_with(count)
    controller = PanelController(queue, Server().send, loop=asyncio.get_running_loop())
    entries = EntryList(controller)
    await asyncio.sleep(0)
    select, (back, on, where) = entries.children[0], entries.children[1].children
    assert len(select.options) == min(count, PAGE)
    assert back.disabled
    assert on.disabled is (count <= PAGE)
    if not count:
        assert where.value == "Nothing is waiting."
        return
    if count > PAGE:
        on.click()
        on.click()
        await asyncio.sleep(0)
        assert where.value == "41–45 of 45"
        assert on.disabled
        assert not back.disabled
    select.value = select.options[1][1]
    await seen(controller, lambda state: state.selected is not None)
    assert controller.state.selected is not None
    assert controller.state.selected.id == select.value
    await done(controller.remove(select.value))
    await asyncio.sleep(0.3)
    assert select.value is None
