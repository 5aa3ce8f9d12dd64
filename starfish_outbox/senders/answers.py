"""What the senders share of reading what a server says."""

from __future__ import annotations

import unicodedata
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

MAX_RETRY_AFTER: Final = 86_400.0
"""Seconds; a server that asks for more is asked again after a day."""

REASON: Final = 200
"""Characters of a server's words that an error repeats."""


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """The seconds that a ``Retry-After`` asks for (RFC 9110, 10.2.3), within 0 and a day; None where it says nothing.

    Args:
        value: the header: seconds in digits, or an HTTP date.
        now: seconds since the Unix epoch, by the server's clock where its answer has a ``Date``.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(min(int(value[:10]), int(MAX_RETRY_AFTER)))
    moment = http_date(value)
    return None if moment is None else min(max(moment - now, 0.0), MAX_RETRY_AFTER)


def http_date(value: str) -> float | None:
    """Seconds since the Unix epoch of an HTTP date, or None where it is none."""
    try:
        moment = parsedate_to_datetime(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, IndexError, TypeError):  # what email.utils raises on damaged dates
        return None


def clean(text: str) -> str:
    """A text without control, format and other invisible characters, white space folded, cut at 200 characters."""
    kinds = ((char, unicodedata.category(char)) for char in text)
    shown = (" " if kind == "Cc" else char for char, kind in kinds if kind == "Cc" or kind[0] != "C")
    return " ".join("".join(shown).split())[:REASON]
