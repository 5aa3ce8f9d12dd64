"""Writes golden files: what each program, in the version that is installed, stores for ``operations.json``.

A golden file is never rewritten: one that is there keeps every chapter that it has, and gets only chapters that it
lacks. So a change of what is stored needs a new version, and both are read for ever (``README.md``).

Run it in the environment of the tests: ``.venv/bin/python interop/golden/write.py``.
"""

# ruff: noqa: INP001  # a script beside its data, not a package

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from starfish_outbox.conformance.driver import Answer, Driver, Request

GOLDEN: Final = Path(__file__).resolve().parent
DRIVERS: Final = GOLDEN.parent / "drivers"
COMMANDS: Final = (
    (sys.executable, DRIVERS / "python.py"),
    (shutil.which("node") or "node", DRIVERS / "typescript.mjs"),
    (sys.executable, DRIVERS / "published_python.py"),
)
OURS: Final = "python"
READ_MS: Final = 1_800_000_000_000
"""The clock while texts are read."""
_WITHOUT_LOOK: Final = ("clock", "put", "text")

Written: TypeAlias = dict[str, Any]
"""What a program wrote in one chapter, as a golden file has it (``README.md``)."""


class Chapter(NamedTuple):
    """A part of ``operations.json``."""

    id: str
    needs: frozenset[str]
    requests: tuple[Request, ...]

    @property
    def digest(self) -> str:
        """Of the requests: a golden file says which it answers."""
        return hashlib.sha256(json.dumps(self.requests).encode()).hexdigest()[:16]


def chapters() -> list[Chapter]:
    """All chapters, in their order."""
    document = json.loads((GOLDEN / "operations.json").read_text("utf-8"))
    return [Chapter(one["id"], frozenset(one["needs"]), tuple(one["requests"])) for one in document["chapters"]]


def looking(requests: Iterable[Request]) -> list[Request]:
    """The same requests; each operation also asks for what is then stored under the key that is bound."""
    key = ""
    found = []
    for request in requests:
        key = request["key"] if request["op"] == "hydrate" else key
        found.append(request if request["op"] in _WITHOUT_LOOK else {**request, "look": key})
    return found


def record(driver: Driver, chapter: Chapter, folder: Path | None = None) -> Written:
    """What this program writes in one chapter.

    Args:
        driver: the program.
        chapter: what it is asked to do.
        folder: an empty one: what lies there in the end is recorded too, if the program has the store ``files``.
    """
    requests = looking(chapter.requests)
    answers = driver.ask_many([{"op": "open", "store": "memory"}, *requests])[1:]
    after = [_stored(request, answer) for request, answer in zip(requests, answers, strict=True)]
    last = [(request["look"], text) for request, text in zip(requests, after, strict=True) if "look" in request][-1]
    written: Written = {"of": chapter.digest, "after": after, "entries": read(driver, [last])[0]}
    if folder is not None and "files" in driver.hello.capabilities:
        driver.ask_many([{"op": "open", "store": "files", "path": str(folder)}, *requests, {"op": "close"}])
        written["files"] = {
            path.name: path.read_bytes().decode() for path in sorted(folder.iterdir()) if path.suffix != ".lock"
        }
    return written


def read(driver: Driver, texts: Iterable[tuple[str, str | None]]) -> list[str | None]:
    """The entries, as JSON text, that a new queue of this program finds in each text that is stored under its key."""
    requests: list[Request] = []
    for key, text in texts:
        requests += [
            {"op": "open", "store": "memory"},
            {"op": "clock", "ms": READ_MS},
            {"op": "put", "key": key, "text": text},
            {"op": "hydrate", "key": key, "look": key},
        ]
    return [answer.entries for answer in driver.ask_many(requests)[3::4]]


def record_database(driver: Driver, all_chapters: Sequence[Chapter], path: Path) -> dict[str, str]:
    """Do all chapters in one database; what is then stored in it, by key."""
    opening: Request = {"op": "open", "store": "sqlite", "path": str(path)}
    for chapter in all_chapters:
        driver.ask_many([opening, *chapter.requests, {"op": "close"}])
    keys = sorted({request["key"] for chapter in all_chapters for request in chapter.requests if "key" in request})
    answers = driver.ask_many([opening, *({"op": "text", "key": key} for key in keys), {"op": "close"}])[1:-1]
    return {key: answer.value for key, answer in zip(keys, answers, strict=True) if answer.value is not None}


def golden_file(driver: Driver, folder: Path = GOLDEN) -> Path:
    """Where the golden file of this program and version lies."""
    return folder / f"{driver.name}-{driver.hello.version}.json"


def missing(driver: Driver, golden: Written) -> list[Chapter]:
    """Chapters that this program can do and its golden file has not."""
    able = [chapter for chapter in chapters() if chapter.needs <= driver.hello.capabilities]
    return [chapter for chapter in able if chapter.id not in golden["chapters"]]


def complete(driver: Driver, folder: Path, scratch: Path) -> int:
    """Write what the golden file of this program lacks, and no more; how many chapters that were."""
    path = golden_file(driver, folder)
    golden: Written = {"driver": driver.name, "version": driver.hello.version, "chapters": {}}
    if path.exists():
        golden = json.loads(path.read_text("utf-8"))
    elif driver.name == OURS:
        database = scratch / path.with_suffix(".db").name
        golden["database"] = record_database(driver, chapters(), database)
        with path.with_suffix(".db").open("xb") as file:
            file.write(database.read_bytes())
    new = missing(driver, golden)
    for chapter in new:
        files = scratch / chapter.id
        files.mkdir()
        golden["chapters"][chapter.id] = record(driver, chapter, files)
    if new:
        path.write_text(json.dumps(golden, indent=1) + "\n", "utf-8")
    return len(new)


def main() -> None:
    """Write what is missing, and say so."""
    for program, script in COMMANDS:
        with Driver([str(program), str(script)]) as driver, tempfile.TemporaryDirectory() as scratch:
            new = complete(driver, GOLDEN, Path(scratch))
            sys.stdout.write(f"{golden_file(driver).name}: {new} chapters written, the others left as they are\n")


def _stored(request: Request, answer: Answer) -> str | None:
    text: str | None = answer.value if request["op"] == "text" else answer.text
    return text


if __name__ == "__main__":
    main()
