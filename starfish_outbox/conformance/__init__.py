"""Runs programs in any language against each other: each speaks the driver protocol of ``interop/``.

`driver` starts one and asks it, by the rules of `protocol`. `runner` is the whole of it: `cases` are data, `running`
does one on a driver, `judging` says what was wrong, `verdicts` are what comes out, and `reports` show it.

Three throw dice: `sequences` does the same on two drivers and compares after each operation (`comparison`, but for
declared `divergences`; `values` makes items), `relay` passes one stored queue from hand to hand and compares with
`model`, and `schedules` let reads, writes and sends of one driver end in any order (`schedules_stage`,
`schedules_record`). `TwoLanguages` goes step by step in a notebook (`sides`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starfish_outbox.conformance.sides import TwoLanguages

__all__ = ["TwoLanguages"]


def __getattr__(name: str) -> Any:
    if name != "TwoLanguages":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from starfish_outbox.conformance.sides import TwoLanguages

    return TwoLanguages
