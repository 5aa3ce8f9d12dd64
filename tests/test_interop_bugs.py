"""Bugs planted in our own queue and codec: each is found by random sequences, side by side or from hand to hand.

What bounds a search is a number of sequences, so that a slow machine finds as much as a fast one; how long each took is
printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from starfish_outbox.conformance.divergences import Divergence
from starfish_outbox.conformance.driver import Driver
from starfish_outbox.conformance.relay import relay
from starfish_outbox.conformance.sequences import compare
from tests.interop import INTEROP, divergences, typescript_driver
from tests.reporting import report

DRIVER_WITH_A_BUG = """
import asyncio, dataclasses, json, sys, unicodedata
sys.path.insert(0, sys.argv[1])
from starfish_outbox import admission, binding, codec, entry, listeners, queue, state, transitions
from starfish_outbox.caches import adapter, array, base
from starfish_outbox.drain import lineup, passes, settling
from starfish_outbox.jsontext import encode_foreign, spelling, writing
def change(module, name, make):
    setattr(module, name, make(getattr(module, name)))
{bug}
from python import PythonDriver
asyncio.run(PythonDriver().run())
"""

SEQUENCES = {
    # The steps of one entry.
    "retry forgets attempts": "change(transitions, 'retry', lambda real: lambda **_: real(reset_attempts=True))",
    "retry leaves failed entries alone": """
change(transitions, 'retry', lambda real: lambda **_: lambda e: None if e.status == 'failed' else real()(e))
""",
    "one attempt more than allowed": "change(transitions, 'record_failure', lambda real: lambda most: real(most + 1))",
    "recordFailure leaves a failed entry failed": """
change(transitions, 'record_failure', lambda real: lambda most: lambda e:
    dataclasses.replace(real(most)(e), status='failed') if e.status == 'failed' else real(most)(e))
""",
    "markFailed counts no attempt": """
change(transitions, 'mark_failed', lambda real: lambda e: dataclasses.replace(real(e), attempts=e.attempts))
""",
    "a failed entry cannot be claimed": """
change(transitions, 'claim', lambda real: lambda token, **_: real(token, only_queued=True))
""",
    "an entry is claimed twice": """
change(transitions, 'claim', lambda real: lambda token, **options: lambda e:
    real(token, **options)(e) or dataclasses.replace(e, claim=token))
""",
    # The queue.
    "an id that failed can be enqueued again": """
change(state.State, 'first', lambda real: lambda self, id:
    None if (e := real(self, id)) is not None and e.status == 'failed' else e)
""",
    "remove takes the neighbour too": """
def with_neighbour(real):
    def apply(self, op, seqs, undo):
        outcome = real(self, op, seqs, undo)
        if outcome.applied and outcome.entry is None:
            behind = next((e.seq for e in self.state if e.seq > outcome.seq), None)
            if behind is not None:
                undo.append(base.Seen(behind, self.put(behind, None)))
        return outcome
    return apply
change(array.Array, 'apply', with_neighbour)
""",
    "an entry that changes goes to the end": """
def to_the_end(real):
    def put(self, seq, entry):
        before = real(self, seq, entry)
        if before is not None and entry is not None and before.status != entry.status:
            self._entries[seq] = self._entries.pop(seq)
        return before
    return put
change(state.State, 'put', to_the_end)
""",
    "equal ids by another letter": """
change(queue, 'check_id', lambda real: lambda id: None)
change(queue.OutboxQueue, 'claim', lambda real: lambda self, id: real(self, unicodedata.normalize('NFC', id)))
""",
    "a ts of 0 is taken for none": """
change(queue.OutboxQueue, '_entry', lambda real: lambda self, id, text, ts: real(self, id, text, ts or None))
""",
    "enqueuedAt is in whole seconds": """
change(queue.OutboxQueue, '_entry', lambda real: lambda self, id, text, ts:
    dataclasses.replace(e := real(self, id, text, ts), enqueued_at=e.enqueued_at // 1000 * 1000))
""",
    "pending leaves out what is being sent": """
change(queue.OutboxQueue, 'pending', lambda real: lambda self, predicate=None:
    [e for e in real(self, predicate) if e.status != 'sending'])
""",
    "clear keeps the entries": "queue.OutboxQueue.clear = lambda self: self._listeners.notify()",
    "a claim is not written before it returns": """
def not_yet(real):
    async def write(self, key, keyed, *, grows):
        if not any(e.claim is not None and e.claim.kind == 'bare' for e in keyed.state):
            await real(self, key, keyed, grows=grows)
    return write
change(adapter.AdaptedStore, '_write', not_yet)
""",
    "a removal is kept in memory alone": """
def additions_alone(real):
    async def write(self, key, keyed, *, grows):
        if grows or len(keyed.state) > 1:
            await real(self, key, keyed, grows=grows)
    return write
change(adapter.AdaptedStore, '_write', additions_alone)
""",
    "listeners are called twice": """
change(listeners.Listeners, 'notify', lambda real: lambda self: (real(self), real(self))[0])
""",
    "listeners hear nothing of a change that changes nothing": """
change(queue, 'Update', lambda real: lambda step, **given: real(step, **{**given, 'rewrite': False}))
""",
    "clear tells nobody": """
def silent(real):
    def clear(self):
        notify, self._listeners.notify = self._listeners.notify, lambda: None
        real(self)
        self._listeners.notify = notify
    return clear
change(queue.OutboxQueue, 'clear', silent)
""",
    "hydrate forgets entries of unknown status": """
change(array.Array, 'adopt', lambda real: lambda self, text, entries, *rest:
    real(self, text, [e for e in entries if e.status in ('queued', 'sending', 'failed')], *rest))
""",
    "hydrate of another key keeps the entries of the one before": """
def merged(real):
    def reload(self, entries, own):
        real(self, [*entries, *self.kept] if own else entries, own)
        type(self).kept = [dataclasses.replace(e, seq=e.seq + 1000) for e in entries]
    return reload
binding.Binding.kept = []
change(binding.Binding, '_reload', merged)
""",
    "a claim outlives its process": "change(adapter, 'free', lambda real: lambda entry, *_: entry)",
    # The pass.
    "the youngest entry is sent first": """
change(lineup.Lineup, '__init__', lambda real: lambda self, entries, *rest: real(self, list(entries)[::-1], *rest))
""",
    "a pass sends failed entries": """
change(lineup.Lineup, '__init__', lambda real: lambda self, entries, *rest:
    real(self, [dataclasses.replace(e, status='queued') if e.status == 'failed' else e for e in entries], *rest))
change(transitions, 'claim', lambda real: lambda token, **_: real(token))
""",
    "a pass ends at the first failure": """
def and_stop(real):
    def settle(self, entry, token, answer):
        if answer.error is not None:
            self._stop('busy', '')
        return real(self, entry, token, answer)
    return settle
change(settling.Judge, 'settle', and_stop)
""",
    "a pass knows no most attempts": """
change(transitions, 'attempt_failed', lambda real: lambda token, most, error, **more: real(token, 99, error, **more))
""",
    "a failure counts as failed before the entry is parked": """
def counted(real):
    def count(self, settlement, outcome):
        real(self, settlement, outcome)
        self.result.failed += settlement.outcome == 'attempt' and outcome.entry.status == 'queued'
    return count
change(passes.Pass, '_count', counted)
""",
    "a send is given the entry as it will be": """
change(codec, 'public', lambda real: lambda e: real(e if e.claim is None else dataclasses.replace(e, status='sending')))
change(passes.Pass, '_claim', lambda real: lambda self, *about: later(real, self, *about))
async def later(real, self, *about):
    flights = await real(self, *about)
    return [dataclasses.replace(flight, entry=self.binding.state.get(flight.entry.seq)) for flight in flights]
""",
    # The text.
    "unknown keys are dropped": "change(codec, 'encode_more', lambda real: lambda entry: '')",
    "a key named __proto__ is dropped": """
change(codec, 'stored', lambda real: lambda seq, data, *rest:
    real(seq, {n: v for n, v in data.items() if n != '__proto__'}, *rest))
""",
    "items are spelled as in Python": """
change(admission, 'encode_item', lambda real: lambda item, **_: json.dumps(item))
""",
    "numbers are spelled as in Python": """
for module in (writing, spelling):
    change(module, 'encode_number', lambda real: repr)
""",
    "keys are sorted": """
change(admission, 'encode_item', lambda real: lambda item, **options:
    encode_foreign(json.loads(json.dumps(item, sort_keys=True))))
""",
    "what is not ASCII is escaped": """
for module in (codec, spelling):
    change(module, 'encode_string', lambda real: json.dumps)
change(writing, 'encode_basestring', lambda real: json.dumps)
""",
    "a stored item is spelled anew by Python": """
change(codec, 'stored', lambda real: lambda *about:
    dataclasses.replace(e := real(*about), item=json.dumps(json.loads(e.item), separators=(',', ':'))))
""",
    "U+2028 is escaped, as some libraries do": """
change(admission, 'encode_item', lambda real: lambda *about, **options:
    real(*about, **options).replace('\\u2028', r'\\u2028'))
""",
    "attempts are text": """
change(codec, 'encode_entry', lambda real: lambda e:
    real(e).replace(f'"attempts":{e.attempts},', f'"attempts":"{e.attempts}",'))
""",
}
"""Found side by side with the TypeScript package."""

RELAYS = {
    "an entry found sending is not marked": """
change(base, 'abandon', lambda real: lambda now_ms: lambda e: dataclasses.replace(e, status='queued', claim=None))
""",
    "the instant of maybeSent is not kept": """
change(codec, 'stored', lambda real: lambda *about: dataclasses.replace(real(*about), maybe_sent_ms=None))
""",
    "maybeSent is in seconds": """
change(codec, 'encode_more', lambda real: lambda e: real(
    e if e.maybe_sent_ms is None else dataclasses.replace(e, maybe_sent_ms=e.maybe_sent_ms // 1000)))
""",
    "the reason of a failure is not kept": """
change(transitions, 'attempt_failed', lambda real: lambda token, most, error, **more: real(token, most, None, **more))
""",
    "a reason is forgotten when it is read": """
change(codec, 'stored', lambda real: lambda *about: dataclasses.replace(real(*about), last_error=None))
""",
    "what was asked for without an answer comes first": """
change(transitions, 'behind_the_rest', lambda real: lambda entry: not real(entry))
""",
    "nextAttemptAt is dropped": """
change(codec, 'stored', lambda real: lambda *about: dataclasses.replace(real(*about), next_attempt_ms=None))
""",
    "enqueue says yes to what is there": """
async def yes(real, *about):
    await real(*about)
    return True
change(queue.OutboxQueue, 'enqueue', lambda real: lambda *about: yes(real, *about))
""",
}
"""What no other program does is not compared side by side: the model of the relay knows what it has to be."""


@pytest.fixture(scope="module")
def typescript() -> Iterator[Driver]:
    with typescript_driver() as driver:
        yield driver


def with_bug(code: str) -> Driver:
    return Driver([sys.executable, "-c", DRIVER_WITH_A_BUG.format(bug=code), str(INTEROP / "drivers")])


# Each is a program that is started anew, so every second one waits for `make proof`.
ONE_BY_ONE = [pytest.param(bug, marks=[pytest.mark.proof] * (number % 2)) for number, bug in enumerate(SEQUENCES)]


@pytest.mark.parametrize("bug", ONE_BY_ONE)
def test_a_planted_bug_is_found_side_by_side(bug: str, typescript: Driver) -> None:
    with with_bug(SEQUENCES[bug]) as wrong:
        start = time.perf_counter()
        tally = compare([wrong, typescript], range(200), divergences(), most=1)
        seconds = time.perf_counter() - start
    assert tally.differences, f"{bug}: not found in {tally.sequences} sequences"
    shown = tally.differences[0]
    assert all(answer.error is None or answer.error.kind != "other" for answer in shown.answers), "a crash, not the bug"
    report(f"{bug}: {seconds:.1f} s, {tally.operations} operations; shown in {shown.step + 1}: {shown.what}", INTEROP)


@pytest.mark.parametrize("bug", RELAYS)
def test_a_planted_bug_is_found_from_hand_to_hand(bug: str, typescript: Driver) -> None:
    with with_bug(RELAYS[bug]) as wrong:
        start = time.perf_counter()
        tally = relay([wrong, typescript], range(60), divergences(), most=1)
        seconds = time.perf_counter() - start
    assert tally.differences, f"{bug}: not found in {tally.sequences} sequences"
    assert "raised" not in tally.differences[0].splitlines()[0], "a crash, not the bug"
    report(f"{bug}: {seconds:.1f} s, {tally.operations.total()} operations", INTEROP)


def test_without_a_bug_the_same_searches_find_nothing(typescript: Driver) -> None:
    with with_bug("") as right:
        assert not compare([right, typescript], range(60), divergences(), most=1).differences
        assert not relay([right, typescript], range(20), divergences(), most=1).differences


@pytest.mark.parametrize(
    ("text", "words"),
    [("'{}'", "what it stored is no array of entries: {}"), ("'[]'", "what it stored is without ['")],
)
def test_where_states_may_differ_there_is_still_an_array_and_no_entry_is_lost(
    text: str, words: str, typescript: Driver
) -> None:
    bug = (
        f"change(array.Array, 'text', lambda real: lambda self: {text} if self.state.counts().sending else real(self))"
    )
    odd = Divergence("odd", "python", "ends", "it stores a claim in a form of its own", when={"op": "claim"})
    with with_bug(bug) as wrong:
        tally = relay([wrong, typescript], range(60), [*divergences(), odd], most=1)
    assert f"by python: {words}" in tally.differences[0]
