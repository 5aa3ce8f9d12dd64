"""The command line as Markdown, for README: ``python -m starfish_outbox.cli.helptext [README.md]``.

Without a file it prints the text; with one it puts the text between the two markers there. It is read off the functions
of the commands, not off what ``--help`` looks like, so that another version of the libraries changes nothing.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_type_hints

from typer.models import ArgumentInfo

from starfish_outbox.cli.app import NAME, app
from starfish_outbox.cli.exits import MEANINGS
from starfish_outbox.cli.fields import ENTRY, FIELDS, PLACE, PROBLEM

BEGIN: Final = "<!-- cli:begin -->"
END: Final = "<!-- cli:end -->"

_COMMON: Final = ("--store", "--identity", "--key", "--json", "--no-color")


class _Param(NamedTuple):
    """A parameter of a command, as its function declares it.

    Attributes:
        spelled: its names and what they take, as on the command line.
        default: how an option's default is spelled; empty where there is none worth telling.
    """

    spelled: str
    help: str
    default: str
    is_argument: bool
    required: bool


def helptext() -> str:
    """The section between the markers, ending in a line break."""
    commands = {str(info.name): info.callback for info in app.registered_commands if info.callback is not None}
    common = [param for param in _params(commands["list"]) if param.spelled.split()[0] in _COMMON]
    told: dict[_Param, str] = {}
    parts = [
        *(_command(name, callback, told) for name, callback in commands.items()),
        "All commands share these options, `check` only the last two:\n\n" + _bullets(common),
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


def _command(name: str, callback: Callable[..., Any], told: dict[_Param, str]) -> str:
    """One command; an option that is the same as with an earlier one is only named, and where it stands."""
    params = [param for param in _params(callback) if param.spelled.split()[0] not in _COMMON]
    words = " ".join([NAME, name, *(param.spelled for param in params if param.is_argument or param.required)])
    lines = [_bullets([param for param in params if param not in told])]
    for earlier in dict.fromkeys(told[param] for param in params if param in told):
        same = ", ".join(f"`{param.spelled}`" for param in params if told.get(param) == earlier)
        lines.append(f"- As with `{earlier}`: {same}.")
    for param in params:
        told.setdefault(param, name)
    about = f"**`{words}`**: {' '.join((callback.__doc__ or '').split())}"
    return "\n\n".join(filter(None, (about, "\n".join(filter(None, lines)))))


def _params(callback: Callable[..., Any]) -> list[_Param]:
    """What a command takes, in order, read off its function."""
    hints = get_type_hints(inspect.unwrap(callback), include_extras=True)
    found = []
    for name, parameter in inspect.signature(callback).parameters.items():
        kind, info = get_args(hints[name])[:2]
        required = parameter.default is inspect.Parameter.empty
        is_argument = isinstance(info, ArgumentInfo)
        takes = "" if kind is bool else str(info.metavar)
        default = parameter.default if isinstance(parameter.default, int | float) and kind is not bool else None
        names = [] if is_argument else [info.default, *(info.param_decls or ())]  # within Annotated the first is there
        spelled = " ".join(filter(None, ["/".join(names), takes]))
        found.append(_Param(spelled, str(info.help), "" if default is None else f"{default:g}", is_argument, required))
    return found


def _bullets(params: list[_Param]) -> str:
    lines = []
    for param in params:
        default = f" By default {param.default}." if param.default else ""
        lines.append(f"- `{param.spelled}`: {param.help}{default}")
    return "\n".join(lines)


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


def main() -> None:
    """Prints the section, or puts it into the file that is named."""
    if len(sys.argv) == 1:
        sys.stdout.write(helptext())
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(with_section(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
