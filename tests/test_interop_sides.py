"""The notebook helper: a few steps in Python, the next in Node, on one stored queue, and what is shown of it."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import FileCache, OutboxQueue
from starfish_outbox.conformance import TwoLanguages
from starfish_outbox.conformance.driver import DriverDiedError
from starfish_outbox.conformance.sides import NotSetUpError
from tests.interop import INTEROP

KEY = "outbox.ana"
AT = 1_700_000_000_000
SCRIPT = '<script>alert("1")</script><img src=x onerror=alert(2)>'
VOID = {"br"}


class Page(HTMLParser):
    """What a browser would make of it: every tag with its attributes, and what is to be read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += "" if self.open[-1:] == ["style"] else f"{data} "


def page(shown: Any) -> Page:
    html = shown._repr_html_()
    found = Page(html)
    assert found.open == []
    assert {tag for tag, _ in found.tags} <= {
        *("style", "div", "table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"),
        *("p", "b", "br", "code", "span", "ul", "li", "details", "summary"),
    }
    assert {name for _, attributes in found.tags for name, _ in attributes} <= {"class", "scope", "colspan"}
    assert not any(word in html for word in ("url(", "@import", "http:", "https:"))
    return found


def processes(both: TwoLanguages) -> list[int]:
    return [driver.pid for driver in both._drivers.values()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(params=["queue", "queue.db"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> TwoLanguages:
    return TwoLanguages(tmp_path / "new" / request.param, key=KEY, interop=INTEROP, clock_ms=AT)


def test_each_side_goes_on_where_the_other_stopped(both: TwoLanguages) -> None:
    added = both.python("enqueue", id="a", item={"species": "Adélie", "mass_g": 3750.0})
    both.typescript("enqueue", id="b", item=[1, None])
    drained = both.typescript("drain", outcomes={"a": ["error"]}, max_attempts=1)
    retried = both.python("retry", id="a")
    assert (added.value, added.error, added.language) == (True, None, "Python")
    assert (drained.value["sent"], drained.value["failed"]) == (1, 1)
    assert [entry["id"] for entry in drained.value["sends"]] == ["a", "b"]
    assert drained.outcome == "sent 1, failed 1"
    entry = {"id": "a", "item": {"species": "Adélie", "mass_g": 3750}, "attempts": 1, "enqueuedAt": AT}
    assert drained.entries == [{**entry, "status": "failed"}]
    assert json.loads(retried.text or "") == retried.entries == [{**entry, "status": "queued"}]
    assert both.agree()
    assert [(step.number, step.side) for step in both.steps[-2:]] == [(5, "python"), (6, "typescript")]
    words = page(both).words
    assert "both read the same" in words
    assert f"{KEY} in {both.path}" in words


def test_while_python_holds_the_queue_node_is_refused_and_that_is_its_answer(both: TwoLanguages) -> None:
    both.python("enqueue", id="a", item=1)
    with both.holding("python") as held:
        assert held.error is None
        both.python("enqueue", id="b", item=2)
        refused = both.typescript("drain")
    assert refused.error is not None
    assert (refused.error.kind, refused.error.name) == ("locked", "QueueLockedError")
    assert (refused.value, refused.entries) == (None, None)
    assert [entry["id"] for entry in json.loads(refused.text or "")] == ["a", "b"]
    sent = both.typescript("drain")
    assert sent.value["sent"] == 2
    assert [step.op for step in both.steps] == ["enqueue", "hold", "enqueue", "drain", "let go", "drain"]
    words = page(both).words
    assert "QueueLockedError" in words
    assert "opens the queue and keeps it" in words


def test_while_node_holds_a_queue_of_files_python_is_refused(tmp_path: Path) -> None:
    both = TwoLanguages(tmp_path, key=KEY, interop=INTEROP)
    with both.holding("typescript"):
        with pytest.raises(RuntimeError, match="TypeScript holds the queue already"), both.holding("python"):
            pass
        refused = both.python("enqueue", id="a", item=1)
        assert both.typescript("claim", id="a").value is False
    assert refused.error is not None
    assert refused.error.kind == "locked"
    assert "QueueLockedError" in str(refused)


async def test_a_queue_that_is_open_in_the_notebook_is_refused_to_both_and_nothing_is_held(tmp_path: Path) -> None:
    both = TwoLanguages(tmp_path, key=KEY, interop=INTEROP)
    async with OutboxQueue[int](FileCache(tmp_path)) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue("a", 1)
        with both.holding("typescript") as held:
            refused = both.typescript("remove", id="a")
        for step in (held, refused):
            assert step.error is not None
            assert step.error.kind == "locked"
        assert [step.op for step in both.steps] == ["hold", "remove"]
    assert both.typescript("remove", id="a").text == "[]"


def test_a_cell_that_is_run_again_goes_on_with_what_is_stored(both: TwoLanguages) -> None:
    both.python("enqueue", id="a", item=1)
    again = TwoLanguages(both.path, key=KEY, interop=INTEROP, clock_ms=AT + 5)
    repeated = again.python("enqueue", id="a", item=1)
    assert (repeated.value, repeated.number) == (False, 1)
    assert repeated.text == both.steps[-1].text
    both.typescript("enqueue", id="a", item=1)
    assert "as before" in page(both).words


async def test_it_works_while_an_event_loop_runs(tmp_path: Path) -> None:
    both = TwoLanguages(tmp_path, key=KEY, interop=INTEROP)
    assert both.typescript("enqueue", id="a", item=1).error is None
    assert both.python("get").value[0]["id"] == "a"


def test_the_processes_end_with_the_object_and_start_again_when_they_are_needed(tmp_path: Path) -> None:
    with TwoLanguages(tmp_path, key=KEY, interop=INTEROP) as both:
        both.python("enqueue", id="a", item=1)
        both.typescript("get")
        pids = processes(both)
        assert len(pids) == 2
    assert not any(map(is_alive, pids))
    assert both.typescript("get").value[0]["id"] == "a"
    (pid,) = processes(both)
    del both
    gc.collect()
    assert not is_alive(pid)


def test_a_process_that_was_killed_is_an_error_and_is_started_again(both: TwoLanguages) -> None:
    both.python("enqueue", id="a", item=1)
    os.kill(processes(both)[0], signal.SIGKILL)
    with pytest.raises(DriverDiedError):
        both.python("get")
    assert both.python("get").value[0]["id"] == "a"


def test_an_interrupted_step_leaves_no_answer_behind_and_holds_nothing(tmp_path: Path) -> None:
    """What hangs is ended at once; else its late answer would be taken for that of the next step."""
    both = TwoLanguages(tmp_path, key=KEY, interop=INTEROP)
    both.python("enqueue", id="a", item=1)
    os.kill(processes(both)[0], signal.SIGSTOP)
    main = threading.get_ident()
    interrupt = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # wherever it strikes
        interrupt.start()
        both.python("claim", id="a")
    assert both.typescript("claim", id="a").value is True
    assert [entry["status"] for entry in both.python("get").value] == ["queued"]
    assert [step.op for step in both.steps] == ["enqueue", "claim", "get"]


def test_what_the_sides_read_differently_is_said(tmp_path: Path) -> None:
    """Python notes at once that an entry which was found `sending` may have been sent."""
    both = TwoLanguages(tmp_path, key=KEY, interop=INTEROP, clock_ms=AT)
    both.typescript("enqueue", id="a", item=1)
    assert "one side has not read it yet" in page(both).words
    both.typescript("claim", id="a")
    assert not both.agree()
    assert "they read it differently" in page(both).words
    both.python("remove", id="a")
    assert "changed since TypeScript read it" in page(both).words


def test_every_value_is_escaped_and_long_ones_are_cut(tmp_path: Path) -> None:
    both = TwoLanguages(tmp_path, key=f"outbox.{SCRIPT}"[:40], interop=INTEROP, clock_ms=AT)
    added = both.python("enqueue", id=SCRIPT, item={SCRIPT: SCRIPT})
    both.typescript("enqueue", id="long", item="x" * 5000)
    both.typescript("get")
    refused = both.python("enqueue", id="\ud800<b>", item={"</td><script>": 2**53 + 1})
    assert refused.error is not None
    shown = page(both)
    spelled = json.dumps(SCRIPT, ensure_ascii=False)
    assert shown.words.count(spelled) >= 6  # id, key and value of the item: as given and as stored
    assert "</td><script>" in shown.words
    assert "\\ud800<b>" in shown.words
    assert "(5,002 characters)" in shown.words
    assert "x" * 4000 not in shown.words
    assert spelled in page(added).words
    shown_in_lines = f"{both!r}\n{both}"
    assert "alert" in shown_in_lines
    assert "xxxx" not in shown_in_lines
    assert str(both).count("\n") == 4


def test_a_stored_text_of_any_kind_is_shown(tmp_path: Path) -> None:
    both = TwoLanguages(tmp_path, key=KEY, interop=INTEROP, clock_ms=AT)
    assert "nothing was done yet" in page(both).words
    file = tmp_path / f"{KEY}.json"
    both.python("get")
    assert "nothing" in page(both).words
    for text in ('{"v":2}', '[1,null,{"status":["<b>"]}]', "[{"):
        file.write_text(text)
        assert both.typescript("get").text == text
        assert text in page(both).words


@pytest.mark.parametrize(
    ("op", "arguments", "error", "words"),
    [
        ("sing", {}, ValueError, "no operation 'sing'; there are hydrate, enqueue, .*record_failure"),
        ("enqueue", {"id": "a"}, TypeError, "enqueue takes id, item, ts and needs id, item; it was given id"),
        ("claim", {"id": "a", "item": 1}, TypeError, "claim takes id and needs id"),
        ("record_failure", {"id": "a"}, TypeError, "takes id, max_attempts and needs id, max_attempts"),
        ("get", {"look": KEY}, TypeError, "get takes nothing and needs nothing; it was given look"),
        ("enqueue", {"id": "a", "item": {1}}, TypeError, "set is not JSON serializable"),
    ],
)
def test_what_is_asked_wrongly_is_an_error_at_once(
    op: str, arguments: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    both = TwoLanguages(tmp_path, interop=INTEROP)
    with pytest.raises(error, match=words):
        both.python(op, **arguments)
    assert both.steps == []


def test_what_is_not_installed_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotSetUpError, match=r"not in the wheel.*npm ci.*interop="):
        TwoLanguages(tmp_path, interop=tmp_path / "nowhere")
    (tmp_path / "interop/drivers").mkdir(parents=True)
    (tmp_path / "interop/drivers/typescript.mjs").touch()
    monkeypatch.chdir(tmp_path / "interop/drivers")
    with pytest.raises(NotSetUpError, match=f"run `npm ci` in {tmp_path / 'interop'}"):
        TwoLanguages(tmp_path)  # the folder above the working directory is found first
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSetUpError, match="no `node` on the PATH: install Node 20"):
        TwoLanguages(tmp_path, interop=INTEROP)


def test_importing_it_needs_the_standard_library_alone() -> None:
    code = (
        "import sys, starfish_outbox.conformance as it\n"
        "assert 'starfish_outbox.conformance.sides' not in sys.modules\n"
        "it.TwoLanguages\n"
        "assert not {'jsonschema', 'jinja2', 'rich', 'typer', 'httpx'} & sys.modules.keys()\n"
        "assert not hasattr(it, 'ThreeLanguages')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=INTEROP)
