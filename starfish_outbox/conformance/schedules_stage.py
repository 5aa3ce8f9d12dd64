"""A driver behind gates, and what is known of it: who is bound, what runs, what waits where; noted as it moves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from starfish_outbox.conformance.driver import Answer, Driver, NonsenseError, Request
from starfish_outbox.conformance.schedules_record import Call, Record, Send

START_MS: Final = 1_700_000_000_000


class Gate(NamedTuple):
    """What something waits at; sorts by what it waits for first, so that programs that number differently are alike."""

    at: str
    what: str
    number: int

    def __str__(self) -> str:
        return f"{self.at} {self.what} ({self.number})"

    @property
    def writes(self) -> bool:
        """Whether it is a change of what is stored."""
        return self.at in ("setItem", "removeItem")


class Passing(NamedTuple):
    """A gate to be let go; ``fails``: what stands there fails, a cache call or a send."""

    gate: Gate
    fails: bool


class Stage:
    """One driver on the store ``memory``, gates on.

    Args:
        keys: the identities. With two, what is stored under both is looked at after every step.
        injected: what is done to the driver is counted here.

    Attributes:
        lines: what was done and what came of it, for people.
        step: requests so far that made something move.
        waiting: the gates that something stands at, sorted.
        running: the operations that have not ended, by the name of their task.
        bound: the identity whose ``hydrate`` was the last one asked for, and has ended; None after a ``clear``.
        turning: the keys of the hydrates under way, by task, the latest last; without those that no longer count.
    """

    def __init__(self, driver: Driver, keys: Sequence[str], injected: Counter[str]) -> None:
        self.record = Record()
        self.lines: list[str] = []
        self.step = 0
        self._driver = driver
        self._keys = keys
        self._injected = injected
        self.bound: str | None = None
        self._forget()

    @property
    def in_play(self) -> set[str]:
        """The identities to which a call may belong that is made now."""
        return {*self.turning.values()} | ({self.bound} if self.bound else set())

    def open(self, texts: Mapping[str, str | None], why: str) -> None:
        """A process starts with these texts stored, bound to nobody; the one before, if any, is dead."""
        self._begin_process(why, texts)
        self._ask([*_opening(texts), {"op": "gates", "on": True}])

    def texts(self) -> dict[str, str | None]:
        """What is stored, by key."""
        answers = self._ask([{"op": "text", "key": key} for key in self._keys])
        return {key: answer.value for key, answer in zip(self._keys, answers, strict=True)}

    def begin(self, op: str, **arguments: Any) -> Call:
        """Start an operation, and see what moves."""
        what = arguments.get("id", arguments.get("key", ""))
        task = f"{op} {what}".rstrip() + f" #{self.step + 1}"
        call = self.running[task] = self.record.call(op, what, self.step + 1)
        self._injected[f"{op} calls"] += 1
        before = self._surely_bound()
        if op == "hydrate":
            self._injected["switches"] += self.bound not in (None, what)
            self.turning[task] = what
        elif op == "clear":
            self.bound = None
            self.turning.clear()
        answers = self._look_after([{"op": "start", "task": task, "call": {"op": op, **arguments}}])
        self.step += 1
        self._note(task, answers, before if before == self._surely_bound() else None)
        return call

    def let_go(self, passings: Sequence[Passing]) -> None:
        """Let gates go, one after the other, and see what moves."""
        requests: list[Request] = []
        for gate, fails in passings:
            request: Request = {"op": "pass", "gate": gate.number}
            if gate.at == "send":
                request["outcome"] = "error" if fails else "ok"
            elif fails:
                request["fail"] = "the disk is on fire"
            requests.append(request)
        answers = self._look_after(requests)
        each = len(answers) // len(requests)
        for number, (gate, fails) in enumerate(passings):
            its = answers[number * each : (number + 1) * each]
            if its[0].error is not None and gate not in self.waiting:
                continue  # what stood there gave up when one before it was let go
            self.step += 1
            self._note_passing(gate, fails)
            self._note(f"let {gate} go{', and fail' if fails else ''}", its, self._surely_bound())

    def expect_calm(self) -> None:
        """Nothing waits: what has not ended never will."""
        for task in [*self.running, *(f"what waits at {gate}" for gate in self.waiting)]:
            self.record.fail("stuck", f"{task} never ends")
        self.running.clear()

    def expect_drained(self) -> None:
        """Nothing waits, and a drain has ended: nothing is left."""
        (answer,) = self._ask([{"op": "get"}])
        left = self._ids_in("get", answer.value)
        if left:
            self.record.fail("stuck", f"a drain that nothing disturbed leaves {', '.join(left)}")

    def finish(self) -> None:
        """Another process starts on what is stored, undisturbed, and drains it."""
        texts = self.texts()
        self._note_texts(texts)
        self._begin_process("the process ends, another one starts and drains", texts)
        requests = _opening(texts)
        begin = len(requests)
        for key in self._keys:
            requests += [{"op": "hydrate", "key": key}, {"op": "drain", "look": key}]
        answers = self._driver.ask_many(requests)
        for number, key in enumerate(self._keys):
            self.step += 1
            hydrated, drained = answers[begin + 2 * number : begin + 2 * number + 2]
            if hydrated.error or drained.error:
                self.record.fail("stuck", f"{key} cannot be drained: {hydrated.error or drained.error}")
                continue
            sent = [str(json.loads(entry)["id"]) for entry in drained.value["sends"]]
            for id in sent:
                send = self.record.send(id, self.step, key)
                send.end, send.ok = self.step, True
            self.lines.append(f"{self.step:>3}  drain {key} -> sent {', '.join(sent) or 'nothing'}")
            left = self._ids_in(key, drained.text)
            if left:
                self.record.fail("stuck", f"{', '.join(left)} cannot be drained from {key}")

    def _forget(self) -> None:
        self.waiting: list[Gate] = []
        self.running: dict[str, Call] = {}
        self.bound = None
        self.turning: dict[str, str] = {}
        self._sends: dict[Gate, Send] = {}

    def _begin_process(self, why: str, texts: Mapping[str, str | None]) -> None:
        self.record.die(self.step)
        self._forget()
        stored = (f"{key}: {' '.join(self._ids_in(key, text)) or 'nothing'}" for key, text in texts.items())
        self.lines.append(f"     {why}; stored under {', '.join(stored)}")

    def _surely_bound(self) -> str | None:
        """The identity that is bound, and the only one in play."""
        return self.bound if self.in_play == {self.bound} else None

    def _look_after(self, requests: Sequence[Request]) -> list[Answer]:
        """Ask, and after each, with two identities, what is stored."""
        looks: list[Request] = [{"op": "text", "key": key} for key in self._keys] if len(self._keys) > 1 else []
        return self._driver.ask_many([one for request in requests for one in (request, *looks)])

    def _ask(self, requests: Sequence[Request]) -> list[Answer]:
        answers = self._driver.ask_many(requests)
        for answer in answers:
            self._expect_no_error(answer)
        return answers

    def _expect_no_error(self, answer: Answer) -> None:
        if answer.error is not None:
            raise self._nonsense(f"answered the harness with {answer.error}")

    def _nonsense(self, what: str) -> NonsenseError:
        name = self._driver.name
        self._driver.close()
        return NonsenseError("\n".join([f"{name} {what}", *self.lines]))

    def _note_passing(self, gate: Gate, fails: bool) -> None:
        self._injected["gates passed"] += 1
        if gate.at == "send":
            send = self._sends[gate]
            send.end, send.ok = self.step, not fails
            self._injected["sends that raise" if fails else "sends"] += 1
        elif fails:
            self.record.failures.append(self.step)
            self._injected["writes failed" if gate.writes else "reads failed"] += 1

    def _note(self, did: str, answers: Sequence[Answer], bound: str | None) -> None:
        """What came of a step; ``bound``: who was surely bound when it began."""
        for answer in answers:
            self._expect_no_error(answer)
        value = answers[0].value
        self._note_ends(value["finished"])
        before = set(self.waiting)
        self.waiting = sorted(Gate(gate["at"], gate["what"], gate["gate"]) for gate in value["waiting"])
        fresh = [gate for gate in self.waiting if gate not in before]
        for gate in before.difference(self.waiting) & self._sends.keys():
            if self._sends[gate].end is None:  # nobody let it go: it was given up
                self._sends[gate].died = self.step
        for gate in fresh:
            if gate.at == "send":
                self._sends[gate] = self.record.send(gate.what, self.step, bound)
        line = f"{self.step:>3}  {did}"
        if value["finished"]:
            line += f" | ended: {', '.join(map(_shown, value['finished']))}"
        if fresh:
            line += f" | now waits: {', '.join(map(str, fresh))}"
        self.lines.append(line)
        self._note_texts({key: answer.value for key, answer in zip(self._keys, answers[1:], strict=False)})

    def _note_ends(self, finished: Sequence[Mapping[str, Any]]) -> None:
        for ended in finished:
            task = ended["task"]
            if task not in self.running:
                raise self._nonsense(f"says that {task!r} has ended, which does not run")
            call = self.running.pop(task)
            call.end, call.value = self.step, ended.get("value")
            call.error = ended["error"]["name"] if "error" in ended else None
            if task in self.turning:
                if task == next(reversed(self.turning)):  # the latest wins: those before it do not count any more
                    self.bound = call.what if call.acknowledged else None
                    self.turning.clear()
                else:
                    del self.turning[task]

    def _note_texts(self, texts: Mapping[str, str | None]) -> None:
        for key, text in texts.items():
            self.record.stored(key, self._ids_in(key, text))

    def _ids_in(self, where: str, text: str | None) -> list[str]:
        try:
            return [str(entry["id"]) for entry in json.loads(text or "[]")]
        except (ValueError, TypeError, KeyError):
            self.record.fail("stuck", f"what {where} holds is no array of entries: {text!r}")
            return []


def _opening(texts: Mapping[str, str | None]) -> list[Request]:
    requests: list[Request] = [{"op": "open", "store": "memory"}, {"op": "clock", "ms": START_MS}]
    return requests + [{"op": "put", "key": key, "text": text} for key, text in texts.items() if text is not None]


def _shown(ended: Mapping[str, Any]) -> str:
    if "error" in ended:
        return f"{ended['task']} raised {ended['error']['name']}"  # the message may hold an address: no two runs alike
    value = ended["value"]
    if isinstance(value, dict):  # a drain's: the sends are told where they happen
        value = f"sent {value['sent']}, failed {value['failed']}"
    return ended["task"] if value is None else f"{ended['task']}: {str(value).lower()}"
