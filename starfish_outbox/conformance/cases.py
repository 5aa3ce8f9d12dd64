"""Cases as data: what an outbox in any language must do (``interop/cases/*.json``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

from starfish_outbox.conformance.protocol import ProtocolRules
from starfish_outbox.conformance.verdicts import Known, Subject, Verdict

Step: TypeAlias = dict[str, Any]
Expectation: TypeAlias = Mapping[str, Any]
Words: TypeAlias = Mapping[str, Sequence[str]]

START_MS: Final = 1_700_000_000_000
RUNNER_STEPS: Final[dict[str, frozenset[str]]] = {
    "restart": frozenset(),
    "kill": frozenset({"during"}),
    "bytes": frozenset({"key", "hex"}),
    "pass": frozenset({"at", "what", "fail", "outcome"}),
    "passAll": frozenset({"at", "what", "except", "order"}),
}
"""Steps that the runner does itself, and their arguments:
``restart``: the process died and another starts: a new queue on the texts that are stored at this moment.
``kill``: SIGKILL, and a new process on the same files. With ``during``, a request: at the moment when the files change,
or it is answered.
``bytes``: another program writes these bytes to the key's file.
``pass``: let go the oldest gate at this place (``at``, ``what``), instead of one by number.
``passAll``: let gates go until none is left, the ``oldest`` (or ``newest``) first; only those at a place, if one is
named, or all ``except`` those at one (``send``).
"""
_OF_STEPS: Final = ("label", "process", "expect")


class CaseError(ValueError):
    """A case file is not what ``interop/cases.schema.json`` says; the text names the file, the case and the place."""


@dataclass(frozen=True)
class Alternative:
    """Another end that is as good: what it names replaces what the case expects."""

    because: str
    steps: Mapping[str, Expectation]
    end: Expectation


@dataclass(frozen=True)
class Case(Subject):
    """One case; ``interop/cases.schema.json`` says what its parts mean. Its ``title`` is that of its file."""

    title: str
    steps: tuple[Step, ...]
    store: Literal["memory", "files"]
    clock: int
    start: Mapping[str, str]
    keeps: Words
    acknowledged: Mapping[str, Words]
    apart: Words
    end: Expectation
    acceptable: tuple[Alternative, ...]
    known: Mapping[str, Known]

    @property
    def needs(self) -> frozenset[str]:
        """The capabilities that a driver must have for it."""
        calls = self._calls
        ops = {call["op"] for call in calls}
        outcomes = {
            outcome
            for call in calls
            for script in (*call.get("outcomes", {}).values(), [call.get("outcome", "ok")])
            for outcome in script
        }
        needs: set[str] = {self.store}
        needs |= {"gates"} if ops & {"gates", "start"} else set()
        needs |= {"outcomes"} if outcomes - {"ok", "error", "cancelled"} else set()
        needs |= {"cancel"} if "cancel" in ops or "cancelled" in outcomes else set()
        needs |= {"careless"} if any(_is_careless(call) for call in calls) else set()
        return frozenset(needs)

    @property
    def keys(self) -> list[str]:
        """Every cache key that it names, once."""
        named = [*self.start, *(call["key"] for call in self._calls if "key" in call), *self.keeps, *self.apart]
        return list(dict.fromkeys(named))

    @property
    def _calls(self) -> list[Step]:
        """Its steps, and the operations that some of them start."""
        return [
            call for step in self.steps for call in (step, step.get("call"), step.get("during")) if call is not None
        ]


class CaseFiles:
    """Where cases lie, with what belongs to them.

    Args:
        folder: a folder of cases; by default ``./interop/cases``, or else the copy that came with the package.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise CaseError(f"{folder} is no folder of cases")
        near = Path("interop") / "cases"
        self.folder = folder or (near if near.is_dir() else shipped("cases"))
        self.rules = ProtocolRules(shipped("protocol.schema.json"))
        self._schema = json.loads(shipped("cases.schema.json").read_text("utf-8"))

    def load(self) -> list[Case]:
        """All cases, by file and then as they stand there.

        Raises:
            CaseError: one is malformed, or two have one id.
        """
        cases: list[Case] = []
        seen: dict[str, Path] = {}
        for path in sorted(self.folder.glob("*.json")):
            for case in self._read(path):
                if case.id in seen:
                    raise CaseError(f"{path.name}: the id {case.id} is also in {seen[case.id].name}")
                seen[case.id] = path
                cases.append(case)
        if not cases:
            raise CaseError(f"there are no cases in {self.folder}")
        return cases

    def _read(self, path: Path) -> Iterator[Case]:
        from jsonschema import Draft202012Validator

        try:
            content = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise CaseError(f"{path.name}: {error}") from error
        for problem in Draft202012Validator(self._schema).iter_errors(content):
            raise CaseError(f"{path.name}: {problem.json_path}: {problem.message[:300]}")
        for raw in content["cases"]:
            case = _case(raw, content["title"])
            for number, step in enumerate(case.steps):
                wrong = self._wrong_with(step)
                if wrong:
                    raise CaseError(f"{path.name}: {case.id}: step {number}: {wrong}")
            named = {step["label"] for step in case.steps if "label" in step}
            tasks = {step["task"] for step in case.steps if step["op"] == "start"}
            unknown = {*case.acknowledged} - named - tasks
            unknown |= {label for one in case.acceptable for label in one.steps} - named
            if unknown:
                raise CaseError(f"{path.name}: {case.id}: there is no step or task {min(unknown)!r}")
            yield case

    def _wrong_with(self, step: Step) -> str | None:
        request = {name: value for name, value in step.items() if name not in _OF_STEPS}
        op = request["op"]
        if op in RUNNER_STEPS and "gate" not in request:
            unknown = request.keys() - RUNNER_STEPS[op] - {"op"}
            if unknown:
                return f"{op} has no argument {min(unknown)!r}"
            return self.rules.check_request({"n": 0, **request["during"]}) if "during" in request else None
        if op in ("hello", "open", "close", "stop"):
            return f"{op} is the runner's"
        return self.rules.check_request({"n": 0, **request})


def shipped(name: str) -> Path:
    """The file or folder of ``interop/`` with this name, as it came with the package."""
    packaged = Path(str(resources.files("starfish_outbox") / "_data" / "interop" / name))
    # An editable install has no copy: it reads what the wheel is built from.
    return packaged if packaged.exists() else Path(__file__).resolve().parents[2] / "interop" / name


def _case(raw: Mapping[str, Any], title: str) -> Case:
    known = {name: Known(Verdict(one["verdict"]), one["what"]) for name, one in raw.get("known", {}).items()}
    alternatives = [
        Alternative(
            one["because"],
            {label: _expectation(expect) for label, expect in one.get("steps", {}).items()},
            _end(one.get("end", {})),
        )
        for one in raw.get("acceptable", ())
    ]
    return Case(
        id=raw["id"],
        description=raw["description"],
        rows=tuple(raw["rows"]),
        profile=raw["profile"],
        cost=raw["cost"],
        title=title,
        steps=tuple(_step(step) for step in raw["steps"]),
        store=raw.get("store", "memory"),
        clock=raw.get("clock", START_MS),
        start={key: cast("str", _spelled_out(text)) for key, text in raw.get("start", {}).items()},
        keeps=raw.get("keeps", {}),
        acknowledged=raw.get("acknowledged", {}),
        apart=raw.get("apart", {}),
        end=_end(raw.get("end", {})),
        acceptable=tuple(alternatives),
        known=known,
    )


def _is_careless(call: Step) -> bool:
    """Whether it is what a driver needs the capability `careless` for."""
    types = {"id": str, "ts": int, "maxAttempts": int}
    odd = any(type(call[name]) is not right for name, right in types.items() if name in call)
    return odd or "send" in call or call["op"] in ("subscribe", "unsubscribe", "heard", "meddle")


def _step(raw: Mapping[str, Any]) -> Step:
    step = {name: _spelled_out(value) if name in ("item", "text") else value for name, value in raw.items()}
    for name in ("call", "during"):
        if name in step and "item" in step[name]:
            step[name] = {**step[name], "item": _spelled_out(step[name]["item"])}
    if "expect" in step:
        step["expect"] = _expectation(step["expect"])
    return step


def _expectation(raw: Mapping[str, Any]) -> Expectation:
    return {name: _spelled_out(value) if name == "text" else value for name, value in raw.items()}


def _end(raw: Mapping[str, Any]) -> Expectation:
    if "texts" not in raw:
        return raw
    return {**raw, "texts": {key: _spelled_out(text) for key, text in raw["texts"].items()}}


def _spelled_out(text: Any) -> Any:
    """A text from its parts: ``["[", 3]`` stands for ``[[[``."""
    if not isinstance(text, list):
        return text
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in text)
