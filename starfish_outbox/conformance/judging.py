"""What was seen held against what a case expects: pure, and in words that a person can act on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starfish_outbox.caches.file import file_name
from starfish_outbox.conformance.cases import Case, Expectation, Step
from starfish_outbox.conformance.driver import Answer, Failure
from starfish_outbox.conformance.verdicts import Verdict
from starfish_outbox.jsontext import DamagedText, decode, encode_foreign

_SHOWN = 300  # characters of a value in a reason


@dataclass
class Seen:
    """One step as it went.

    Attributes:
        step: as it stands in the case.
        request: what the driver was asked, which may be less or more than the step.
        answer: None where nothing was to be answered.
        entries: what `get` said after it, where the case expects something of it.
        text: what was stored after it under the key that the queue is bound to, likewise.
        waiting: who stood at a gate after it.
        finished: the tasks that had finished by then.
        passed: the gates that were let go one after the other, as places.
        missing: a gate that was to be passed and was not there, in words.
    """

    step: Step
    request: Mapping[str, Any]
    answer: Answer | None = None
    entries: str | None = None
    text: str | None = None
    waiting: Sequence[Mapping[str, Any]] = ()
    finished: Sequence[str] = ()
    passed: list[str] = field(default_factory=list)
    missing: str | None = None


@dataclass
class Observed:
    """A case as it went.

    Attributes:
        steps: one after the other.
        tasks: what became of the operations that were started, by name.
        unfinished: those that still run.
        sent: ids, in the order in which their sends began.
        said: every text that a send was given.
        entries: what `get` says at the end.
        texts: what is stored at the end by key, what was set aside under its own key.
        files: the bytes of every file that belongs to a key, where the store is a folder.
    """

    steps: list[Seen] = field(default_factory=list)
    tasks: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    entries: str = "[]"
    texts: dict[str, str | None] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """A verdict, its reasons, and what was wrong with each step."""

    verdict: Verdict
    reasons: tuple[str, ...]
    wrong: tuple[tuple[str, ...], ...]


def set_aside_keys(key: str) -> list[str]:
    """Where an implementation may set aside what it could not read of a key."""
    return [f"{key}.quarantine", *(f"{key}.corrupt.{number}" for number in (1, 2, 3))]


def judge(case: Case, observed: Observed) -> Judgement:
    """The verdict on one run of a case."""
    unsupported = _unsupported(observed)
    if unsupported:
        return Judgement(Verdict.UNSUPPORTED, (unsupported,), ())
    wrong, at_the_end = _faults(case, observed, {}, case.end)
    lost = _lost(case, observed)
    faults = [*(fault for step in wrong for fault in step), *at_the_end]
    if lost:
        return Judgement(Verdict.DATA_LOSS, (*lost, *faults), wrong)
    if not faults:
        return Judgement(Verdict.PASS, (), wrong)
    for other in case.acceptable:
        again, end_again = _faults(case, observed, other.steps, {**case.end, **other.end})
        if not any(again) and not end_again:
            return Judgement(Verdict.ACCEPTABLE, (other.because,), again)
    return Judgement(Verdict.FAIL, tuple(faults), wrong)


def _unsupported(observed: Observed) -> str | None:
    failures = [seen.answer.error for seen in observed.steps if seen.answer and seen.answer.error]
    failures += [Failure(**outcome["error"]) for outcome in observed.tasks.values() if "error" in outcome]
    return next((failure.message for failure in failures if failure.kind == "unsupported"), None)


def _faults(
    case: Case, observed: Observed, instead: Mapping[str, Expectation], end: Expectation
) -> tuple[tuple[tuple[str, ...], ...], list[str]]:
    """What is wrong with each step and with the end."""
    wrong = []
    for number, seen in enumerate(observed.steps):
        expect = instead.get(seen.step.get("label", ""), seen.step.get("expect", {}))
        name = seen.step.get("label") or f"step {number + 1} ({seen.step['op']})"
        wrong.append(tuple(f"{name}: {fault}" for fault in _faults_of_step(expect, seen)))
    return tuple(wrong), [*_leaked(case, observed), *_faults_of_end(end, observed)]


def _faults_of_step(expect: Expectation, seen: Seen) -> Iterator[str]:
    if seen.missing:
        yield seen.missing
    if seen.answer is not None:
        yield from _faults_of_outcome(expect, seen.answer.value, seen.answer.error)
        if "notified" in expect and seen.answer.notified != expect["notified"]:
            yield f"listeners were called {seen.answer.notified} times instead of {expect['notified']}"
    for name, text in (("entries", seen.entries), ("stored", seen.text)):
        if name in expect:
            yield from _faults_of_entries(name, expect[name], text)
    if "text" in expect and seen.text != expect["text"]:
        yield f"stored is {_shown(seen.text)} instead of {_shown(expect['text'])}"
    yield from _faults_of_moves(expect, seen)


def _faults_of_moves(expect: Expectation, seen: Seen) -> Iterator[str]:
    if "waiting" in expect:
        found = sorted((gate["at"], gate["what"]) for gate in seen.waiting)
        right = sorted((gate["at"], gate["what"]) for gate in expect["waiting"])
        if found != right:
            yield f"at the gates stand {_places(found)} instead of {_places(right)}"
    yield from (f"{task} has not finished" for task in expect.get("finished", ()) if task not in seen.finished)
    yield from (f"{task} has finished already" for task in expect.get("unfinished", ()) if task in seen.finished)


def _faults_of_outcome(expect: Expectation, value: Any, error: Failure | None) -> Iterator[str]:
    if error is not None:
        kinds = expect.get("error", ())
        right = kinds is True or "mayFail" in expect or error.kind in ([kinds] if isinstance(kinds, str) else kinds)
        if not right:
            instead = f" instead of {_kinds(kinds)}" if kinds else ""
            yield f"raised {error.kind} ({error.name}: {error.message[:_SHOWN]}){instead}"
        return
    if "error" in expect:
        yield f"raised nothing instead of {_kinds(expect['error'])}"
        return
    if "value" in expect:
        if isinstance(value, str) and isinstance(expect["value"], list):  # get and pending answer the text of entries
            yield from _faults_of_entries("value", expect["value"], value)
        else:
            yield from _differences(expect["value"], value, "value")
    if "sends" in expect:
        ids_alone = all(isinstance(one, str) for one in expect["sends"])
        try:
            sends = [decode(text) for text in value["sends"]]
        except DamagedText as damage:
            yield f"a send was given {_shown(value['sends'])}, which is no JSON that every program reads ({damage})"
            return
        found = [entry.get("id") if isinstance(entry, dict) else entry for entry in sends] if ids_alone else sends
        yield from _differences(expect["sends"], found, "sends")


def _faults_of_end(end: Expectation, observed: Observed) -> Iterator[str]:
    if "entries" in end:
        yield from _faults_of_entries("entries at the end", end["entries"], observed.entries)
    for key, right in end.get("stored", {}).items():
        yield from _faults_of_entries(f"stored under {key} at the end", right, observed.texts.get(key))
    for key, text in end.get("texts", {}).items():
        if observed.texts.get(key) != text:
            yield f"stored under {key} at the end is {_shown(observed.texts.get(key))} instead of {_shown(text)}"
    for key, words in end.get("setAside", {}).items():
        aside = _stored(observed, *set_aside_keys(key))
        yield from (f"{word} was not set aside" for word in words if word not in aside)
    for key, digits in end.get("bytes", {}).items():
        if (data := observed.files.get(file_name(key), b"")) != bytes.fromhex(digits):
            yield f"the bytes under {key} at the end are {_shown(data.hex())} instead of {_shown(digits)}"
    yield from _faults_of_sends_and_tasks(end, observed)


def _faults_of_sends_and_tasks(end: Expectation, observed: Observed) -> Iterator[str]:
    if "sent" in end and observed.sent != end["sent"]:
        yield f"sent {_shown(observed.sent)} instead of {_shown(end['sent'])}"
    for task, outcome in observed.tasks.items():
        error = Failure(**outcome["error"]) if "error" in outcome else None
        expect = end.get("tasks", {}).get(task, {})
        yield from (f"{task}: {fault}" for fault in _faults_of_outcome(expect, outcome.get("value"), error))
    for task in sorted(observed.unfinished - set(end.get("unfinished", ()))):
        yield f"{task} has not finished at the end"
    for task in end.get("unfinished", ()):
        if task not in observed.unfinished:
            yield f"{task} has finished"


def _lost(case: Case, observed: Observed) -> list[str]:
    owed: dict[str, list[str]] = {key: list(words) for key, words in case.keeps.items()}
    for name, words_by_key in case.acknowledged.items():
        if _acknowledged(name, observed):
            for key, words in words_by_key.items():
                owed.setdefault(key, []).extend(words)
    lost = []
    for key, words in owed.items():
        everywhere = " ".join((_stored(observed, key, *set_aside_keys(key)), *observed.said))
        lost += [f"lost: {word} is nowhere under {key} and was not sent" for word in words if word not in everywhere]
    return lost


def _acknowledged(name: str, observed: Observed) -> bool:
    if name in observed.tasks:
        return "error" not in observed.tasks[name]
    return any(seen.step.get("label") == name and seen.answer and not seen.answer.error for seen in observed.steps)


def _leaked(case: Case, observed: Observed) -> Iterator[str]:
    for key, words in case.apart.items():
        stored = _stored(observed, key, *set_aside_keys(key))
        yield from (f"leaked: {word} stands under {key}, another identity's" for word in words if word in stored)


def _faults_of_entries(name: str, right: Sequence[Any], text: str | None) -> Iterator[str]:
    try:
        found = decode(text) if text else None
    except DamagedText as error:
        yield f"{name}: {_shown(text)} is no JSON that every program reads ({error})"
        return
    if not isinstance(found, list):
        yield f"{name}: {_shown(text)} is no array"
        return
    yield from _differences(right, found, name)


def _differences(right: Any, found: Any, path: str, *, whole: bool = False) -> Iterator[str]:
    """Where two JSON values differ; of an object only the members that are named, unless it is taken as a ``whole``."""
    if isinstance(right, dict) and isinstance(found, dict):
        for name, value in right.items():
            if name not in found:
                yield f"{path}.{name} is missing"
            else:
                yield from _differences(value, found[name], f"{path}.{name}", whole=whole or name == "item")
        if whole:
            yield from (f"{path}.{name} is there, and should not be" for name in found.keys() - right.keys())
    elif isinstance(right, list) and isinstance(found, list) and len(right) == len(found):
        for index, (one, other) in enumerate(zip(right, found, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]", whole=whole)
    elif isinstance(right, bool) or isinstance(found, bool) or type(right) is not type(found):
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (right, found))
        if (right is not found) and not (numbers and right == found):
            yield f"{path} is {_shown(found)} instead of {_shown(right)}"
    elif right != found:
        yield f"{path} is {_shown(found)} instead of {_shown(right)}"


def _stored(observed: Observed, *keys: str) -> str:
    """Whatever is stored under these keys, to look for ASCII words in."""
    texts = [observed.texts.get(key) or "" for key in keys]
    # Every byte is a letter of latin-1; without NULs a word is also found in UTF-16.
    texts += [observed.files.get(file_name(key), b"").decode("latin-1").replace("\0", "") for key in keys]
    return " ".join(texts)


def _kinds(kinds: Any) -> str:
    return "any error" if kinds is True else " or ".join([kinds] if isinstance(kinds, str) else kinds)


def _places(gates: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{at} {what}" for at, what in gates) or "nobody"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else encode_foreign(value)  # knows no limit of depth
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
