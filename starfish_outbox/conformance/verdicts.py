"""What can be said of a program: six verdicts, and the facts behind each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal, TypeAlias

Profile: TypeAlias = Literal["format", "core", "durable", "safe"]

PROFILES: Final[dict[Profile, str]] = {
    "format": "stored texts are read and written alike",
    "core": "operations mean the same",
    "durable": "what was acknowledged is stored",
    "safe": "it also holds with two programs, two identities, and hostile input",
}


class Verdict(StrEnum):
    """What became of one case, the best first."""

    PASS = "pass"  # noqa: S105  # no password
    ACCEPTABLE = "acceptable"
    UNSUPPORTED = "unsupported"
    FAIL = "fail"
    DATA_LOSS = "data loss"
    ERROR = "error"

    @property
    def passes(self) -> bool:
        """Whether users are safe: what was asked for happened, or something as good."""
        return self in (Verdict.PASS, Verdict.ACCEPTABLE)

    @property
    def fails(self) -> bool:
        """Whether something is wrong. A case that a program cannot be asked neither passes nor fails."""
        return self in (Verdict.FAIL, Verdict.DATA_LOSS, Verdict.ERROR)


MEANINGS: Final[dict[Verdict, str]] = {
    Verdict.PASS: "it did what the case expects",
    Verdict.ACCEPTABLE: "it did something else that a careful implementation may do; the case says why",
    Verdict.UNSUPPORTED: "its driver cannot be asked this",
    Verdict.FAIL: "it did something else",
    Verdict.DATA_LOSS: "an entry that was stored or acknowledged is nowhere any more",
    Verdict.ERROR: "its driver died, hung, or answered nonsense",
}


@dataclass(frozen=True)
class Known:
    """A failure that is known.

    Attributes:
        verdict: what it is said to be, or None where the list does not say.
        what: what the program does instead, in a sentence.
    """

    verdict: Verdict | None
    what: str


@dataclass(frozen=True)
class Subject:
    """What a verdict is about: one case, or one kind of random run.

    Attributes:
        id: a stable name.
        description: what must happen, in a sentence.
        rows: the hazards that it stands for.
        profile: which of the four promises it belongs to.
        cost: what a failure costs a user, in a sentence.
    """

    id: str
    description: str
    rows: tuple[str, ...]
    profile: Profile
    cost: str


@dataclass(frozen=True)
class Traced:
    """One step as it went.

    Attributes:
        request: what was asked.
        answer: what came back, as the members that say something; empty: nothing was to be answered.
        wrong: what was expected instead, in words; empty: nothing is wrong.
    """

    request: Mapping[str, Any]
    answer: Mapping[str, Any]
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """One verdict.

    Attributes:
        subject: what it is about.
        drivers: the names in the ``hello`` of who took part: one, or two of a relay or a comparison.
        verdict: see there.
        reasons: why, in words, the worst first; of a pass what was done.
        trace: the steps, where there are any.
        before: stored texts by key at the start.
        after: stored texts by key at the end, what was set aside among them.
        known: why it is known to fail, if it is.
        seconds: how long it took.
        figures: of random runs: how many there were (``runs``), in how many of them something went wrong
            (``broken``), and in how many what, by name.
    """

    subject: Subject
    drivers: tuple[str, ...]
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    trace: tuple[Traced, ...] = ()
    before: Mapping[str, str | None] = field(default_factory=dict)
    after: Mapping[str, str | None] = field(default_factory=dict)
    known: Known | None = None
    seconds: float = 0.0
    figures: Mapping[str, int] = field(default_factory=dict)

    @property
    def surprise(self) -> str | None:
        """Why a run with this result does not succeed: an unlisted failure, or a listed case that passes."""
        if self.verdict.fails and self.known is None:
            return f"{self.verdict.value}, and not listed as known"
        if self.verdict.passes and self.known is not None:
            return "listed as a known failure, and passes: take it off the list"
        return None
