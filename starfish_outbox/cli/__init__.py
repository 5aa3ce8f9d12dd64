"""The command line ``starfish-outbox``: look into an outbox, check it, move it, retry, drain.

It needs the extra ``cli``; nothing else in the package imports it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final

_LIBRARIES: Final = ("typer", "rich", "jsonschema", "httpx")


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    for name in _LIBRARIES:
        if find_spec(name) is None:
            sys.stderr.write(
                f"error: the command line needs {name}, which is not installed. "
                "Install the extra: pip install 'starfish-outbox[cli]'\n"
            )
            sys.exit(2)
    try:
        from starfish_outbox.cli.app import run
    except KeyboardInterrupt:  # it takes a moment, and nothing was begun
        sys.exit(130)
    run()
