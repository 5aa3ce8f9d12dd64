"""Runs programs in any language against each other: each speaks the driver protocol of ``interop/``.

`driver` starts one and asks it; `sequences` does the same random operations on several and compares after each; `relay`
passes one stored queue from hand to hand and compares with `model`. `TwoLanguages` does so step by step in a notebook.
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
