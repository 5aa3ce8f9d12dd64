"""What a program does otherwise on purpose: data, each with its reason (``interop/divergences.json``)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal[
    "value", "unbound", "added", "dropped", "sent-last", "fewer-notifications", "ends", "spelling"
]


@dataclass(frozen=True)
class Divergence:
    """One of them.

    Attributes:
        id: a stable name.
        of: the name in the ``hello`` of the driver that diverges from all others.
        kind: what may differ, and no more:
            ``value``: what ``ops`` return is not compared.
            ``unbound``: while no key is bound, only the stored text is compared.
            ``added``: its entries may have these ``keys`` where the others' have not, or with another value.
            ``dropped``: its entries may lack keys that the others' have, but for the five that every entry has.
            ``sent-last``: its drains send entries that have all of ``keys`` behind the others.
            ``fewer-notifications``: it may call listeners less often, but calls them when the others do.
            ``ends``: the states may differ after an operation that raises one of ``errors`` here and not there, or
            that has the arguments ``when``; the sequence ends.
            ``spelling``: its texts are compared as JSON, not as bytes.
        reason: why, for people.
        ops: the operations concerned; empty: all.
        says: what an added key holds after a failed send, beside ``at``, which is when.
    """

    id: str
    of: str
    kind: Kind
    reason: str
    ops: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    errors: frozenset[str] = frozenset()
    when: Mapping[str, Any] = field(default_factory=dict, hash=False)
    says: Mapping[str, Any] = field(default_factory=dict, hash=False)


def load_divergences(path: Path) -> list[Divergence]:
    """What a file declares.

    Raises:
        TypeError: an entry has a field that none has, or lacks one.
    """
    found: list[Divergence] = []
    for entry in json.loads(path.read_text("utf-8")):
        values: dict[str, Any] = {n: frozenset(v) if isinstance(v, list) else v for n, v in entry.items()}
        found.append(Divergence(**values))
    return found


class Declared:
    """The divergences of one driver, and how often each was met.

    Args:
        divergences: of all drivers.
        of: its name.
        but: ids of those that count for nothing here.
    """

    def __init__(self, divergences: Iterable[Divergence], of: str, *, but: Collection[str] = ()) -> None:
        self._all = [one for one in divergences if one.of == of and one.id not in but]
        self.met: Counter[str] = Counter()

    def find(self, kind: Kind, op: str) -> list[Divergence]:
        """Those of a kind that concern the operation."""
        return [one for one in self._all if one.kind == kind and (not one.ops or op in one.ops)]

    def meet(self, kind: Kind, op: str) -> bool:
        """Whether one of a kind concerns the operation; it counts as met."""
        found = self.find(kind, op)
        self.met.update(one.id for one in found[:1])
        return bool(found)
