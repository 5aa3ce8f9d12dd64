"""The application: all commands under one name."""

from __future__ import annotations

import io
import logging
import sys
from importlib.metadata import version
from typing import Annotated, Final

import typer

from starfish_outbox.cli import checking, conforming, delivering, looking, moving, working
from starfish_outbox.cli.exits import MEANINGS
from starfish_outbox.cli.frame import exit_codes

NAME: Final = "starfish-outbox"

app = typer.Typer(
    name=NAME,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog=exit_codes(MEANINGS),
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{NAME} {version('starfish-outbox')}")
        raise typer.Exit


@app.callback()
def about(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Look into an outbox, check it, move it, retry what failed, and send what waits."""


for group in (looking, checking, moving, working, delivering, conforming):
    group.register(app)


def run() -> None:
    """Runs what the command line asks for; ends with `SystemExit`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows few letters must not stop a drain
    log = logging.getLogger("starfish_outbox")
    log.addHandler(_Notes())
    log.propagate = False
    app(prog_name=NAME)


class _Notes(logging.Handler):
    """Warnings as notes, on what is standard error just then: a picture that is redrawn there puts them above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        sys.stderr.write(f"note: {self.format(record)}\n")
