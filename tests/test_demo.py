"""The whole demo, as its user starts it: on the penguins, on odd files of one's own, and with wrong arguments."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from starfish_outbox import open_outbox
from starfish_outbox.demo.__main__ import main
from starfish_outbox.demo.report import Screen
from starfish_outbox.demo.server import RECORDS, read_lines
from starfish_outbox.demo.story import Figures, Plan, tell
from starfish_outbox.demo.survey import PENGUIN_ID, penguins, read_survey

ROW = re.compile(r"[│┃|] (.+?) +[│┃|] (.+?) +[│┃|]")


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "starfish_outbox.demo", *arguments],
        capture_output=True, text=True, encoding="utf-8", timeout=110, check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip


def figures_in(output: str) -> dict[str, str]:
    """The table at the end, as it was printed."""
    return dict(ROW.findall(output))


def test_the_penguins_are_collected_killed_and_delivered_whole(tmp_path: Path) -> None:
    ran = demo(f"--directory={tmp_path / 'demo'}")
    assert ran.stderr == ""
    assert ran.returncode == 0, ran.stdout
    assert "344 observations of 17 columns" in ran.stdout
    table = figures_in(ran.stdout)
    assert {name: table[name] for name in ("observed", "stored", "sent")} == {
        "observed": "344",
        "stored": "344",
        "sent": "344",
    }
    assert [table[name] for name in ("acknowledged and lost", "duplicates at the server", "left", "failed")] == [
        "0"
    ] * 4
    # The faults really happened.
    assert 172 <= int(table["collector killed after"]) < 344
    assert 0 < int(table["server killed after"]) < 344
    assert int(table["acknowledgements lost"]) > 0
    assert int(table["passes while offline"]) > 0
    assert int(table["requests made"]) >= 344 + int(table["acknowledgements lost"])
    assert float(table["seconds"]) < 60
    assert table["outbox"] == str(tmp_path / "demo" / "outbox.db")
    assert f"{344 * 17:,} cells compared, none differs" in ran.stdout
    assert ran.stdout.count("it tried to drain: offline, 0 sent, 0 parked") == 3
    assert "\x1b" not in ran.stdout
    assert (tmp_path / "demo" / "outbox.db").is_file()


def test_a_file_of_ones_own_with_repeated_ids_and_odd_cells(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "\ufeffsite,plot,mass,note,__proto__\r\n"
        'A,1,3750,"said ""hello"",\r\nthen left",x\r\n'
        "A,2,-999,Küken 🐧,=1+1\r\n"
        'A,1,3750,"said ""hello"",\r\nthen left",x\r\n'  # the same again
        "A,2,12,other cells,\r\n"  # the same id, other cells
        "B/C,%,007,\u2028\u0000,9007199254740993\r\n"
        ",3,1.50,NA,-0\r\n"
        "<b>,4,8.3945900000000009,[red]x[/red],1e400\r\n",
        encoding="utf-8",
        newline="",
    )
    ran = demo(f"--csv={path}", "--id=site, plot", "--na", "-999", "n/a", f"--directory={tmp_path / 'demo'}")
    assert ran.stderr == ""
    assert ran.returncode == 0, ran.stdout
    assert "7 observations of 5 columns" in ran.stdout
    assert "2 of them repeat an id (1 with the same cells)" in ran.stdout
    assert "line 6, id 'A/1': the same as line 3" in ran.stdout
    assert "line 7, id 'A/2': not the same as line 4" in ran.stdout
    table = figures_in(ran.stdout)
    assert (table["observed"], table["stored"], table["sent"], table["failed"]) == ("7", "5", "5", "0")
    records = {line["key"]: line["item"] for line in read_lines(tmp_path / "demo" / "server" / RECORDS)}
    assert records["A/2"] == {"site": "A", "plot": 2, "mass": None, "note": "Küken 🐧", "__proto__": "=1+1"}
    assert records["B%252FC/%2525"] == {
        "site": "B/C", "plot": "%", "mass": "007", "note": "\u2028\u0000", "__proto__": "9007199254740993"
    }  # fmt: skip
    assert records["/3"] == {"site": None, "plot": 3, "mass": "1.50", "note": "NA", "__proto__": "-0"}
    assert records["<b>/4"]["mass"] == 8.39459000000000


def test_a_file_of_one_row_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("id\nx\n")
    ran = demo(f"--csv={path}", "--id=id", f"--directory={tmp_path / 'demo'}")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table = figures_in(ran.stdout)
    assert (table["observed"], table["stored"], table["sent"], table["left"]) == ("1", "1", "1", "0")


async def test_many_rows_are_collected_in_steps_and_half_of_all_answers_may_get_lost(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    path.write_text("id,x\n" + "".join(f"{n},{n % 7}\n" for n in range(800)))
    survey = read_survey(path, "id")
    out = io.StringIO()
    plan = Plan(tmp_path / "demo", "id", [], lose=0.2)
    plan.directory.mkdir()
    figures = await tell(survey, plan, Screen(Console(file=out)))
    assert figures.good, out.getvalue()
    assert (figures.stored, figures.sent, figures.duplicates, figures.lost) == (800, 800, 0, 0)
    assert figures.acks_lost > 80
    assert figures.requests >= 800 + figures.acks_lost
    assert figures.killed_after is not None
    assert figures.killed_after % 2 == 0  # a step of two rows is acknowledged as a whole
    assert figures.server_killed_after is not None


async def test_the_outbox_that_is_left_is_empty_and_remembers_what_was_sent(tmp_path: Path) -> None:
    plan = Plan(tmp_path, "id", [])
    path = tmp_path / "few.csv"
    path.write_text("id,x\n" + "".join(f"n{n},{n}\n" for n in range(20)))
    assert (await tell(read_survey(path, "id"), plan, Screen(Console(file=io.StringIO())))).good
    async with open_outbox("demo", plan.outbox) as queue:
        assert queue.get() == []
        assert not await queue.enqueue("n7", {"id": "n7", "x": 7})  # a cell that is run again sends nothing twice


async def test_a_record_that_was_changed_at_the_server_breaks_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from starfish_outbox.demo.story import _compare

    plan = Plan(tmp_path, "id", ["NA"])
    path = tmp_path / "few.csv"
    path.write_text("id,x\n" + "".join(f"n{n},{n}\n" for n in range(20)))
    survey = read_survey(path, "id")
    out = io.StringIO()
    screen = Screen(Console(file=out))
    assert (await tell(survey, plan, screen)).good
    records = list(read_lines(plan.records / RECORDS))
    records[3]["item"]["x"] = 99
    records.append(records[5])
    (plan.records / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records))
    figures = Figures()
    _compare(survey, plan, figures)
    assert (figures.comparison.differing, figures.duplicates) == (1, 1)
    assert not figures.good
    screen.verdict(figures, plan)
    assert "do not agree with the file: of 40 cells 1 differ" in out.getvalue()
    assert "'x': '3' in the file, 99 there" in out.getvalue()


def test_on_a_terminal_a_bar_with_the_time_left_moves() -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, force_terminal=True, width=100, legacy_windows=False))
    with screen.progress("delivered", 10) as advance:
        advance(4)
        screen.say("a line [above] the bar")
        advance(10)
    shown = out.getvalue()
    assert "a line [above] the bar" in shown
    assert "10/10" in shown
    assert re.search(r"\d:\d\d:\d\d", shown)


def test_in_a_log_progress_is_a_line_a_quarter() -> None:
    out = io.StringIO()
    with Screen(Console(file=out)).progress("delivered", 1000) as advance:
        for done in range(1001):
            advance(done)
    assert out.getvalue().splitlines() == [
        "  delivered 250 of 1,000",
        "  delivered 500 of 1,000",
        "  delivered 750 of 1,000",
        "  delivered 1,000 of 1,000",
    ]


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (None, ["--csv=nowhere.csv", "--id=id"], "nowhere.csv cannot be read: No such file"),
        ("id,x\na,1\n", ["--csv={}", "--id=nest"], "has no column 'nest'; it has 'id', 'x'"),
        ("", ["--csv={}", "--id=id"], "is empty"),
        ("id,id\na,1\n", ["--csv={}", "--id=id"], "more than one column named 'id'"),
        ("id\na\n", ["--csv={}", "--id=id", "--directory={dir}"], "is not empty; name a new directory"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, arguments: list[str], words: str
) -> None:
    path = tmp_path / "mine.csv"
    if text is not None:
        path.write_text(text)
    assert main([argument.format(path, dir=tmp_path) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--csv=x.csv"], "--csv and --id go together"),
        (["--id=x"], "--csv and --id go together"),
        (["--lose=0.9"], "a share from 0 to 0.5"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments_are_explained(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_without_rich_the_message_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("starfish_outbox.demo.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main([]) == 2
    assert "pip install 'starfish-outbox[demo]'" in capsys.readouterr().err


def test_a_row_that_the_outbox_refuses_ends_the_demo_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "large.csv"
    path.write_text("id,x,y\na," + "x" * 700_000 + "," + "y" * 700_000 + "\n")
    assert main([f"--csv={path}", "--id=id", f"--directory={tmp_path / 'demo'}"]) == 1
    said = capsys.readouterr().err
    assert "ItemError" in said
    assert "Traceback" not in said


def test_the_penguins_have_the_id_that_the_demo_uses() -> None:
    assert read_survey(penguins(), PENGUIN_ID).repeats == []
