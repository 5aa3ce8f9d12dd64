"""The command line as Markdown, for README: ``python -m starfish_outbox.cli.helptext [README.md]``.

Without a file it prints the text; with one it puts the text between the two markers there. It is made from the commands
themselves, not from what ``--help`` looks like, so that another version of the libraries changes nothing.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any, Final

import typer.main

from starfish_outbox.cli.app import NAME, app
from starfish_outbox.cli.exits import MEANINGS
from starfish_outbox.cli.fields import ENTRY, FIELDS, PLACE, PROBLEM

BEGIN: Final = "<!-- cli:begin -->"
END: Final = "<!-- cli:end -->"

_COMMON: Final = ("--store", "--identity", "--key", "--json", "--no-color")


def helptext() -> str:
    """The section between the markers, ending in a line break."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    parts = [
        *(_command(name, command) for name, command in commands.items()),
        "All but `check`, which takes no queue, share\n\n" + "\n".join(_common(commands["list"])),
        "The exit codes are those of every command:\n\n"
        + _table(("code", "means"), {str(code): meaning for code, meaning in MEANINGS.items()}),
        "`--json` writes one document on standard output; words and errors go to standard error. Fields may be added, "
        "none is renamed. A command that fails writes only `error`, with `type`, `message` and `exit`.\n\n"
        + _table(("of", "fields"), _fields()),
    ]
    return "\n\n".join(parts).replace("*.", "\\*.") + "\n"  # a pattern of file names, not emphasis


def between_markers(text: str) -> str:
    """What stands between the two markers of a README.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = text.partition(f"{BEGIN}\n")
    inside, end, _ = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN} … {END} behind {len(before)} characters")
    return inside


def with_section(text: str) -> str:
    """The README with the section as it should be."""
    inside = between_markers(text)
    return text.replace(f"{BEGIN}\n{inside}{END}", f"{BEGIN}\n{helptext()}{END}")


def _command(name: str, command: Any) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not {*p.opts} & {*_COMMON, "--help"}]
    words = [param.metavar for param in arguments]
    words += [f"{option.opts[0]} {option.metavar}" for option in options if option.required]
    lines = [f"**`{' '.join([NAME, name, *words])}`**: {_unwrapped(command.help)}", ""]
    lines += [f"- `{argument.metavar}`: {argument.help}" for argument in arguments]
    lines += [f"- `{_spelled(option)}`: {option.help}{_default(option)}" for option in options]
    return "\n".join(lines).rstrip()


def _common(command: Any) -> list[str]:
    named = {option.opts[0]: option for option in command.params}
    return [f"- `{_spelled(named[name])}`: {named[name].help}" for name in _COMMON]


def _spelled(option: Any) -> str:
    names = "/".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    return f"{names} {option.metavar}"


def _default(option: Any) -> str:
    if option.is_flag or option.default is None or callable(option.default):
        return ""
    return (
        f" By default {option.default:g}."
        if isinstance(option.default, int | float)
        else f" By default {option.default}."
    )


def _fields() -> dict[str, str]:
    """The fields by what they belong to; commands with the same ones in one row."""
    by_fields: dict[str, list[str]] = {}
    for name, of in FIELDS.items():
        own = {field: meaning for field, meaning in of.items() if field not in PLACE or not PLACE.keys() <= of.keys()}
        by_fields.setdefault(_listed(own), []).append(f"`{name}`")
    having_place = ", ".join(f"`{name}`" for name, of in FIELDS.items() if PLACE.keys() <= of.keys())
    return {
        having_place: _listed(PLACE),
        **{", ".join(names): listed for listed, names in by_fields.items()},
        "an entry": _listed(ENTRY),
        "a problem": _listed(PROBLEM),
    }


def _listed(fields: dict[str, str]) -> str:
    return "; ".join(f"`{field}`: {meaning}" for field, meaning in fields.items())


def _table(head: tuple[str, str], rows: dict[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {meaning} |" for name, meaning in rows.items())]
    return "\n".join(lines)


def _unwrapped(text: str) -> str:
    """All its paragraphs in one line."""
    return " ".join(inspect.cleandoc(text).split())


def main() -> None:
    """Prints the section, or puts it into the file that is named."""
    if len(sys.argv) == 1:
        sys.stdout.write(helptext())
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(with_section(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
