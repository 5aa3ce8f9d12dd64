"""The command line ``starfish-outbox``: look into an outbox, check it, move it, retry, drain.

It needs the extra ``cli``; nothing else in the package imports it.
"""

from __future__ import annotations

import sys
from typing import Final

_LIBRARIES: Final = ("typer", "rich", "jsonschema", "httpx")


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    try:
        from starfish_outbox.cli.app import run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _LIBRARIES:
            raise
        sys.stderr.write(
            f"error: the command line needs {missing}, which is not installed. "
            "Install the extra: pip install 'starfish-outbox[cli]'\n"
        )
        sys.exit(2)
    run()
