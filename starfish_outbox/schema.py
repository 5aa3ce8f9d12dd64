"""The JSON Schema of the stored form, as it ships with the package.

What a schema cannot see (duplicate ids, numbers that JavaScript rounds, lone surrogates) stands in schema/README.md.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

Form: TypeAlias = Literal["reader", "writer"]

_FILES: Final[dict[str, str]] = {"reader": "outbox.schema.json", "writer": "outbox.writer.schema.json"}


def schema(form: Form = "reader") -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a stored queue, as a dictionary of the caller's own.

    Args:
        form: ``reader`` is open, what a program may expect to find: five typed keys in each entry, others allowed.
            ``writer`` is closed, what this package writes for what was enqueued here.

    Raises:
        ValueError: there is no such form.
    """
    if form not in _FILES:
        raise ValueError(f"no form {form!r}: it is 'reader' or 'writer'")
    decoded: dict[str, Any] = json.loads(_text(_FILES[form]))
    return decoded


def _text(name: str) -> str:
    packaged = resources.files("starfish_outbox") / "_data" / name
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    # An editable install has no copy: it reads the file that the wheel is built from.
    return (Path(__file__).resolve().parents[1] / "schema" / name).read_text(encoding="utf-8")
