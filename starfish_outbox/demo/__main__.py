"""The demo's command line. Exit codes: 0 the server's records agree with the file, 1 they do not, 2 wrong arguments."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from starfish_outbox import OutboxError
from starfish_outbox.demo.survey import NOT_AVAILABLE, PENGUIN_ID, SurveyError, penguins, read_survey


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo and shows it.

    Args:
        arguments: the command line, by default that of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m starfish_outbox.demo",
        description="Collects a field survey offline, is killed in the middle, and delivers it whole to a server that "
        "loses acknowledgements and is killed as well; then holds the server's records against the file, cell by cell. "
        "Everything stays on this machine.",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="your own survey (UTF-8); by default the 344 penguins")
    parser.add_argument("--id", metavar="COLUMN[,COLUMN...]", help="the columns that together name a row of FILE")
    parser.add_argument(
        "--na", nargs="*", metavar="TEXT", default=list(NOT_AVAILABLE),
        help="cells that stand for nothing besides empty ones (NA)",
    )  # fmt: skip
    parser.add_argument(
        "--directory", type=Path, help="where everything is kept: a new or empty one (by default a temporary one)"
    )
    parser.add_argument("--lose", type=float, default=0.03, metavar="SHARE", help="of the acknowledgements (0.03)")
    parser.add_argument("--seed", type=int, default=7, help="of the server's dice (7)")
    options = parser.parse_args(arguments)
    if (options.csv is None) != (options.id is None):
        parser.error("--csv and --id go together: the file, and the columns that name a row")
    if not 0 <= options.lose <= 0.5:
        parser.error("--lose is a share from 0 to 0.5")
    try:
        from starfish_outbox.demo.processes import ChildError
        from starfish_outbox.demo.report import Screen
        from starfish_outbox.demo.story import Plan, tell
    except ModuleNotFoundError as error:
        print(f"the demo needs {error.name}: pip install 'starfish-outbox[demo]'", file=sys.stderr)
        return 2
    try:
        id_columns = options.id or PENGUIN_ID
        survey = read_survey(options.csv or penguins(), id_columns)
        screen = Screen()
        screen.survey(survey)
        plan = Plan(_directory(options.directory), id_columns, options.na, options.lose, options.seed)
    except SurveyError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        figures = asyncio.run(tell(survey, plan, screen))
    except (ChildError, OutboxError) as error:
        print(f"The demo failed: {type(error).__name__}: {error}\nKept: {plan.directory}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Interrupted; what was acknowledged is in {plan.outbox}", file=sys.stderr)
        return 130
    screen.table(figures, plan)
    screen.verdict(figures, plan)
    return 0 if figures.good else 1


def _directory(chosen: Path | None) -> Path:
    """Where the demo keeps its files.

    Raises:
        SurveyError: the chosen directory has something in it: an old outbox would know the ids already.
    """
    if chosen is None:
        return Path(tempfile.mkdtemp(prefix="starfish-outbox-demo-"))
    try:
        chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(chosen.iterdir()):
            raise SurveyError(f"{chosen} is not empty; name a new directory")
    except OSError as error:
        raise SurveyError(f"{chosen} cannot be used: {error.strerror or error}") from error
    return chosen


if __name__ == "__main__":
    sys.exit(main())
