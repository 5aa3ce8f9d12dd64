"""What no schema can see in a stored text: a reader that knows where everything stands.

It judges tokens, not values: numbers that JavaScript would round or respell, keys that stand twice, halves of surrogate
pairs, depth, and where a text stops being JSON. The rules are those of schema/README.md, by number. Most elements pass
through the C decoder of the standard library, whose hooks show every key and number; only one that looks odd is read
again here, token by token, to say what is odd and where. The loop keeps its own stack, as depth is one of its subjects.
"""

from __future__ import annotations

from starfish_outbox.lexical.elements import Element, Elements, Lines, members, spelled
from starfish_outbox.lexical.rules import MAX_DEPTH, Finding

__all__ = ["MAX_DEPTH", "Element", "Elements", "Finding", "Lines", "members", "spelled"]
