"""The published Python package behind the driver protocol (``../protocol.schema.json``, ``../README.md``).

It has the import name of this package, so it lives in an environment of its own, ``../.published-venv``, which the
first run makes: the interpreter that runs this file needs nothing but pip.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serve import Driver

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".published-venv"
PIN = HERE / "published_python.txt"
PYTHON = Path("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environment() -> Path:
    """The interpreter of the environment, made when it is missing or holds another version."""
    stamp = ENVIRONMENT / PIN.name
    if not stamp.exists() or stamp.read_text("utf-8") != PIN.read_text("utf-8"):
        # Made beside and renamed, so that two drivers that start at once do not use a half-made one.
        with tempfile.TemporaryDirectory(dir=HERE.parent, prefix=".published-venv-") as folder:
            fresh = Path(folder) / "venv"
            venv.create(fresh, with_pip=True)
            pip = [str(fresh / PYTHON), "-m", "pip", "--disable-pip-version-check"]
            install = ["install", "--quiet", "--no-deps", "--require-hashes", "--requirement", str(PIN)]
            subprocess.run([*pip, *install], check=True, stdout=sys.stderr)
            shutil.copy(PIN, fresh / PIN.name)
            if ENVIRONMENT.exists():
                ENVIRONMENT.rename(Path(folder) / "old")
            fresh.rename(ENVIRONMENT)
    return ENVIRONMENT / PYTHON


class PublishedDriver(Driver):
    """PyPI's starfish-outbox."""

    def __init__(self) -> None:
        super().__init__()
        real = time.time
        time.time = lambda: real() if self.clock_ms is None else self.clock_ms / 1000

    def hello(self) -> dict[str, Any]:
        return {
            "protocol": 1,
            "name": "published-python",
            "version": version("starfish-outbox"),
            "language": "python",
            "capabilities": ["memory", "gates", "cancel", "careless"],
        }

    def make_queue(self, cache: Any) -> Any:
        from starfish_outbox import OutboxQueue

        return OutboxQueue(cache)

    async def drain_with(self, send: Callable[[Any], Any], options: dict[str, Any]) -> dict[str, Any]:
        from starfish_outbox import drain_outbox

        result = await drain_outbox(self.queue, send, **options)
        return {"sent": result.sent, "failed": result.failed}


if __name__ == "__main__":
    if Path(sys.prefix).resolve() != ENVIRONMENT.resolve():
        # -E: a PYTHONPATH that leads to this package would hide the published one.
        os.execv(environment(), [str(environment()), "-E", *sys.argv])  # noqa: S606  # no shell is wanted
    asyncio.run(PublishedDriver().run())
