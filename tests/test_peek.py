"""Looking at a store without owning it: what is seen, and that looking leaves no trace."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from starfish_outbox.caches import rows
from starfish_outbox.caches.file import file_name
from starfish_outbox.caches.owner import OwnerLock
from starfish_outbox.caches.peek_sqlite import DatabasePeek
from starfish_outbox.caches.peek_text import TextPeek, key_of, key_of_file
from starfish_outbox.caches.probe import lock_is_held
from starfish_outbox.errors import CacheError, CorruptQueueError
from tests.cli import KEY, everything, fill, store


def filled(folder: Path, number: int = 3) -> Path:
    place = store(folder, "sqlite")
    fill(place, [(f"obs-{index}", "x" * 3000) for index in range(number)])
    return place.path


def cut_off_commit(path: Path) -> None:
    """Leaves the file as a process does that is killed in the middle of a commit: half written, with a hot journal."""
    code = """if True:
        import os, signal, sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = 1")  # so that pages are written before the commit
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE entries SET item = replace(item, 'x', 'y')")
        os.kill(os.getpid(), signal.SIGKILL)"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    journal = path.with_name(f"{path.name}-journal")
    assert journal.stat().st_size > 512
    readonly = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    with closing(readonly), pytest.raises(sqlite3.OperationalError):
        readonly.execute("SELECT count(*) FROM entries")


def test_a_commit_that_was_cut_off_is_rolled_back_and_that_is_said(tmp_path: Path) -> None:
    path = filled(tmp_path, 40)
    cut_off_commit(path)
    assert b"yyyy" in path.read_bytes()
    peek = DatabasePeek(path)
    look = peek.look(KEY)
    assert [entry.item for entry in look.entries] == ['"' + "x" * 3000 + '"'] * 40
    assert look.unread == ()
    assert peek.notes == ["a commit into outbox.db had been cut off; it was rolled back"]
    assert DatabasePeek(path).keys() == [KEY]


def test_nothing_is_written_and_nothing_is_made_by_looking(tmp_path: Path) -> None:
    path = filled(tmp_path)
    before = everything(tmp_path)
    peek = DatabasePeek(path)
    assert peek.keys() == [KEY]
    assert peek.has(KEY)
    assert not peek.has("nix")
    assert [entry.id for entry in peek.look(KEY).entries] == ["obs-0", "obs-1", "obs-2"]
    assert [entry.id for entry in peek.find(KEY, "obs-1")] == ["obs-1"]
    assert (peek.set_aside(KEY), peek.owners(KEY), peek.sent(KEY), peek.notes) == ([], [], [], [])
    assert everything(tmp_path) == before


def test_looking_holds_a_writer_up_for_no_longer_than_the_call(tmp_path: Path) -> None:
    path = filled(tmp_path)
    peek = DatabasePeek(path)
    assert peek.look(KEY).total == 3
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")  # nobody reads any more
        writer.execute("DELETE FROM entries WHERE id = 'obs-1'")
        writer.execute("COMMIT")
    assert peek.look(KEY).total == 2


def test_a_text_that_no_queue_has_opened_yet_is_read_as_one_would(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with closing(sqlite3.connect(path)) as connection, connection:
        text = '[null,{"id":"a","item":1,"status":"failed","attempts":0,"enqueuedAt":0}]'
        connection.execute("INSERT INTO keys (key, text) VALUES ('whole', ?)", (text,))
    peek = DatabasePeek(path)
    assert peek.keys() == [KEY, "whole"]
    look = peek.look("whole")
    assert ([entry.id for entry in look.entries], look.unread) == (["a"], ("$[0] is no object",))
    assert peek.page("whole", status="queued", offset=0, limit=5).total == 0
    assert [entry.id for entry in peek.find("whole", "a")] == ["a"]


def test_damaged_rows_hide_no_other_and_are_told(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE entries SET item = CAST(X'FFFE' AS TEXT) WHERE id = 'obs-0'")
        connection.execute("UPDATE entries SET attempts = 5 WHERE id = 'obs-2'")
    look = DatabasePeek(path).look(KEY)
    assert ([entry.id for entry in look.entries], len(look.unread), look.total) == (["obs-1"], 2, 1)


def test_what_is_another_programs_or_from_the_future_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "cats.db"
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE cats (name)")
    with pytest.raises(CorruptQueueError, match="another program's database"):
        DatabasePeek(other).keys()
    newer = filled(tmp_path)
    with closing(sqlite3.connect(newer)) as connection, connection:
        connection.execute(f"PRAGMA user_version = {rows.VERSION + 1}")
    with pytest.raises(CorruptQueueError, match="newer version"):
        DatabasePeek(newer).keys()
    with pytest.raises(CacheError, match="there is no outbox at"):
        DatabasePeek(tmp_path / "nix.db")
    with pytest.raises(CacheError, match="there is no outbox at"):
        TextPeek(tmp_path / "nix")


def test_a_database_before_its_first_commit_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    path.touch()
    peek = DatabasePeek(path)
    assert (peek.keys(), peek.look(KEY).entries, peek.find(KEY, "a"), peek.sent(KEY)) == ([], [], [], [])


KEYS = ["outbox.me", "Outbox.Me", "a/b", "ü", "con", ".hidden", "a%b~c", " "]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_read_off_the_name_of_its_file(tmp_path: Path, key: str) -> None:
    assert key_of(tmp_path / file_name(key)) == key
    assert key_of_file(tmp_path / file_name(key)) == key


def test_a_name_that_is_no_keys_is_its_own_key() -> None:
    for name in ("My queue.json", "%zz.json", "x" * 200 + ".json", "%ff%fe.json", "a%62.json"):
        assert key_of(Path(name)) is None
        assert key_of_file(Path(name)) == name.removesuffix(".json")
    assert key_of(Path(file_name("k" * 300))) is None


def test_whether_a_lock_is_held_is_seen_without_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    assert lock_is_held(path) is False
    code = """if True:
        import sys
        from pathlib import Path
        from starfish_outbox.caches.owner import OwnerLock
        lock = OwnerLock(Path(sys.argv[1]))
        assert lock.acquire()
        print("held", flush=True)
        sys.stdin.readline()
        lock.release()
        print("free", flush=True)
        sys.stdin.readline()"""
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert lock_is_held(path) is True
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "free\n"
        assert lock_is_held(path) is False
    ours = OwnerLock(path)
    assert ours.acquire()
    assert lock_is_held(path) is True
    rival = subprocess.run(
        [sys.executable, "-c", code.replace("assert lock.acquire()", "sys.exit(not lock.acquire())"), str(path)],
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert rival.returncode == 1  # looking has not given up what this process holds
    ours.release()
    assert lock_is_held(path) is False


def test_a_directory_lists_the_queues_that_can_be_read_off_it(tmp_path: Path) -> None:
    place = store(tmp_path, "directory")
    for key in ("outbox.me", "Ä"):
        fill(place, [("a", 1)], key=key)
    (place.path / "My notes.json").write_text("{}")
    (place.path / "readme.txt").write_text("")
    peek = TextPeek(place.path)
    assert peek.keys() == ["outbox.me", "Ä"]
    assert not peek.has("nix")
    with pytest.raises(CacheError, match="cannot be read: No such file"):
        peek.look("nix")


def test_a_symbolic_link_in_a_directory_is_not_followed(tmp_path: Path) -> None:
    place = store(tmp_path, "directory")
    fill(place, [("a", 1)])
    (place.path / "outbox.you.json").symlink_to(place.path / "outbox.me.json")
    with pytest.raises(CacheError, match=r"outbox\.you\.json cannot be read"):
        TextPeek(place.path).look("outbox.you")
