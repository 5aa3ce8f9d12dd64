"""Items on their way from Python through the TypeScript package and back: what is accepted comes back equal.

What is refused is refused with a path to its flaw, and JavaScript changes or refuses it, or it has a flaw elsewhere.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from math import isfinite
from typing import Any

import pytest

from starfish_outbox import ItemError, MemoryCache, OutboxQueue
from starfish_outbox.conformance.driver import Driver
from starfish_outbox.conformance.values import Flaw, random_unfit, random_value
from starfish_outbox.jsontext import encode_item
from tests.interop import INTEROP, typescript_driver
from tests.reporting import report

SEED = int(os.environ.get("STARFISH_SEED") or 0)
KEY = "outbox.ana"
BATCH = 500
MORE = '{"id":"more","item":null,"status":"queued","attempts":0,"enqueuedAt":5}'
VOLUMES = [10_000, pytest.param(200_000, marks=[pytest.mark.proof, pytest.mark.timeout(3000)])]


@pytest.fixture(scope="module")
def typescript() -> Iterator[Driver]:
    with typescript_driver() as driver:
        yield driver


def through(typescript: Driver, text: str) -> str:
    """What the TypeScript package stores after it has read this text and enqueued one more entry."""
    answers = typescript.ask_many([
        {"op": "open", "store": "memory"},
        {"op": "put", "key": KEY, "text": text},
        {"op": "hydrate", "key": KEY},
        {"op": "enqueue", "id": "more", "item": "null", "ts": 5, "look": KEY},
    ])  # fmt: skip
    assert [answer.error for answer in answers] == [None] * 4
    assert answers[-1].text is not None
    return answers[-1].text


def as_doubles(value: Any) -> Any:
    """What is meant by a Python item, in plain types: numbers are doubles, two halves are a character."""
    if isinstance(value, dict):
        return {as_doubles(key): as_doubles(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_doubles(inner) for inner in value]
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16")
    if isinstance(value, bool):
        return ("a boolean", value)  # True == 1.0
    return float(value) if isinstance(value, int) else value


def reordered(value: Any) -> bool:
    """Whether JavaScript puts the keys of an object in it in another order."""
    if isinstance(value, dict):
        return any(key.isdecimal() for key in value) or any(map(reordered, value.values()))
    return isinstance(value, list | tuple) and any(map(reordered, value))


def features(value: Any) -> Iterator[str]:
    yield type(value).__name__
    if isinstance(value, dict):
        yield from (feature for pair in value.items() for inner in pair for feature in features(inner))
    elif isinstance(value, list | tuple):
        yield from (feature for inner in value for feature in features(inner))
    elif isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            yield "two halves"
        elif not value.isascii():
            yield "not ASCII"
    elif isinstance(value, float) and value.is_integer():
        yield "whole float"
    elif isinstance(value, int) and abs(value) > 2**31:
        yield "large integer"


async def stored(items: Sequence[Any]) -> str:
    """What our queue stores of these items."""
    cache = MemoryCache()
    async with OutboxQueue[Any](cache, clock=lambda: 5) as queue:
        await queue.hydrate(KEY)
        assert all(await queue.enqueue_many((str(number), item) for number, item in enumerate(items)))
    text = await cache.get_item(KEY)
    assert text is not None
    return text


@pytest.mark.parametrize("count", VOLUMES)
async def test_every_item_that_python_accepts_comes_back_equal_from_typescript(count: int, typescript: Driver) -> None:
    rng = random.Random(SEED)
    seen: Counter[str] = Counter()
    items = (random_value(rng, like_integers=number % 4 == 0) for number in range(count))
    while batch := list(islice(items, BATCH)):
        for item in batch:
            seen.update(set(features(item)))
        text = await stored(batch)
        back = through(typescript, text)
        found = [entry["item"] for entry in json.loads(back)[:-1]]
        differing = [(item, it) for item, it in zip(batch, found, strict=True) if as_doubles(item) != as_doubles(it)]
        assert differing == []
        in_order = [not reordered(item) for item in batch]
        seen["in order"] += sum(in_order)
        if all(in_order):
            assert back == f"{text[:-1]},{MORE}]"
        else:
            assert kept(back, in_order) == kept(f"{text[:-1]},{MORE}]", in_order)
    report(f"{count} items accepted, all back equal; among them {dict(seen)}", INTEROP)
    for feature in ("dict", "list", "tuple", "str", "int", "float", "bool", "NoneType", "not ASCII"):
        assert seen[feature] > count / 100, feature
    assert min(seen["whole float"], seen["large integer"], 2 * seen["two halves"]) > count / 100
    assert count / 2 < seen["in order"] < count - count / 100


def kept(text: str, in_order: Sequence[bool]) -> list[str]:
    """The texts of the entries in whose items no keys move, byte for byte as they stand in the array."""
    parts = re.split(r'(?<=\}),(?=\{"id":"(?:\d+|more)","item":)', text[1:-1])
    assert len(parts) == len(in_order) + 1
    return [part for part, stays in zip(parts, [*in_order, True], strict=True) if stays]


def step_by_step(path: str) -> list[int | str]:
    """A path such as ``$.readings[3]["odd key"]`` as keys and positions."""
    assert path.startswith("$")
    steps: list[int | str] = []
    at = 1
    while at < len(path):
        if plain := re.compile(r"\.([^.\[]+)|\[(\d+)\]").match(path, at):
            steps.append(plain[1] if plain[1] is not None else int(plain[2]))
            at = plain.end()
        else:
            key, at = json.JSONDecoder().raw_decode(path, at + 1)
            steps.append(key)
            assert path[at] == "]"
            at += 1
    return steps


def led_to(value: Any, steps: Sequence[int | str]) -> Any:
    for step in steps:
        value = value[step]
    return value


def flaw_of(value: Any, depth: int) -> Flaw | None:
    """What is wrong with the value that a path of so many steps led to: a rule that knows nothing of ours."""
    if isinstance(value, dict | list | tuple) and depth >= 128:
        return "depth"
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return "key"
        if any(has_half(key) for key in value):
            return "half a character in a key"
        return "equal keys" if len(as_doubles(dict.fromkeys(value))) < len(value) else None
    if value is None or isinstance(value, bool | list | tuple):
        return None
    if isinstance(value, str):
        return "half a character" if has_half(value) else None
    if isinstance(value, int):
        return "integer" if abs(value) >= 2**53 else None
    if isinstance(value, float):
        return None if isfinite(value) else "not finite"
    return "type"


def has_half(text: str) -> bool:
    try:
        text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return True
    return False


def refused_by_python(rng: random.Random, count: int) -> Iterator[tuple[Flaw, Any, list[int | str]]]:
    """Flaws, items that have them, and where the refusal says that they are."""
    for flaw, item in (random_unfit(rng) for _ in range(count)):
        with pytest.raises(ItemError) as refused:
            encode_item(item)
        yield flaw, item, step_by_step(refused.value.path)


@pytest.mark.parametrize("count", VOLUMES)
def test_every_item_that_python_refuses_has_a_flaw_where_the_path_leads(count: int) -> None:
    seen: Counter[str] = Counter()
    for flaw, item, steps in refused_by_python(random.Random(SEED), count // 4):
        if flaw == "size":
            assert steps == []
            assert len(json.dumps(item, ensure_ascii=False).encode("utf-8", "surrogatepass")) > 1 << 20
        else:
            assert flaw_of(led_to(item, steps), len(steps)) == flaw
        seen[flaw] += 1
    report(f"{count // 4} items refused: {dict(seen)}", INTEROP)
    assert min(seen[flaw] for flaw in seen if flaw != "size") > count / 100
    assert len(seen) == 9 or SEED


def after_javascript(typescript: Driver, values: Sequence[Any]) -> list[Any]:
    """What Python reads of values that it wrote and the TypeScript package rewrote, as ``json`` writes and reads."""
    found: list[Any] = []
    for start in range(0, len(values), BATCH):
        entries = [
            {"id": str(number), "item": value, "status": "queued", "attempts": 0, "enqueuedAt": 5}
            for number, value in enumerate(values[start : start + BATCH])
        ]
        found += [entry["item"] for entry in json.loads(through(typescript, json.dumps(entries)))[:-1]]
    return found


@pytest.mark.parametrize("count", VOLUMES)
def test_what_python_refuses_is_changed_by_javascript_or_by_others(count: int, typescript: Driver) -> None:
    flawed: dict[Flaw, list[Any]] = {}
    for flaw, item, steps in refused_by_python(random.Random(SEED + 1), count // 4):
        flawed.setdefault(flaw, []).append(item if flaw in ("depth", "size") else led_to(item, steps))

    integers = flawed["integer"]
    changed = [value != after for value, after in zip(integers, after_javascript(typescript, integers), strict=True)]
    # An even one may come back as it is, but not its neighbours: who counts on is lost.
    kept = [value for value, is_changed in zip(integers, changed, strict=True) if not is_changed]
    beside = [value + step for value in kept for step in (-1, 1)]
    back = after_javascript(typescript, beside)
    lost = [value != after for value, after in zip(beside, back, strict=True)]
    assert all(any(pair) for pair in zip(lost[::2], lost[1::2], strict=True))
    assert sum(changed) > len(integers) / 3

    tokens = [json.dumps(value) for value in flawed["not finite"]]
    typescript.ask("open", store="memory")
    answers = typescript.ask_many({"op": "enqueue", "id": "a", "item": token} for token in tokens)
    assert {answer.error.kind if answer.error else "accepted" for answer in answers} == {"unsupported"}

    collided = flawed["equal keys"]
    after = after_javascript(typescript, collided)
    assert [len(value) for value in after] == [len(value) - 1 for value in collided]

    for value in [*flawed["half a character"], *flawed["half a character in a key"]]:
        text = value if isinstance(value, str) else "".join(value)
        with pytest.raises(UnicodeEncodeError):
            text.encode()

    for value in [*flawed["key"], *flawed["type"]]:
        assert rewritten(value) != value

    cyclic = [value for value in flawed["depth"] if rewritten(value) is None]
    deep = [value for value in flawed["depth"] if rewritten(value) is not None]
    assert all(depth(value) > 128 for value in deep)
    what = {flaw: len(values) for flaw, values in flawed.items()}
    report(f"{what}: {sum(changed)} integers changed, {len(kept)} beside such; {len(cyclic)} cycles", INTEROP)
    assert min(len(kept), len(cyclic)) > 0


def rewritten(value: Any) -> Any:
    """As Python's own ``json`` stores and reads it; None where it cannot."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return None


def depth(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
def test_one_number_that_is_not_finite_costs_typescript_every_entry(token: str, typescript: Driver) -> None:
    entry = '{"id":"a","item":%s,"status":"queued","attempts":0,"enqueuedAt":5}'
    assert through(typescript, f"[{entry % 1}]") == f"[{entry % 1},{MORE}]"
    assert through(typescript, f"[{entry % 1},{entry % token}]") == f"[{MORE}]"
