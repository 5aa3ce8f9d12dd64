"""One stored queue that Python and the TypeScript package use in turns, step by step: for notebooks and for teaching.

Each side is a process of its own, and every step is a whole life of the queue: open the store, hydrate, do one thing,
close. So nothing but what is stored passes from one language to the other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

from starfish_outbox.caches.owner import make_directory
from starfish_outbox.conformance.driver import Answer, Driver, Failure, Request
from starfish_outbox.conformance.sides_page import page_of
from starfish_outbox.jsontext import decode
from starfish_outbox.opening import SQLITE_SUFFIXES

Side: TypeAlias = Literal["python", "typescript"]

_LANGUAGES: Final[Mapping[str, str]] = {"python": "Python", "typescript": "TypeScript"}
_OPERATIONS: Final = (
    "hydrate",
    "enqueue",
    "claim",
    "remove",
    "recordFailure",
    "markFailed",
    "retry",
    "get",
    "pending",
    "drain",
)
_PACKAGE: Final = "node_modules/@drakkar.software/starfish-outbox"


class NotSetUpError(RuntimeError):
    """Something that has to be there first is missing; the message says what, and what to do."""


@dataclass(frozen=True)
class Step:
    """What one language did, and what came of it.

    Attributes:
        number: from 1.
        side: ``python`` or ``typescript``.
        op: the operation; ``hold`` and ``let go`` at the two ends of `TwoLanguages.holding`.
        arguments: as they were given.
        value: what it returned: of a drain ``{"sent", "failed", "sends"}`` with the entries that were sent, of ``get``
            and ``pending`` the entries; None also where it raised.
        error: what it raised, with ``kind``, ``name`` and ``message``, or None.
        entries: what this side's queue holds afterwards; None where it raised or let go.
        text: what is stored afterwards, as it stands there; None: nothing.
    """

    number: int
    side: Side
    op: str
    arguments: Mapping[str, Any]
    value: Any
    error: Failure | None
    entries: list[dict[str, Any]] | None
    text: str | None

    @property
    def language(self) -> str:
        """``Python`` or ``TypeScript``."""
        return _LANGUAGES[self.side]

    @property
    def outcome(self) -> str:
        """What came of it, in a few words."""
        value = self.value
        if self.error is not None:
            return f"{self.error.name}: {self.error.message}"
        if isinstance(value, dict):
            words = f"sent {value['sent']}, failed {value['failed']}"
            return f"{words}, stopped: {value['stopped']}" if value.get("stopped") else words
        if isinstance(value, list):
            return "1 entry" if len(value) == 1 else f"{len(value)} entries"
        return "done" if value is None else json.dumps(value)

    def __str__(self) -> str:
        """In one line, without the item."""
        id = self.arguments.get("id")
        called = self.op if id is None else f"{self.op} {json.dumps(id, ensure_ascii=False)}"
        return f"{self.number:>3}  {self.language:<10}  {called}: {self.outcome}"

    def _repr_html_(self) -> str:
        return page_of([self])


class TwoLanguages:
    """One stored queue, and two languages that use it in turns.

    In a notebook it is shown as a table: what each side did, what is stored after it, and what each read last, items
    included. ``print`` shows the steps in lines, without items. The two processes start when they are needed and end
    with this object, or by ``close`` or the end of a ``with`` statement.

    Args:
        path: where it is stored: a database that ends in ``.db``, ``.sqlite`` or ``.sqlite3``, else a directory of
            files; made where it is missing. What is there is kept, so a cell that is run again goes on with it.
        key: the cache key of the queue.
        interop: the folder of that name in a clone of the repository; by default looked for in the working directory
            and above it, then beside the package.
        clock_ms: where both clocks stand, in milliseconds since the Unix epoch; by default they go.

    Attributes:
        steps: what was done, the first step first.

    Raises:
        NotSetUpError: the folder, Node or the TypeScript package is missing.

    Example::

        both = TwoLanguages("survey", key="outbox.ana")
        both.python("enqueue", id="a", item={"species": "Adélie"})
        both.typescript("drain", outcomes={"a": ["error"]})
        assert both.agree()
        both
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: str = "outbox.ana",
        *,
        interop: str | os.PathLike[str] | None = None,
        clock_ms: int | None = None,
    ) -> None:
        folder = _find_interop(interop)
        node = _find_node(folder)
        self.path = Path(path).expanduser().absolute()
        self.key = key
        self.steps: list[Step] = []
        self._clock_ms = clock_ms
        self._holder: Side | None = None
        self._drivers: dict[Side, Driver] = {}
        weakref.finalize(self, _end, self._drivers)
        self._operations: Mapping[str, Any] = json.loads((folder / "protocol.schema.json").read_text("utf-8"))["$defs"]
        self._commands: Mapping[Side, Sequence[str]] = {
            "python": (sys.executable, str(folder / "drivers/python.py")),
            "typescript": (node, str(folder / "drivers/typescript.mjs")),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End both processes; a further step starts them again."""
        _end(self._drivers)

    @property
    def store(self) -> str:
        """``sqlite`` or ``files``."""
        return "sqlite" if self.path.suffix.lower() in SQLITE_SUFFIXES else "files"

    def __repr__(self) -> str:
        count = f"{len(self.steps)} step{'' if len(self.steps) == 1 else 's'}"
        return f"TwoLanguages({str(self.path)!r}, key={self.key!r}): {count}"

    def __str__(self) -> str:
        """What it is and, a line each, what was done."""
        return "\n".join([repr(self), *map(str, self.steps)])

    def _repr_html_(self) -> str:
        return page_of(self.steps, title=f"{self.key} in {self.path}")

    def python(self, op: str, **arguments: Any) -> Step:
        """What this package comes to when it opens the queue, does one operation, and closes it.

        Args:
            op: ``enqueue``, ``claim``, ``remove``, ``record_failure``, ``mark_failed``, ``retry``, ``get``,
                ``pending``, ``drain``, or ``hydrate`` alone.
            arguments: of the operation: ``id``, ``item`` (any value that ``json`` writes), ``ts``, ``max_attempts``;
                of a drain ``outcomes``, which says what the sends of each id do one after the other, such as
                ``{"a": ["error", "ok"]}``; an id that is not named: ok.

        Raises:
            ValueError: there is no such operation.
            TypeError: it has other arguments, or ``json`` cannot write the item.
            DriverError: the process died or did not answer. What the queue raises is in the answer.
        """
        return self._step("python", op, arguments)

    def typescript(self, op: str, **arguments: Any) -> Step:
        """The same by the published TypeScript package under Node."""
        return self._step("typescript", op, arguments)

    def agree(self) -> bool:
        """Let each side read the queue; whether both could, and read the same entries.

        They differ where an entry is stored as ``sending``: Python notes at once that it may have been sent.
        """
        mine, its = self.python("get"), self.typescript("get")
        return mine.error is its.error is None and _spelled(mine.value) == _spelled(its.value)

    @contextmanager
    def holding(self, side: Side) -> Iterator[Step]:
        """In this block one side keeps the queue open, as a running program does, and its steps are done there.

        What the other side does meanwhile is refused, and that is its answer. Where opening was refused itself,
        nothing is held; the step that this gives has the error.

        Raises:
            ValueError: there is no such side.
            RuntimeError: one side holds it already.
        """
        if side not in self._commands:
            raise ValueError(f"{side!r} is neither {' nor '.join(map(repr, self._commands))}")
        if self._holder is not None:
            raise RuntimeError(f"{_LANGUAGES[self._holder]} holds the queue already")
        text: str | None = None
        with self._life(side) as opened:
            held = opened.error is None
            self._holder = side if held else None
            try:
                yield self._record(side, "hold", {}, opened)
                text = self._text(side)
            finally:
                self._holder = None
        if held:
            self._add(Step(len(self.steps) + 1, side, "let go", {}, None, None, None, text))

    def _step(self, side: Side, op: str, arguments: Mapping[str, Any]) -> Step:
        request = self._request(op, arguments)
        if side == self._holder:
            return self._record(side, op, arguments, self._ask(side, **request, look=self.key))
        with self._life(side) as opened:
            done = opened.error is not None or request["op"] == "hydrate"
            return self._record(side, op, arguments, opened if done else self._ask(side, **request, look=self.key))

    def _request(self, op: str, arguments: Mapping[str, Any]) -> Request:
        name = _camel(op)
        if name not in _OPERATIONS:
            raise ValueError(f"there is no operation {op!r}; there are {', '.join(map(_snake, _OPERATIONS))}")
        given = {_camel(argument): value for argument, value in arguments.items()}
        rule = self._operations[name]
        required = set(rule["required"]) - {"n", "op", "key"}
        known = rule["properties"].keys() - {"n", "op", "key", "look"}
        if not required <= given.keys() <= known:
            takes, needs = (", ".join(map(_snake, sorted(names))) or "nothing" for names in (known, required))
            raise TypeError(f"{op} takes {takes} and needs {needs}; it was given {', '.join(arguments) or 'nothing'}")
        if "item" in given:
            given["item"] = json.dumps(given["item"])
        return {"op": name, **given} | ({"key": self.key} if name == "hydrate" else {})

    def _ask(self, side: Side, op: str, **arguments: Any) -> Answer:
        if side not in self._drivers:
            self._drivers[side] = Driver(self._commands[side])
        try:
            return self._drivers[side].ask(op, **arguments)
        except BaseException:  # an answer that comes after an interrupt would be taken for that of the next step
            self._drivers.pop(side).close()
            raise

    @contextmanager
    def _life(self, side: Side) -> Iterator[Answer]:
        """The queue is open on this side; gives the answer to what failed of opening it, else to ``hydrate``."""
        if (
            self.store == "sqlite" and not self.path.exists()
        ):  # Python makes a database; Node works on one that there is
            make_directory(self.path.parent)
            self._ask("python", "open", store=self.store, path=str(self.path))
            self._ask("python", "close")
        requests: list[Request] = [{"op": "open", "store": self.store, "path": str(self.path)}]
        if self._clock_ms is not None:
            requests.append({"op": "clock", "ms": self._clock_ms})
        requests.append({"op": "hydrate", "key": self.key, "look": self.key})
        try:
            for request in requests:
                answer = self._ask(side, **request)
                if answer.error is not None:
                    break
            yield answer
        finally:
            if side in self._drivers:  # else it died, or was ended in the middle of something
                self._ask(side, "close")

    def _text(self, side: Side) -> str | None:
        text: str | None = self._ask(side, "text", key=self.key).value
        return text

    def _record(self, side: Side, op: str, arguments: Mapping[str, Any], answer: Answer) -> Step:
        text = self._text(side) if answer.error else answer.text
        entries = None if answer.error or answer.entries is None else decode(answer.entries)
        number = len(self.steps) + 1
        return self._add(Step(number, side, op, dict(arguments), _value(answer.value), answer.error, entries, text))

    def _add(self, step: Step) -> Step:
        self.steps.append(step)
        return step


def _end(drivers: dict[Side, Driver]) -> None:
    while drivers:
        drivers.popitem()[1].close()


def _value(value: Any) -> Any:
    """A returned value with what stands in it as JSON text decoded."""
    if isinstance(value, dict):
        return {**value, "sends": [decode(sent) for sent in value["sends"]]}
    return decode(value) if isinstance(value, str) else value


def _spelled(entries: Any) -> str:
    return json.dumps(entries, sort_keys=True)  # as values, 1 and True would be equal


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name)


def _find_interop(given: str | os.PathLike[str] | None) -> Path:
    here = Path.cwd()
    looked = [folder / "interop" for folder in (here, *here.parents, Path(__file__).parents[2])]
    if given is not None:
        looked = [Path(given).expanduser().absolute()]
    for folder in looked:
        if (folder / "drivers/typescript.mjs").is_file():
            return folder
    where = f"at {looked[0]}" if given is not None else f"in {here} or above it"
    raise NotSetUpError(
        f"there is no folder interop {where}: it holds the Node part and is not in the wheel. "
        "Clone the repository, run `npm ci` in its folder interop, and say interop='.../interop'."
    )


def _find_node(folder: Path) -> str:
    found = shutil.which("node")
    if found is None:
        raise NotSetUpError("there is no `node` on the PATH: install Node 20 or newer, then start this kernel again")
    if not (folder / _PACKAGE).is_dir():
        raise NotSetUpError(f"the TypeScript package is not installed: run `npm ci` in {folder} (one or two minutes)")
    return found
