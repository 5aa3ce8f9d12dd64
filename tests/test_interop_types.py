"""The types of the schemas against the published TypeScript package's own, judged by ``tsc --strict``.

All types and all assignments are compiled in one run (``interop/types/compile.mjs``). Changed schemas show that the
judge looks: each must be refused exactly in the directions that its change breaks.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import pytest

from starfish_outbox.schema import schema
from tests.interop import INTEROP, node

Schema: TypeAlias = dict[str, Any]

PACKAGE: Final = "@drakkar.software/starfish-outbox"
# Assignments that are tried with each changed schema: its type to the package's, the package's to it, and a text that
# this package writes as a literal of it. The last sees keys that the package's type has not.
TO, FROM, TEXT = "to-package", "from-package", "text"
FIVE: Final = ("id", "item", "status", "attempts", "enqueuedAt")
OPTIONAL: Final = ("maybeSent", "nextAttemptAt", "lastError", "replacement")
STATUSES: Final = ("queued", "sending", "failed")
TEXT_AS_WRITTEN: Final = [
    {"id": "a", "item": {"site": "Biscoe"}, "status": "queued", "attempts": 2, "enqueuedAt": 5},
    {"id": "b", "item": None, "status": "queued", "attempts": 0, "enqueuedAt": 5, "nextAttemptAt": 7},
    {
        "id": "d",
        "item": "x",
        "status": "sending",
        "attempts": 0,
        "enqueuedAt": 5,
        "replacement": {"item": [None], "enqueuedAt": 6},
    },
    {
        "id": "c",
        "item": [1, "x"],
        "status": "failed",
        "attempts": 3,
        "enqueuedAt": 5,
        "maybeSent": 6,
        "lastError": {"type": "ReadTimeout", "message": "no answer", "at": 6},
    },
]


class Mutant(NamedTuple):
    """A changed writer schema.

    Attributes:
        refused: the assignments that the change breaks.
        named: what the reason must name where types are assigned; of a literal, tsc names the place alone.
    """

    change: Callable[[Schema], None]
    refused: frozenset[str]
    named: str


def entry(document: Schema) -> Schema:
    return document["$defs"]["entry"]  # type: ignore[no-any-return]  # JSON


def drop(key: str, where: Schema) -> None:
    del where["properties"][key]
    if key in where["required"]:
        where["required"].remove(key)


def rename(key: str, where: Schema) -> None:
    required = key in where["required"]
    value = where["properties"][key]
    drop(key, where)
    where["properties"][f"{key}2"] = value
    if required:
        where["required"].append(f"{key}2")


def replace(key: str, value: Schema, where: Schema) -> None:
    where["properties"][key] = value


def require(key: str, where: Schema) -> None:
    where["required"].append(key)


def make_optional(key: str, where: Schema) -> None:
    where["required"].remove(key)


def forget(key: str, keyword: str, where: Schema) -> None:
    del where["properties"][key][keyword]


def mutants() -> Iterator[tuple[str, Mutant]]:
    def on_entry(name: str, change: Callable[[Schema], None], *refused: str, named: str) -> tuple[str, Mutant]:
        return name, Mutant(lambda document: change(entry(document)), frozenset(refused), named)

    own = {"id": "string", "status": "string", "attempts": "number", "enqueuedAt": "number"}
    for key in FIVE:
        yield on_entry(f"{key} is dropped", partial(drop, key), TO, TEXT, named=key)
        yield on_entry(f"{key} is renamed", partial(rename, key), TO, FROM, TEXT, named=key)
        yield on_entry(f"{key} is optional", partial(make_optional, key), TO, named=key)
    for key, kind in own.items():
        for other in ("string", "number", "boolean", "null", "array", "object"):
            if other != kind:
                yield on_entry(f"{key} is {other}", partial(replace, key, {"type": other}), TO, FROM, TEXT, named=key)
        if key != "status":
            yield on_entry(f"{key} may be null", partial(replace, key, {"type": [kind, "null"]}), TO, named=key)
    yield on_entry("status is any string", partial(replace, "status", {"type": "string"}), TO, named="status")
    more = {"enum": [*STATUSES, "paused"]}
    yield on_entry("a status more", partial(replace, "status", more), TO, named="status")
    for status in STATUSES:
        rest = [other for other in STATUSES if other != status]
        change = partial(replace, "status", {"enum": rest})
        yield on_entry(f"without the status {status}", change, FROM, TEXT, named="status")
        change = partial(replace, "status", {"enum": [*rest, status.capitalize()]})
        yield on_entry(f"the status {status} in capitals", change, TO, FROM, TEXT, named="status")
    yield on_entry("few attempts", partial(replace, "attempts", {"enum": [0, 1]}), FROM, TEXT, named="attempts")
    yield on_entry("item is a string", partial(replace, "item", {"type": "string"}), FROM, TEXT, named="item")
    yield on_entry("item without tsType", partial(forget, "item", "tsType"), FROM, TEXT, named="item")
    yield on_entry("a key more is required", partial(require_new, "owner"), FROM, TEXT, named="owner")
    for key in OPTIONAL:
        yield on_entry(f"{key} is dropped", partial(drop, key), TEXT, named=key)
        yield on_entry(f"{key} is renamed", partial(rename, key), TEXT, named=key)
        yield on_entry(f"{key} is required", partial(require, key), FROM, TEXT, named=key)
        yield on_entry(f"{key} is a string", partial(replace, key, {"type": "string"}), TEXT, named=key)
    yield from within("lastError", ("type", "message", "at"))
    yield from within("replacement", ("item", "enqueuedAt"))
    yield (
        "an object of entries",
        Mutant(lambda d: d.update(type="object"), frozenset({TO, FROM, TEXT}), "Outbox|length"),
    )
    yield "an array of anything", Mutant(lambda d: d.pop("items"), frozenset({TO}), "unknown")
    yield "an array of arrays", Mutant(nest, frozenset({TO, FROM, TEXT}), "WrittenEntry|length")
    yield on_entry("an open entry", lambda where: where.pop("additionalProperties"), FROM, named="[Ii]ndex signature")


def within(part: str, keys: tuple[str, ...]) -> Iterator[tuple[str, Mutant]]:
    """Changes of what an optional key holds."""

    def on_part(name: str, change: Callable[[Schema], None]) -> tuple[str, Mutant]:
        return name, Mutant(lambda d: change(entry(d)["properties"][part]), frozenset({TEXT}), part)

    for key in keys:
        yield on_part(f"{part}.{key} is dropped", partial(drop, key))
        yield on_part(f"{part}.{key} is renamed", partial(rename, key))
        yield on_part(f"{part}.{key} is boolean", partial(replace, key, {"type": "boolean"}))
    yield on_part(f"{part} has one key more", partial(require_new, "more"))


def require_new(key: str, where: Schema) -> None:
    replace(key, {"type": "string"}, where)
    require(key, where)


def nest(document: Schema) -> None:
    document["items"] = {"type": "array", "items": document["items"]}


def bounds() -> Iterator[tuple[str, Mutant]]:
    """What no type of TypeScript can say, and what breaks nobody: a change that must not be refused."""
    for key, keyword in (("id", "minLength"), ("attempts", "minimum"), ("enqueuedAt", "maximum")):
        name = f"{key} without {keyword}"
        yield name, Mutant(lambda d, k=key, w=keyword: forget(k, w, entry(d)), frozenset(), "")  # type: ignore[misc]
    yield "fractions of attempts", Mutant(lambda d: replace("attempts", {"type": "number"}, entry(d)), frozenset(), "")
    yield "a key more", Mutant(lambda d: replace("owner", {"type": "string"}, entry(d)), frozenset(), "")


MUTANTS: Final = dict([*mutants(), *bounds()])


def assigning(given: str, wanted: str) -> str:
    return (
        f'import type {{ Outbox as Given }} from "./{given}.js";\n'
        f'import type {{ Outbox as Wanted }} from "./{wanted}.js";\n'
        "export const assigned = (value: Given): Wanted => value;\n"
    )


def text_of(wanted: str) -> str:
    # A literal: a key too many is refused as well.
    return (
        f'import type {{ Outbox }} from "./{wanted}.js";\nexport const text: Outbox = {json.dumps(TEXT_AS_WRITTEN)};\n'
    )


def packages(entry_type: str) -> str:
    """The package's own type of a whole stored text."""
    return f'import type {{ OutboxEntry }} from "{PACKAGE}";\nexport type Outbox = {entry_type}[];\n'


USES: Final = f"""
import {{ createOutboxQueue, drainOutbox, resetSendingToQueued }} from "{PACKAGE}";
import type {{ DrainResult, LocalCache, OutboxEntry, OutboxStatus }} from "{PACKAGE}";
import type {{ Outbox }} from "./writer.js";
type Entry = Outbox[number];
export const status = (ours: Entry["status"]): OutboxStatus => ours;
export const statusBack = (its: OutboxStatus): Entry["status"] => its;
export const ofAnyItem = <T>(its: OutboxEntry<T>): Entry => its;
export const recovered = (stored: Outbox): Outbox => resetSendingToQueued(stored);
export async function drain(cache: LocalCache, send: (entry: Entry) => Promise<void>): Promise<DrainResult> {{
  const queue = createOutboxQueue<unknown>(cache);
  const written: Outbox = queue.pending();
  return drainOutbox(queue, written.length > 0 ? send : async () => {{}});
}}
"""


def numbered() -> dict[str, str]:
    """The file name of each mutant."""
    return {name: f"mutant{number}" for number, name in enumerate(MUTANTS)}


@pytest.fixture(scope="module")
def said() -> dict[str, list[str]]:
    """What ``tsc`` says of each file, all compiled in one run."""
    with_statuses = schema("reader")
    entry(with_statuses)["properties"]["status"]["enum"] = list(STATUSES)
    schemas = {"writer": schema("writer"), "reader": schema("reader"), "reader-with-statuses": with_statuses}
    sources = {
        "package": packages("OutboxEntry<unknown>"),
        # The same keys as an object type, which unlike an interface fits one with further, unknown keys.
        "package-keys": packages("Pick<OutboxEntry<unknown>, keyof OutboxEntry<unknown>>"),
        "package-of-sites": packages("OutboxEntry<{ site: string }>"),
        "text-writer": text_of("writer"),
        "text-reader": text_of("reader"),
        "uses": USES,
    }
    whole = ["writer", "reader", "reader-with-statuses", "package", "package-keys", "package-of-sites"]
    sources |= {f"{a}-to-{b}": assigning(a, b) for a in whole for b in whole if a != b}
    for name, file in numbered().items():
        document = schema("writer")
        MUTANTS[name].change(document)
        assert document != schema("writer"), name
        schemas[file] = document
        sources |= {
            f"{file}-{TO}": assigning(file, "package"),
            f"{file}-{FROM}": assigning("package", file),
            f"{file}-{TEXT}": text_of(file),
        }
    done = subprocess.run(
        [node(), str(INTEROP / "types/compile.mjs")],
        input=json.dumps({"schemas": schemas, "sources": sources}),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    assert found.keys() == schemas.keys() | sources.keys()
    # A type that does not compile would refuse everything.
    assert {name: found[name] for name in (*schemas, *whole) if found[name]} == {}
    return found


def test_the_writer_type_and_the_packages_own_are_assignable_both_ways(said: dict[str, list[str]]) -> None:
    assert said["writer-to-package"] == said["package-to-writer"] == []


def test_a_text_that_python_writes_is_of_the_types_of_both_forms(said: dict[str, list[str]]) -> None:
    assert said["text-writer"] == said["text-reader"] == []


def test_a_program_may_give_stored_entries_to_the_package_and_take_its_entries_for_stored_ones(
    said: dict[str, list[str]],
) -> None:
    assert said["uses"] == []


def test_a_stored_text_says_nothing_about_its_items(said: dict[str, list[str]]) -> None:
    """`OutboxEntry` is generic in its item: one of any item is written; what is read must be looked at first."""
    assert said["package-of-sites-to-writer"] == []
    [refused] = said["writer-to-package-of-sites"]
    assert "'unknown' is not assignable to type '{ site: string; }'" in refused


def test_what_is_written_may_be_read_and_what_is_read_need_not_be_written(said: dict[str, list[str]]) -> None:
    for name in ("package-keys-to-reader", "reader-with-statuses-to-package", "reader-with-statuses-to-package-keys"):
        assert said[name] == [], name
    for name in ("reader-to-package", "reader-to-package-keys", "reader-to-writer"):
        [refused] = said[name]
        assert "'status'" in refused, name


def test_only_the_readers_unknown_keys_stand_between_the_packages_interface_and_it(said: dict[str, list[str]]) -> None:
    """An interface has no index signature; the same keys as an object type are assignable (the test above)."""
    for name in ("package-to-reader", "writer-to-reader"):
        [refused] = said[name]
        assert "Index signature for type 'string' is missing" in refused, name


@pytest.mark.parametrize("name", MUTANTS)
def test_a_changed_schema_is_refused_in_the_directions_that_it_breaks(name: str, said: dict[str, list[str]]) -> None:
    mutant = MUTANTS[name]
    found = {direction: said[f"{numbered()[name]}-{direction}"] for direction in (TO, FROM, TEXT)}
    assert {direction for direction, errors in found.items() if errors} == mutant.refused
    for direction, errors in found.items():
        # It is not assignable, lacks a key, or has one too many: not some other error, which would refuse everything.
        assert all(re.match(r"TS(2322|2353|2561|2739|2740|2741|2820): ", error) for error in errors), errors
        assert not errors or direction == TEXT or re.search(mutant.named, "\n".join(errors)), errors


def test_there_are_changes_enough_of_each_kind() -> None:
    assert len(MUTANTS) == len([*mutants(), *bounds()]) >= 80, "two of one name"
    for direction in (TO, FROM, TEXT):
        assert sum(direction in mutant.refused for mutant in MUTANTS.values()) >= 30
    assert sum(not mutant.refused for mutant in MUTANTS.values()) == len(list(bounds()))
