"""The results of one run, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from starfish_outbox.conformance.cases import Case
from starfish_outbox.conformance.driver import Hello
from starfish_outbox.conformance.verdicts import Profile, Result, Subject, Verdict
from starfish_outbox.drawing import Drawn
from starfish_outbox.showing import printable


@dataclass(frozen=True)
class RecordedCase(Subject):
    """A case as a record tells of it: what is shown, without its steps and what they should come to."""

    title: str


@dataclass(frozen=True)
class Report(Drawn):
    """One run.

    Attributes:
        hellos: the drivers, in the order in which they were given.
        results: every result. One of a case has one driver; one of a pair has two; a random run of one driver alone has
            a subject that is no case.
        started: when, with a time zone.
        seconds: how long it took.
        seed: the first seed of the random runs.
        version: of the runner.
        notes: sentences about the run that a reader should know.
    """

    hellos: tuple[Hello, ...]
    results: tuple[Result, ...]
    started: datetime
    seconds: float
    seed: int
    version: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """In one line: who was asked, and what it came to."""
        names = ", ".join(hello.name for hello in self.hellos)
        found = ", ".join(f"{number} {verdict}" for verdict, number in counts(self.results).items() if number)
        return printable(f"<Report on {names}: {found or 'no results'}; {len(self.surprises)} not as listed>")

    @property
    def ok(self) -> bool:
        """Whether nothing fails that is not listed, and nothing passes that is listed as failing."""
        return not self.surprises

    @property
    def surprises(self) -> list[Result]:
        """The results that keep the run from succeeding."""
        return [result for result in self.results if result.surprise is not None]

    @property
    def cases(self) -> list[Result]:
        """One for each case and driver."""
        return [result for result in self.results if title_of(result.subject) is not None]

    @property
    def pairs(self) -> list[Result]:
        """Relays and comparisons of two drivers."""
        return [result for result in self.results if len(result.drivers) > 1]

    @property
    def schedules(self) -> list[Result]:
        """Random runs of one driver alone."""
        return [one for one in self.results if len(one.drivers) == 1 and title_of(one.subject) is None]

    def counts(self, name: str, profile: Profile | None = None) -> dict[str, int]:
        """How many cases came to which verdict, all six of them.

        Args:
            name: of a driver.
            profile: only the cases of this one.
        """
        return counts([one for one in self.cases if one.drivers == (name,) and profile in (None, one.subject.profile)])


def counts(results: Sequence[Result]) -> dict[str, int]:
    """How many results there are of each verdict, the best first."""
    found = [result.verdict for result in results]
    return {verdict.value: found.count(verdict) for verdict in Verdict}


def title_of(subject: Subject) -> str | None:
    """What a case and its neighbours are about; None of a subject that is no case."""
    return subject.title if isinstance(subject, Case | RecordedCase) else None
