"""Characters that nobody would see, made visible."""

from __future__ import annotations

import re
from typing import Final

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NOT_PRINTABLE_ASCII: Final = re.compile(r"[^ -~]")
_NOT_IN_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def spell_out_surrogates(text: str) -> str:
    r"""The text with ``\ud83d`` for each lone surrogate: what no encoding of Unicode can hold."""
    return _SURROGATE.sub(_escape, text)


def spell_out_unseen(text: str) -> str:
    r"""The text with an escape of JSON for each character that is not meant to be seen, so that it is one line."""
    return _NOT_PRINTABLE_ASCII.sub(lambda found: found[0] if found[0].isprintable() else _escape(found), text)


def spell_out_for_xml(text: str) -> str:
    r"""The text with an escape of JSON for each character that XML 1.0 cannot hold: most controls, surrogates."""
    return _NOT_IN_XML.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    data = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(data[at : at + 2], 'big'):04x}" for at in range(0, len(data), 2))
