"""Every exit code of every command, each brought about for real."""

from __future__ import annotations

import asyncio
import json
import resource
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from starfish_outbox.cli.exits import COMMANDS, MEANINGS
from starfish_outbox.cli.fields import FIELDS
from tests.cli import Ran, cli, cli_process, command, fill, has_open, needs_proc, store, wait_until
from tests.interop import INTEROP
from tests.loopback import Endpoint, serving

NOWHERE = "http://127.0.0.1:9/"  # the port that nobody answers on (discard)


def filled(folder: Path) -> Path:
    place = store(folder, "sqlite")
    fill(place, [(f"obs-{number}", "x" * 2000) for number in range(20)], fail=["obs-3"])
    return place.path


def with_bad_row(folder: Path) -> Path:
    path = filled(folder)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE entries SET attempts = 99 WHERE id = 'obs-5'")
    return path


def answered(folder: Path, status: int, *args: str) -> Ran:
    """A command that sends two entries to a server that answers every one so."""
    place = store(folder, "sqlite")
    fill(place, [("a", 1), ("b", 2)])

    async def run() -> Ran:
        server = Endpoint()
        server.answers(status)
        async with serving(server.handle) as url:
            return await asyncio.to_thread(cli, *args, "--to", url, "--store", place.path)

    return asyncio.run(run())


def watched(folder: Path, status: int) -> Ran:
    return answered(folder, status, "watch", "--until-empty", "--no-probe")


def without_room(folder: Path, *args: str) -> Ran:
    """A command whose writes fail beyond 20 kB, as on a full disk."""
    path = filled(folder)
    assert path.stat().st_size > 40_000
    limit = (20_000, 20_000)
    return cli_process(*args, "--store", path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))


def interrupted(folder: Path, *args: str) -> Ran:
    """Ctrl-C while the command waits for a database that somebody else keeps busy."""
    path = filled(folder)
    with closing(sqlite3.connect(path, isolation_level=None)) as busy:
        busy.execute("BEGIN EXCLUSIVE")
        child = subprocess.Popen(
            command(*args, "--store", path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: has_open(child, path))
        child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    return Ran(child.returncode, out, err)


def import_source(folder: Path) -> str:
    path = folder / "in.json"
    path.write_text('[{"id":"in","item":"' + "x" * 30_000 + '","status":"queued","attempts":0,"enqueuedAt":0}]')
    return str(path)


DRIVER = shlex.join([sys.executable, str(INTEROP / "drivers/python.py")])


def conformance(folder: Path, known: str = "nobody") -> Ran:
    """One case, which our driver passes."""
    path = folder / "known.json"
    path.write_text(json.dumps({"driver": known, "known": {"r03-attempts-null": {"what": "It does not."}}}))
    return cli("conformance", "--driver", DRIVER, "--case", "r03-attempts-null", "--known", path)


def interrupted_conformance(folder: Path) -> Ran:
    """Ctrl-C while a driver that was started says nothing."""
    mark = folder / "started"
    silent = f"open({str(mark)!r}, 'x').close(); import sys; sys.stdin.read()"
    child = subprocess.Popen(
        command("conformance", "--driver", shlex.join([sys.executable, "-c", silent])),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(mark.exists)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    return Ran(child.returncode, out, err)


ENDS: dict[tuple[str, int], Callable[[Path], Ran]] = {
    ("list", 0): lambda folder: cli("list", "--store", filled(folder)),
    ("list", 2): lambda folder: cli("list", "--store", folder / "nix.db"),
    ("show", 0): lambda folder: cli("show", "obs-1", "--store", filled(folder)),
    ("show", 2): lambda folder: cli("show", "obs-1", "--store", folder / "nix.db"),
    ("show", 3): lambda folder: cli("show", "nix", "--store", filled(folder)),
    ("status", 0): lambda folder: cli("status", "--store", filled(folder)),
    ("status", 2): lambda folder: cli("status", "--store", filled(folder), "--key", "nix"),
    ("check", 0): lambda folder: cli("check", filled(folder)),
    ("check", 1): lambda folder: cli("check", with_bad_row(folder)),
    ("check", 2): lambda folder: cli("check", folder / "nix.json"),
    ("export", 0): lambda folder: cli("export", folder / "out.json", "--store", filled(folder)),
    ("export", 2): lambda folder: cli("export", folder / "nix" / "out.json", "--store", filled(folder)),
    ("export", 3): lambda folder: cli("export", folder / "out.json", "--store", with_bad_row(folder)),
    ("export", 4): lambda folder: without_room(folder, "export", str(folder / "out.json")),
    ("export", 130): lambda folder: interrupted(folder, "export", str(folder / "out.json"), "--identity", "me"),
    ("import", 0): lambda folder: cli("import", import_source(folder), "--store", filled(folder), "--identity", "me"),
    ("import", 2): lambda folder: cli("import", import_source(folder), "--store", filled(folder)),
    ("import", 3): lambda folder: cli("import", with_bad_row(folder), "--store", folder / "b.db", "--key", "k"),
    ("import", 4): lambda folder: without_room(folder, "import", import_source(folder), "--identity", "me"),
    ("import", 130): lambda folder: interrupted(folder, "import", import_source(folder), "--identity", "me"),
    ("retry", 0): lambda folder: cli("retry", "obs-3", "--store", filled(folder)),
    ("retry", 2): lambda folder: cli("retry", "--store", filled(folder)),
    ("retry", 3): lambda folder: cli("retry", "nix", "--store", filled(folder)),
    ("retry", 4): lambda folder: without_room(folder, "retry", "--all-failed"),
    ("retry", 130): lambda folder: interrupted(folder, "retry", "--all-failed", "--identity", "me"),
    ("conformance", 0): conformance,
    ("conformance", 1): lambda folder: conformance(folder, known="python"),
    ("conformance", 2): lambda _: cli("conformance", "--driver", "/no/such/program"),
    ("conformance", 130): interrupted_conformance,
    ("drain", 0): lambda folder: answered(folder, 201, "drain"),
    ("drain", 2): lambda folder: cli("drain", "--to", "nonsense", "--store", filled(folder)),
    ("drain", 3): lambda folder: cli("drain", "--to", NOWHERE, "--store", filled(folder)),
    ("drain", 4): lambda folder: without_room(folder, "drain", "--to", NOWHERE),
    ("drain", 130): lambda folder: interrupted(folder, "drain", "--to", NOWHERE, "--identity", "me"),
    ("watch", 0): lambda folder: watched(folder, 201),
    ("watch", 2): lambda folder: cli("watch", "--to", "nonsense", "--store", filled(folder)),
    ("watch", 3): lambda folder: watched(folder, 422),
    ("watch", 130): lambda folder: interrupted(folder, "watch", "--to", NOWHERE, "--identity", "me"),
}


@pytest.mark.parametrize(
    ("name", "code"),
    [pytest.param(*end, marks=needs_proc if end[1] == 130 else ()) for end in ENDS],
)
def test_every_command_ends_with_every_code_that_it_documents(tmp_path: Path, name: str, code: int) -> None:
    ran = ENDS[name, code](tmp_path)
    assert ran.code == code, ran
    assert "Traceback" not in ran.err
    if code in {2, 4, 130} and name != "drain":
        assert ran.err.startswith("error: ")


def test_the_table_above_has_every_documented_code() -> None:
    assert list(ENDS) == [(name, code) for name, codes in COMMANDS.items() for code in codes]
    assert {code for codes in COMMANDS.values() for code in codes} == MEANINGS.keys()
    assert COMMANDS.keys() == FIELDS.keys()
