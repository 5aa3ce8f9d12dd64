"""The frame around every command: its common options, and errors as one line and an exit code."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, Final, ParamSpec

import typer

from starfish_outbox.cli import exits
from starfish_outbox.cli.fields import FIELDS
from starfish_outbox.cli.output import Screen
from starfish_outbox.errors import CacheWriteError, OutboxError
from starfish_outbox.showing import printable

P = ParamSpec("P")

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="PATH",
        help="Where the outbox lies: a database (*.db, *.sqlite), a directory with one file a key, or one .json file. "
        "By default where open_outbox() keeps it.",
    ),
]
IdentityOption = Annotated[
    str | None, typer.Option("--identity", metavar="NAME", help="Whose queue, as given to open_outbox().")
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", help="The queue's key. Where the store holds a single queue, it is that one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write one JSON document instead of words.")]
NoColorOption = Annotated[
    bool, typer.Option("--no-color", help="No colours. The environment variable NO_COLOR does the same.")
]

_SHELLS_SAY: Final = 141  # 128 + SIGPIPE


def command(app: typer.Typer, name: str) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Makes a function that answers an exit code the command of this name; its docstring is the help."""

    def register(function: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            screen = Screen(as_json=bool(kwargs.get("as_json")), no_color=bool(kwargs.get("no_color")))
            raise typer.Exit(_run(screen, functools.partial(function, *args, **kwargs)))

        epilog = f"{exit_codes(exits.COMMANDS[name])}\n\nFields of --json: {', '.join(FIELDS[name])}; README says more."
        app.command(name, epilog=epilog)(run)
        return function

    return register


def exit_codes(meanings: dict[int, str]) -> str:
    """Exit codes as the end of a help text: in Markdown, two spaces before its end break a line."""
    return "Exit codes:\n\n" + "  \n".join(f"{code}: {meaning}" for code, meaning in meanings.items())


def _run(screen: Screen, function: Callable[[], int]) -> int:
    try:
        return function()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _SHELLS_SAY
    except KeyboardInterrupt:
        return _failed(screen, "Interrupted", "interrupted", exits.INTERRUPTED)
    except CacheWriteError as error:
        return _failed(screen, type(error).__name__, str(error), exits.WRITE_FAILED)
    except OutboxError as error:
        return _failed(screen, type(error).__name__, str(error), exits.REFUSED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _failed(screen, type(error).__name__, f"{where}{error.strerror or error}", exits.REFUSED)


def _failed(screen: Screen, kind: str, message: str, code: int) -> int:
    screen.note(f"error: {printable(message)}", "red")
    screen.emit({"error": {"type": kind, "message": message, "exit": code}})
    return code
