"""The whole matrix as the command line makes it: this package and both published ones, every case, some random runs."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest
from playwright.async_api import expect

from starfish_outbox.conformance.cases import Case, CaseFiles
from starfish_outbox.conformance.verdicts import PROFILES, Verdict
from tests.browser import chromium, opened
from tests.interop import INTEROP, node
from tests.reporting import report

OURS: Final = "python"
PUBLISHED: Final = ("published-typescript", "published-python")
ROWS: Final = {"R": 36, "P": 12, "T": 8, "C": 24, "D": 33}
"""How many hazards are known of each kind."""


@dataclass(frozen=True)
class Ran:
    """A run of ``starfish-outbox conformance``: its exit code, what it printed, and its reports."""

    code: int
    printed: str
    results: list[dict[str, Any]]
    folder: Path


def conformance(folder: Path, *arguments: str) -> Ran:
    reports = ["--html", "matrix.html", "--junit", "matrix.xml", "--jsonl", "matrix.jsonl"]
    command = [sys.executable, "-m", "starfish_outbox.cli", "conformance", *arguments]
    paths = [str(folder / part) if part.startswith("matrix.") else part for part in reports]
    ran = subprocess.run([*command, *paths], cwd=INTEROP.parent, capture_output=True, text=True, check=False)
    lines = (folder / "matrix.jsonl").read_text("utf-8").split("\n") if (folder / "matrix.jsonl").exists() else []
    results = [json.loads(line) for line in lines[1:] if line]
    return Ran(ran.returncode, ran.stdout + ran.stderr, results, folder)


def driver(*command: str) -> list[str]:
    return ["--driver", shlex.join(command)]


PYTHON: Final = driver(sys.executable, "interop/drivers/python.py")


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return CaseFiles(INTEROP / "cases").load()


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    drivers = [
        *PYTHON,
        *driver(node(), "interop/drivers/typescript.mjs"),
        *driver(sys.executable, "interop/drivers/published_python.py"),
    ]
    dice = ["--sequences", "20", "--relays", "10", "--schedules", "40"]
    return conformance(tmp_path_factory.mktemp("matrix"), *drivers, *dice)


pytestmark = pytest.mark.timeout(600)


def test_nothing_fails_that_is_not_listed_and_nothing_that_is_listed_passes(matrix: Ran) -> None:
    assert matrix.code == 0, matrix.printed[-4000:]
    tally = Counter((*result["drivers"], result["verdict"]) for result in matrix.results)
    report(
        "\n".join(f"{' + '.join(names)}: {times} {verdict}" for (*names, verdict), times in sorted(tally.items())),
        INTEROP,
    )


def test_our_column_has_only_what_passes(matrix: Ran, cases: list[Case]) -> None:
    ours = [result for result in matrix.results if result["drivers"] == [OURS]]
    assert {result["verdict"] for result in ours} == {"pass"}
    assert {case.id for case in cases} <= {result["id"] for result in ours}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_package_does_exactly_what_the_cases_say_of_it(name: str, matrix: Ran, cases: list[Case]) -> None:
    verdicts = {result["id"]: result["verdict"] for result in matrix.results if result["drivers"] == [name]}
    failing = {case.id: case.known[name].verdict for case in cases if name in case.known}
    assert {id: verdicts[id] for id in failing} == failing
    others = {verdicts[case.id] for case in cases if case.id not in failing}
    assert others == {"pass", "acceptable", "unsupported"}
    assert list(failing.values()).count(Verdict.DATA_LOSS) > 50


def test_every_hazard_is_a_case_or_says_why_it_cannot_be(cases: list[Case]) -> None:
    known = {f"{kind}{number}" for kind, most in ROWS.items() for number in range(1, most + 1)}
    expressed = {row for case in cases for row in case.rows}
    reasons = json.loads((INTEROP / "cases-not-expressed.json").read_text("utf-8"))["rows"]
    assert expressed | reasons.keys() == known
    assert not expressed & reasons.keys()
    assert all(reason.endswith(".") for reason in reasons.values())
    assert {case.profile for case in cases} == set(PROFILES)


def test_the_dice_are_thrown_too(matrix: Ran) -> None:
    runs = {(tuple(result["drivers"]), result["id"]) for result in matrix.results}
    pairs = {(OURS, PUBLISHED[0]), (OURS, PUBLISHED[1]), PUBLISHED}
    assert {drivers for drivers, id in runs if id == "relay"} == pairs
    assert {drivers for drivers, id in runs if id == "sequences"} == pairs - {PUBLISHED}
    kinds = {id for _, id in runs if id.startswith("schedules-")}
    assert len(kinds) == 5
    assert {(drivers, id) for drivers, id in runs if id in kinds} == {
        ((name,), kind) for name in (OURS, *PUBLISHED) for kind in kinds
    }


def test_junit_has_every_result_and_no_failure(matrix: Ran) -> None:
    suites = ET.parse(matrix.folder / "matrix.xml").getroot()
    assert len(list(suites.iter("testcase"))) == len(matrix.results)
    assert not list(suites.iter("failure"))
    assert not list(suites.iter("error"))


async def test_the_page_says_in_a_browser_what_a_red_cell_costs(matrix: Ran, cases: list[Case]) -> None:
    case = next(case for case in cases if case.id == "r13-element-null-after-another-identity")
    cell = f"{case.id}/published-typescript"
    address = f"{(matrix.folder / 'matrix.html').as_uri()}#{cell}"
    async with chromium() as browser, opened(browser, address) as watched:
        await expect(watched.page.get_by_text("The run succeeds.")).to_be_visible()
        detail = watched.page.locator(f"[id='{cell}']")
        await expect(detail).to_be_visible()
        await expect(detail).to_contain_text("leaked")
        await expect(watched.page.locator(".detail.open")).to_contain_text(case.cost)
        assert watched.problems == []
        assert watched.requests == [address.partition("#")[0]]


def test_one_case_of_one_program_and_what_is_not_listed_fails_the_run(tmp_path: Path) -> None:
    """A list for another driver does not count, and one that lists what passes fails the run."""
    known = tmp_path / "known.json"
    known.write_text('{"driver": "python", "known": {"r03-attempts-null": {"what": "It does not."}}}')
    one = [*PYTHON, "--case", "r03-attempts-null"]
    assert conformance(tmp_path, *one).code == 0
    listed = conformance(tmp_path, *one, "--known", str(known))
    assert listed.code == 1
    assert "take it off the list" in listed.printed
    (result,) = listed.results
    assert (result["id"], result["verdict"]) == ("r03-attempts-null", "pass")
    known.write_text(known.read_text("utf-8").replace('"python"', '"another"'), "utf-8")
    assert conformance(tmp_path, *one, "--known", str(known)).code == 0
    published = [*driver(node(), "interop/drivers/typescript.mjs"), "--case", "r03-attempts-null"]
    assert conformance(tmp_path, *published).code == 0


MISTAKES: Final = {
    "no driver": ([], "Missing option '--driver'"),
    "a driver that does not start": (driver("/no/such/program"), "could not be started"),
    "a driver that is none": (driver(sys.executable, "-c", "input(); print('hello')"), "no JSON"),
    "one driver twice": ([*PYTHON, *PYTHON], "two drivers call themselves python"),
    "no such case": ([*PYTHON, "--case", "x99-*"], "none of"),
    "no such profile": ([*PYTHON, "--profile", "fast"], "there is no profile 'fast'"),
    "no such folder of cases": ([*PYTHON, "--cases", "nowhere"], "is no folder of cases"),
    "a list that is none": ([*PYTHON, "--known", "README.md"], "is no list of known failures"),
    "a report that has no folder": ([*PYTHON, "--html", "nowhere/page.html"], "there is no folder nowhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_before_anything_is_run(mistake: str, tmp_path: Path) -> None:
    arguments, said = MISTAKES[mistake]
    ran = subprocess.run(
        [sys.executable, "-m", "starfish_outbox.cli", "conformance", *arguments],
        cwd=INTEROP.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert said in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
