"""JSON text that Python and JavaScript read and write alike; the bottom layer under the codec.

What is written is byte for byte what ``JSON.stringify`` writes (ECMA-262, well-formed ``JSON.stringify`` included):
compact, raw UTF-8, numbers as ``Number::toString`` spells them. What is read is RFC 8259 and nothing more. Two doors
to write:

- `encode_item` is strict: what JavaScript would change or lose is refused, with a path to it.
- `encode_foreign` is lenient: what another program wrote is kept, even where `encode_item` would refuse it.

The C coders of the standard library do the work wherever their answer is right. The loops here keep their own stack, so
neither the depth of a value nor that of the caller runs into Python's recursion limit.
"""

from __future__ import annotations

from starfish_outbox.jsontext.reading import DamagedText, decode, scan
from starfish_outbox.jsontext.spelling import MAX_SAFE_INTEGER, encode_number, encode_string
from starfish_outbox.jsontext.writing import encode_foreign, encode_item

__all__ = [
    "MAX_SAFE_INTEGER",
    "DamagedText",
    "decode",
    "encode_foreign",
    "encode_item",
    "encode_number",
    "encode_string",
    "scan",
]
