"""What ``drain`` and ``watch`` show while they work: drawn on a terminal, in lines elsewhere; and what they leave."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from starfish_outbox.cli.leftovers import leftovers
from starfish_outbox.cli.output import Screen
from starfish_outbox.cli.picture import Picture
from starfish_outbox.drain import DrainProgress
from starfish_outbox.entry import LastError, StoredEntry
from starfish_outbox.testing import Answer, ManualClock, MisbehavingServer
from tests.cli import cli_process, fill, numbered, on_a_terminal, store

QUICK = ("--interval", "0.05", "--backoff", "0.01", "--backoff-cap", "0.05")


def test_on_a_terminal_it_shows_how_far_it_is_how_fast_and_how_long_it_will_take(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, numbered(30))
    with MisbehavingServer(latency=0.06) as server:
        shown = on_a_terminal("drain", "--to", server.url, "--store", place.path)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"sending +[━╸╺]+ +\d+/30 +[\d.]+/(s|min) +\d+ s left", plain), plain
    assert re.search(r"\d+ sent, 0 failed, \d+ to go · 'outbox.me' to 127.0.0.1", plain), plain
    assert f"30 sent, 0 failed, 0 left: 'outbox.me' in {place.path}" in plain.replace("\r\n", ""), plain
    assert re.fullmatch(r"took \d+ s: [\d.]+/s", plain.splitlines()[-1])
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")  # the cursor is there again


def test_on_a_terminal_it_shows_why_and_for_how_long_it_waits(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, numbered(2))
    with MisbehavingServer() as server:
        server.plan(None, Answer(503, retry_after=2))
        shown = on_a_terminal("watch", "--to", server.url, "--store", place.path, "--until-empty", *QUICK)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"waiting +BusyError: the server answered 503.*\(goes on in [12] s\)", plain, re.DOTALL), plain
    assert "1 sent, 0 failed, 1 to go" in plain


def test_where_nobody_looks_nothing_is_drawn(tmp_path: Path) -> None:
    place = store(tmp_path, "sqlite")
    fill(place, numbered(2))
    with MisbehavingServer() as server:
        ran = cli_process("drain", "--to", server.url, "--store", place.path)
    assert ran.out == f"2 sent, 0 failed, 0 left: 'outbox.me' in {place.path}\n"
    assert re.fullmatch(r"took \d+ s: [\d.]+/s\n", ran.err)


def test_where_nobody_looks_a_long_pass_says_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = ManualClock()
    picture = Picture(Screen(as_json=False, no_color=True), "about", get_time=lambda: clock() / 1000)
    with picture.shown():
        picture.begins("sending", 1200, "0 sent")
        for done in range(1, 241):  # ten a second
            clock.advance(0.1)
            picture.moved(DrainProgress(done, 0, done, 1200, f"obs-{done}", "sent"), 1200, f"{done} sent")
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert [line.rsplit(", ", 1)[0] for line in lines] == [
        "sending: 100 of 1,200, 100 sent, 10/s",
        "sending: 200 of 1,200, 200 sent, 10/s",
    ]
    assert all(re.search(r", 1 min \d+ s left$", line) for line in lines)


def test_what_is_left_is_told_by_reason_and_a_server_s_words_about_single_entries_do_not_split_it() -> None:
    def entry(number: int, status: str, message: str | None = None, due: int | None = None) -> StoredEntry:
        error = None if message is None else LastError("RejectedError", message, 5)
        return StoredEntry(number, f"obs-{number}", "1", status, 0, 0, next_attempt_ms=due, last_error=error)

    groups = leftovers(
        [
            entry(1, "queued"),
            entry(2, "failed", "the server answered 422: mass 5"),
            entry(3, "failed", "the server answered 422: mass 7"),
            entry(4, "queued", "the server answered 500", due=9_000),
            entry(5, "queued", "the server answered 500", due=8_000),
            entry(6, "queued", "the server answered 500", due=1_000),
            entry(7, "odd"),
        ],
        2_000,
    )
    assert [(group.status, group.reason, group.entries, group.id, group.next_attempt_ms) for group in groups] == [
        ("failed", "RejectedError: the server answered 422", 2, "obs-2", None),
        ("queued", "RejectedError: the server answered 500", 2, "obs-4", 8_000),
        ("queued", "it was not tried yet", 1, "obs-1", None),
        ("queued", "RejectedError: the server answered 500", 1, "obs-6", None),
        ("other", "its status is another program's", 1, "obs-7", None),
    ]
