"""The panel without a browser: what its widgets hold, and what they do when somebody uses them."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import ipywidgets
import pytest

from starfish_outbox import MemoryCache, OutboxQueue, RejectedError
from starfish_outbox.notebook.blocking import BlockingOutbox
from starfish_outbox.notebook.panel import OutboxPanel
from starfish_outbox.notebook.timeline import plot
from tests.drains import Server, opened_with
from tests.panels import done, idle, seen

ROOT = Path(__file__).parents[1]


def widgets(panel: Any) -> Iterator[Any]:
    yield panel
    for child in getattr(panel, "children", ()):
        yield from widgets(child)


def named(panel: OutboxPanel, description: str) -> Any:
    (found,) = [one for one in widgets(panel) if getattr(one, "description", None) == description]
    return found


def html(panel: OutboxPanel) -> str:
    return "\n".join(one.value for one in widgets(panel) if type(one) is ipywidgets.HTML and "<style>" not in one.value)


async def settled(panel: OutboxPanel) -> None:
    """Returns when what was pressed was done and drawn."""
    await done(panel.controller.refresh())  # it comes behind what was pressed before
    await idle(panel.controller)
    await asyncio.sleep(0.2)  # more than what lies between two drawings


async def test_buttons_can_be_pressed_when_there_is_something_to_do() -> None:
    queue, server = await opened_with(3), Server()
    server.script["e1"].append(RejectedError("HTTP 422"))
    panel = OutboxPanel(queue, server.send)
    names = ("Drain", "Pause", "Stop", "Retry failed")
    assert [named(panel, name).disabled for name in names] == [False, True, True, True]
    assert "Drain sends what is queued." in html(panel)
    named(panel, "Drain").click()
    await settled(panel)
    assert [named(panel, name).disabled for name in names] == [True, True, True, False]
    assert "<b>2</b> sent" in html(panel)
    assert 'role="alert"' in html(panel)
    assert "&#x27;e1&#x27; was parked: RejectedError: HTTP 422" in html(panel)
    named(panel, "Dismiss").click()
    named(panel, "Retry failed").click()
    await settled(panel)
    assert 'role="alert"' not in html(panel)
    named(panel, "Drain").click()
    await settled(panel)
    assert server.taken == ["e0", "e2", "e1"]
    assert "Nothing is waiting." in html(panel)
    panel.close()


async def test_pause_becomes_resume() -> None:
    queue, server = await opened_with(4), Server(0.05)
    panel = OutboxPanel(queue, server.send)
    named(panel, "Drain").click()
    await asyncio.sleep(0.02)
    named(panel, "Pause").click()
    await seen(panel.controller, lambda state: state.mode == "paused")
    await asyncio.sleep(0.2)
    assert "Resume goes on, Stop ends it." in html(panel)
    named(panel, "Resume").click()
    await settled(panel)
    assert len(server.taken) == 4
    named(panel, "Pause")


async def test_settings_reach_the_drain_and_follow_it() -> None:
    queue, server = await opened_with(0), Server()
    panel = OutboxPanel(queue, server.send, max_attempts=3)
    assert named(panel, "Attempts").value == 3
    named(panel, "Attempts").value = 7
    named(panel, "At a time").value = 4
    named(panel, "Network").value = False
    named(panel, "Lose answers, %").value = 25
    named(panel, "Show").value = "failed"
    await settled(panel)
    state = panel.controller.state
    assert (state.max_attempts, state.concurrency, state.online) == (7, 4, False)
    assert (state.lose_answers, state.only) == (0.25, "failed")
    await asyncio.wrap_future(panel.controller.set_limits(max_attempts=2))
    await asyncio.wrap_future(panel.controller.switch(True))
    await settled(panel)
    assert (named(panel, "Attempts").value, named(panel, "Network").value) == (2, True)
    await asyncio.wrap_future(panel.controller.close())
    named(panel, "Keep draining").value = True  # refused: it falls back
    await settled(panel)
    assert not named(panel, "Keep draining").value


async def test_what_somebody_chooses_is_not_taken_back_by_what_was_drawn_before() -> None:
    queue = await opened_with(0)
    panel = OutboxPanel(queue, Server().send)
    for number in range(2, 40):
        named(panel, "Attempts").value = number
        panel._show()  # a picture of what was so before the choice was heard of
        await asyncio.sleep(0)
    await settled(panel)
    assert (panel.controller.state.max_attempts, named(panel, "Attempts").value) == (39, 39)


async def test_a_parked_entry_is_corrected_and_what_somebody_types_stays() -> None:
    queue, server = await opened_with(2), Server()
    for id in ("e0", "e1"):
        server.script[id].append(RejectedError("no"))
    panel = OutboxPanel(queue, server.send)
    named(panel, "Drain").click()
    await settled(panel)
    await asyncio.wrap_future(panel.controller.select("e0"))
    await settled(panel)
    item = next(one for one in widgets(panel) if isinstance(one, ipywidgets.Textarea))
    assert item.value == "0"
    item.value = '{"better": 1}'
    await queue.remove("e1")  # something else changes
    await asyncio.sleep(0.6)
    assert item.value == '{"better": 1}'
    named(panel, "Save and requeue").click()
    await settled(panel)
    assert [(entry.id, entry.item, entry.status) for entry in queue.get()] == [("e0", {"better": 1}, "queued")]


async def test_an_entry_is_removed_only_when_that_is_confirmed() -> None:
    queue = await opened_with(2)
    panel = OutboxPanel(queue, Server().send)
    await asyncio.wrap_future(panel.controller.select("e0"))
    await settled(panel)
    named(panel, "Remove…").click()
    assert "for good?" in html(panel)
    named(panel, "Keep it").click()
    assert "for good?" not in html(panel)
    assert len(queue.get()) == 2
    named(panel, "Remove…").click()
    named(panel, "Remove it").click()
    await settled(panel)
    assert [entry.id for entry in queue.get()] == ["e1"]


async def test_entries_are_added_with_the_form() -> None:
    queue = await opened_with(0)
    panel = OutboxPanel(queue, Server().send)
    named(panel, "How many").value = 3
    named(panel, "Add to the outbox").click()
    await settled(panel)
    assert [entry.id for entry in queue.get()] == ["note-1-1", "note-1-2", "note-1-3"]
    assert "<b>3</b> queued" in html(panel)


async def test_pictures_are_drawn_when_they_are_looked_at() -> None:
    queue = await opened_with(2)
    panel = OutboxPanel(queue, Server().send)
    (tabs,) = [one for one in widgets(panel) if isinstance(one, ipywidgets.Tab)]
    named(panel, "Drain").click()
    await settled(panel)
    assert "<svg" not in html(panel)
    tabs.selected_index = 1
    await asyncio.sleep(1.1)
    assert "<svg" in html(panel)
    tabs.selected_index = 2
    await asyncio.sleep(1.1)
    assert "Pass ended (finished): 2 sent" in html(panel)
    assert plot(panel) is plot(queue) is panel.controller.timeline


async def test_who_has_no_kernel_gets_text_and_a_table() -> None:
    queue = await opened_with(2)
    await queue.enqueue("<b>", "<script>")
    panel = OutboxPanel(queue, Server().send)
    bundle = panel._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    assert bundle["text/plain"] == "<OutboxPanel of 'outbox.ana': 3 queued, 0 sending, 0 failed>"
    assert "last known, as of" in bundle["text/html"]
    assert "<script>" not in bundle["text/html"]
    assert "&lt;b&gt;" in bundle["text/html"]


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "\u202eabc", "</div><div>", 'q"><b>q'])
async def test_hostile_texts_are_escaped_wherever_they_stand(text: str) -> None:
    async def refuse(_: object) -> None:
        raise RejectedError(text)

    panels = []
    for said in (text, "harmless"):
        queue = OutboxQueue[Any](MemoryCache())
        await queue.hydrate(f"outbox.{said}")
        await queue.enqueue(said, {said: said})
        panel = OutboxPanel(queue, refuse)
        named(panel, "Drain").click()
        await settled(panel)
        await asyncio.wrap_future(panel.controller.select(said))
        await asyncio.wrap_future(panel.controller.enqueue(said, said))
        await settled(panel)
        named(panel, "Remove…").click()
        panels.append(html(panel))
    tags = [re.findall(r"<[a-z/][^>]*", page) for page in panels]
    assert len(tags[0]) == len(tags[1])
    assert text not in panels[0]


def test_without_a_running_loop_there_is_a_hint() -> None:
    queue = OutboxQueue[Any](MemoryCache())
    with pytest.raises(RuntimeError, match="give it a BlockingOutbox"):
        OutboxPanel(queue, print)


async def test_what_is_no_outbox_is_refused() -> None:
    with pytest.raises(TypeError, match="a panel is for an OutboxQueue or a BlockingOutbox"):
        OutboxPanel(MemoryCache(), print)


def test_a_panel_on_a_blocking_outbox_needs_no_loop(tmp_path: Path) -> None:
    got: list[str] = []
    with BlockingOutbox("me", tmp_path / "outbox.db") as outbox:
        outbox.enqueue_many([(f"e{number}", number) for number in range(5)])
        panel = OutboxPanel(outbox, lambda entry: got.append(entry.id))
        named(panel, "Drain").click()
        outbox.wait_for("e4", timeout=30)
        panel.controller.close().result(30)
        assert "<b>5</b> sent" in html(panel)
    assert got == [f"e{number}" for number in range(5)]
    named(panel, "Keep draining").value = True
    assert "the outbox was closed; open it again" in html(panel)


def test_the_wheel_has_what_the_front_end_needs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    assert {f"starfish_outbox/notebook/{name}" for name in ("table.js", "table.css", "panel.css")} <= names


def test_a_missing_ipywidgets_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['ipywidgets'] = None\n"
        "try:\n    import starfish_outbox.notebook.panel\n"
        "except ImportError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said == "OutboxPanel needs ipywidgets: pip install 'starfish-outbox[notebook]'\n"
