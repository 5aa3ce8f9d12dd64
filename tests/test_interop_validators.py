"""The schemas say the same in both languages: ``jsonschema`` here and ``ajv`` in Node judge one corpus alike.

The corpus has teeth: there is a text that tells every schema with one rule less, or one more, from the real one.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, NoReturn, TypeAlias

import pytest
from jsonschema import Draft202012Validator

from starfish_outbox.conformance.driver import Driver
from starfish_outbox.conformance.sequences import foreign_text, random_steps
from starfish_outbox.jsontext import encode_foreign
from starfish_outbox.schema import schema
from tests.interop import INTEROP, node, python_driver, typescript_driver
from tests.reporting import report
from tests.stored_texts import KEYS as ENTRY_KEYS, SPELLINGS, USUAL

Form: TypeAlias = Literal["reader", "writer"]
FORMS: Final[tuple[Form, ...]] = ("reader", "writer")
VALIDATORS: Final = {form: Draft202012Validator(schema(form)) for form in FORMS}
EXAMPLES: Final = INTEROP.parent / "schema" / "examples"
GOLDEN: Final = INTEROP / "golden"


class Verdict(NamedTuple):
    """What a validator says of a text.

    Attributes:
        kind: ``accepted``, ``refused``, or ``no JSON``.
        places: JSON pointers to what it finds fault with.
    """

    kind: str
    places: frozenset[str] = frozenset()


def in_python(form: Form, text: str) -> Verdict:
    def refuse(token: str) -> NoReturn:
        raise ValueError(f"{token} is no JSON")

    def number(
        token: str,
    ) -> float:  # past the digits that int() takes it is a double, as all numbers in JavaScript are
        return int(token) if len(token) < 4300 else float(token)

    try:
        value = json.loads(text, parse_constant=refuse, parse_int=number)
    except ValueError:
        return Verdict("no JSON")
    errors = list(VALIDATORS[form].iter_errors(value))
    places = frozenset("".join(f"/{part}" for part in error.absolute_path) for error in errors)
    return Verdict("refused" if errors else "accepted", places)


def in_node(requests: Sequence[dict[str, Any]]) -> list[Verdict]:
    """What ``ajv`` says to each request that has a text or a file (``interop/validate.mjs``)."""
    done = subprocess.run(
        [node(), str(INTEROP / "validate.mjs")],
        input="".join(f"{json.dumps(request)}\n" for request in requests),
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.removesuffix("\n").split("\n")]
    assert len(answers) == len(requests)
    return [
        Verdict(kind_of(answer), frozenset(error["path"] for error in answer["errors"] if answer["json"]))
        for request, answer in zip(requests, answers, strict=True)
        if "schema" not in request
    ]


def kind_of(answer: dict[str, Any]) -> str:
    if not answer["json"]:
        return "no JSON"
    return "accepted" if answer["valid"] else "refused"


def example_texts() -> Iterator[str]:
    for path in sorted(EXAMPLES.rglob("*.json")):
        try:
            yield path.read_bytes().decode()
        except UnicodeDecodeError:
            assert path.stem in {"r30-utf-16", "r33-invalid-utf-8"}  # no text at all


def golden_texts() -> Iterator[str]:
    for path in sorted(GOLDEN.glob("p*-*.json")):
        for chapter in json.loads(path.read_bytes())["chapters"].values():
            yield from (text for text in chapter["after"] if text is not None)


def entries_with_other_values(rng: random.Random) -> str:
    """An array with an entry of which up to two keys are missing, new, or of another value."""
    pairs = {"id": '"a"', "item": "1", "status": '"queued"', "attempts": "0", "enqueuedAt": "0"}
    if rng.random() < 0.3:
        pairs |= {"maybeSent": "1", "nextAttemptAt": "2", "lastError": '{"type":"E","message":"","at":3}'}
        pairs |= {"replacement": '{"item":null,"enqueuedAt":4}'}
    for key in rng.sample(ENTRY_KEYS, rng.randrange(3)):
        pairs.pop(key, None)
        if rng.random() < 0.8:
            pairs[key] = rng.choice(USUAL.get(key, SPELLINGS) if rng.random() < 0.5 else SPELLINGS)
    text = ",".join(f"{encode_foreign(key)}:{token}" for key, token in pairs.items())
    return f"[{text}}}]".replace("[", "[{", 1) if rng.random() < 0.95 else f"[{{{text}}},{rng.choice(SPELLINGS)}]"


def at_the_edge() -> Iterator[str]:
    """Entries with one value at the edge of a rule, or beside it."""
    plain = '[{"id":"a","item":1,"status":"queued","attempts":0,"enqueuedAt":0,'
    whole = {"type": '"E"', "message": '""', "at": "0"}
    long, longer = (encode_foreign("🐧" * length) for length in (500, 501))
    edges = {"type": ('""', "1"), "message": (long, longer, "1"), "at": ("-1", "0.5", "9007199254740993", '"1"')}
    for key, tokens in edges.items():
        for changed in [{**whole, key: token} for token in tokens] + [{k: whole[k] for k in whole if k != key}]:
            yield f'{plain}"lastError":{{{",".join(f"{encode_foreign(k)}:{v}" for k, v in changed.items())}}}}}]'
    yield plain + '"lastError":{"type":"E","message":"","at":0,"more":1}}]'
    for token in ("-9007199254740993", "9007199254740993", "0.5", '"1"'):
        yield f'{plain}"replacement":{{"item":1,"enqueuedAt":{token}}}}}]'
    yield from (
        f'{plain}"replacement":{text}}}]'
        for text in ('{"item":1}', '{"enqueuedAt":1}', '{"item":1,"enqueuedAt":1,"id":"a"}', "1")
    )
    for key in ("maybeSent", "nextAttemptAt"):
        yield from (f'{plain}"{key}":{token}}}]' for token in ("-1", "0.5", "9007199254740993", "0"))
    for key, token in (("enqueuedAt", "-9007199254740993"), ("attempts", "9007199254740993")):
        yield plain.replace(f'"{key}":0', f'"{key}":{token}')[:-1] + "}]"


def damaged(rng: random.Random, text: str) -> str:
    for _ in range(rng.randrange(1, 3)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(("", *'[]{}:,"\\.-+e019\x00 x')) + text[at + rng.randrange(2) :]
    return text


@pytest.fixture(scope="module")
def drivers() -> Iterator[list[Driver]]:
    with python_driver() as python, typescript_driver() as typescript:
        yield [python, typescript]


@pytest.fixture
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is one: what is shown here is content, not durability, and fsync is most of it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def corpus(drivers: list[Driver]) -> list[str]:
    """Each text once, from everywhere."""
    rng = random.Random(5)
    texts = [*example_texts(), *golden_texts(), *at_the_edge()]
    for seed in range(20):
        steps = random_steps(seed)
        texts += [answer.text for driver in drivers for answer in driver.ask_many(steps.requests) if answer.text]
    foreign = [foreign_text(random.Random(seed), reordered=seed % 4 == 0) for seed in range(300)]
    texts += [*foreign, *(damaged(rng, text) for text in foreign)]
    texts += [entries_with_other_values(rng) for _ in range(1000)]
    return list(dict.fromkeys(texts))


@pytest.fixture(scope="module")
def verdicts(corpus: list[str]) -> dict[Form, list[Verdict]]:
    return {form: [in_python(form, text) for text in corpus] for form in FORMS}


def test_both_validators_find_fault_with_the_same_texts_at_the_same_places(
    corpus: list[str], verdicts: dict[Form, list[Verdict]]
) -> None:
    found = in_node([{"form": form, "text": text} for form in FORMS for text in corpus])
    expected = [verdict for form in FORMS for verdict in verdicts[form]]
    differing = [
        (text[:300], ours, its)
        for text, ours, its in zip([*corpus, *corpus], expected, found, strict=True)
        if ours != its
    ]
    assert differing == []
    for form in FORMS:
        counts = Counter(verdict.kind for verdict in verdicts[form])
        report(f"{form} form, {len(corpus)} texts: {dict(counts)}", INTEROP)
        assert min(counts["accepted"], counts["refused"]) > 200
        assert counts["no JSON"] > 100
    assert len({place for verdict in expected for place in verdict.places}) > 15


def rules(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every rule of a schema: where it stands, and its keyword."""
    for keyword in ("type", "required", "additionalProperties", "enum", "minLength", "maxLength", "minimum", "maximum"):
        if keyword in node:
            yield path, keyword
    for name, inner in node.get("properties", {}).items():
        yield from rules(inner, (*path, "properties", name))


def at(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for part in path:
        document = document[part]
    return document


def weaker(form: Form) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema with one rule less."""
    anything = schema(form)
    for key in ("type", "items"):
        del anything[key]
    yield f"{form}: no array", anything
    entry = ("$defs", "entry")
    for path, keyword in rules(at(schema(form), entry), entry):
        name = f"{form}: {'.'.join(path[3::2]) or 'entry'} without {keyword}"
        if keyword == "required":
            for key in at(schema(form), path)["required"]:
                document = schema(form)
                at(document, path)["required"].remove(key)
                yield f"{name} {key}", document
        else:
            document = schema(form)
            if keyword == "type":
                at(document, path).clear()
            else:
                del at(document, path)[keyword]
            yield name, document


def stronger(form: Form) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema with one rule more."""
    properties: dict[str, dict[str, Any]] = {
        "id": {"minLength": 2},
        "item": {"not": {"type": "null"}},
        "status": {"maxLength": 6},
        "attempts": {"maximum": 2},
        "enqueuedAt": {"minimum": 0},
        "maybeSent": {"type": "number", "maximum": 0},
        "lastError": {"type": "object", "maxProperties": 2},
        "replacement": {"type": "object", "maxProperties": 1},
    }
    for key, rule in properties.items():
        document = schema(form)
        at(document, ("$defs", "entry", "properties", key)).update(rule)
        yield f"{form}: {key} with {rule}", document
    document = schema(form)
    at(document, ("$defs", "entry"))["required"].append("maybeSent")
    yield f"{form}: maybeSent required", document
    yield f"{form}: no empty queue", {**schema(form), "minItems": 1}


def test_a_schema_with_one_rule_less_or_more_is_told_from_the_real_one() -> None:
    rng = random.Random(6)
    texts = [*example_texts(), *at_the_edge(), *(entries_with_other_values(rng) for _ in range(100))]
    changed = [(form, *change) for form in FORMS for change in (*weaker(form), *stronger(form))]
    requests: list[dict[str, Any]] = []
    for _, name, document in changed:
        requests.append({"form": name, "schema": document})
        requests += [{"form": name, "text": text} for text in texts]
    found = in_node(requests)
    expected = {form: [in_python(form, text).kind for text in texts] for form in FORMS}
    blind = []
    for number, (form, name, _) in enumerate(changed):
        its = found[number * len(texts) : (number + 1) * len(texts)]
        if [verdict.kind for verdict in its] == expected[form]:
            blind.append(name)
    report(f"{len(changed)} changed schemas, {len(blind)} not told from the real ones", INTEROP)
    assert blind == []
    assert len(changed) > 60


def test_what_each_language_leaves_in_files_satisfies_the_other_languages_validator(
    drivers: list[Driver], fast_folder: Path
) -> None:
    """Python's files as ``ajv`` reads them, and the TypeScript package's as ``jsonschema`` does."""
    files: dict[str, list[tuple[Form, Path]]] = {driver.name: [] for driver in drivers}
    for seed in range(20):
        steps = random_steps(seed)
        # What was put there by another program is not bound by the writer form.
        form: Form = "reader" if any(request["op"] == "put" for request in steps.requests) else "writer"
        for driver in drivers:
            folder = fast_folder / f"{driver.name}-{seed}"
            opening = {"op": "open", "store": "files", "path": str(folder)}
            driver.ask_many([opening, *steps.requests[1:], {"op": "close"}])
            found = [path for path in folder.glob("*.json") if path.stat().st_size > 2]
            files[driver.name] += [(form if driver.name == "python" else "reader", path) for path in found]
    python, typescript = files["python"], files["published-typescript"]
    verdicts = in_node([{"form": form, "file": str(path)} for form, path in python])
    assert [path for (_, path), verdict in zip(python, verdicts, strict=True) if verdict.kind != "accepted"] == []
    refused = [path for form, path in typescript if in_python(form, path.read_bytes().decode()).kind != "accepted"]
    assert refused == []
    report(f"files that were not empty: {len(python)} of Python, {len(typescript)} of TypeScript", fast_folder)
    assert min(len(python), len(typescript)) > 15
    assert {form for form, _ in python} == set(FORMS)
