"""Every notebook runs from top to bottom in real kernels, in both ways in which cells are asked for, and again."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest

from tests.notebook_runs import (
    FOLDER,
    ROOT,
    Place,
    Ran,
    all_at_once,
    codes,
    one_by_one,
    python,
    read,
    solutions,
    solved,
)

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
CELLS_BEHIND = ["import asyncio", "asyncio.run(asyncio.sleep(0.1))", "print('behind')", "print('further behind')"]

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)


class Runs:
    """Runs that were asked for, two at a time, in the order of the tests that wait for them."""

    def __init__(self, folder: Path, pool: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._pool = pool
        self._futures: dict[tuple[str, Path], Future[Ran]] = {}

    def begin(self, way: str, path: Path) -> None:
        if (way, path) not in self._futures:
            self._futures[way, path] = self._pool.submit(self._run, way, path)

    def wait(self, way: str, path: Path) -> Ran:
        return self._futures[way, path].result()

    def _run(self, way: str, path: Path) -> Ran:
        place = Place.under(self._folder / f"{path.stem[:2]}-{way}")
        notebook = read(path)
        if way == "once":
            return all_at_once(codes(notebook), place)
        again = [source for source in codes(notebook)[:-1] for _ in range(2)]
        return one_by_one(again + solved(notebook), place)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Kernels mostly wait for one another and for the disk: two at a time take little more than one."""
    pool = ThreadPoolExecutor(2)
    started = Runs(tmp_path_factory.mktemp("notebooks"), pool)
    for item in request.session.items:
        if isinstance(item, pytest.Function) and "runs" in item.fixturenames:
            way = "again" if "again" in item.name else "once"
            path = item.callspec.params["path"]
            assert isinstance(path, Path)
            started.begin(way, path)
    try:
        yield started
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(300)
@notebooks
def test_runs_when_all_cells_are_asked_for_at_once(path: Path, runs: Runs) -> None:
    ran = runs.wait("once", path)

    assert ran.healthy, ran
    assert ran.shown
    print(f"{path.stem}: {ran.seconds:.1f} s")


@pytest.mark.timeout(300)
@notebooks
def test_runs_again_when_each_cell_was_run_twice_and_with_its_solutions(path: Path, runs: Runs) -> None:
    ran = runs.wait("again", path)

    assert ran.healthy, ran
    print(f"{path.stem}: {ran.seconds:.1f} s for each cell three times, and the solutions")


@pytest.mark.timeout(300)
@notebooks
def test_has_a_picture(path: Path, runs: Runs) -> None:
    drawn = [data for data in runs.wait("once", path).shown if {"image/svg+xml", "text/html"} & data.keys()]
    images = re.findall(r"\]\((images/[^)]+)\)", " ".join(cell.source for cell in read(path).cells))

    assert drawn
    assert not [image for image in images if not (FOLDER / image).is_file()]


@pytest.mark.skipif(int(metadata.version("ipykernel").split(".")[0]) < 7, reason="older kernels lose no cells")
def test_a_notebook_that_run_all_breaks_is_seen_only_when_all_cells_are_asked_for_at_once(tmp_path: Path) -> None:
    sources = ["import nest_asyncio\nnest_asyncio.apply()", *CELLS_BEHIND]

    lost = all_at_once(sources, Place.under(tmp_path / "once"), patience=5)
    slow = one_by_one(sources, Place.under(tmp_path / "slow"))

    assert lost.unfinished
    assert not lost.healthy
    assert slow.healthy
    assert "further behind" in slow.said


def test_the_same_cells_run_with_the_patch_that_we_choose(tmp_path: Path) -> None:
    sources = ["from starfish_outbox.notebook import nest\nnest()", *CELLS_BEHIND]

    ran = all_at_once(sources, Place.under(tmp_path))

    assert ran.healthy, ran
    assert "further behind" in ran.said


def test_an_error_a_folder_and_a_process_that_are_left_are_seen(tmp_path: Path) -> None:
    folder = "import tempfile\ntempfile.mkdtemp(prefix='outbox-')"
    process = "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True).pid"

    ran = all_at_once([folder, process, "1 / 0"], Place.under(tmp_path))
    os.kill(int(ran.shown[1]["text/plain"]), signal.SIGKILL)

    assert [error.split(":")[0] for error in ran.errors] == ["ZeroDivisionError"]
    assert len(ran.left) == 2
    assert "outbox-" in ran.left[0]
    assert "sleep" in ran.left[1]


def test_there_is_no_network(tmp_path: Path) -> None:
    asking = "import urllib.request\nurllib.request.urlopen('http://example.org', timeout=5)"
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {asking!r}], capture_output=True).stderr"

    ran = all_at_once([asking, child], Place.under(tmp_path))

    assert "a notebook asked for example.org" in ran.errors[0]
    assert "a notebook asked for example.org" in ran.said


@pytest.mark.parametrize(
    ("there", "hint"), [("interop", "npm ci"), ("node", "install Node 20 or newer")], ids=["no package", "no node"]
)
def test_without_node_or_its_package_the_two_languages_say_what_to_do(there: str, hint: str, tmp_path: Path) -> None:
    path = next(one for one in NOTEBOOKS if "two-languages" in one.stem)
    place = Place.under(tmp_path / "run", PATH="" if there == "node" else os.environ["PATH"])
    if there == "interop":  # a clone in which nothing was installed
        (place.work / "interop/drivers").mkdir(parents=True)
        for file in ("drivers/typescript.mjs", "drivers/python.py", "protocol.schema.json"):
            shutil.copy(ROOT / "interop" / file, place.work / "interop" / file)

    ran = all_at_once(codes(read(path)), place)

    assert ran.healthy, ran
    assert hint in ran.said


def test_they_are_numbered_and_stand_in_the_table_of_contents() -> None:
    contents = (FOLDER / "README.md").read_text("utf-8")

    assert [name[:3] for name in NAMES] == [f"{number:02}-" for number in range(1, len(NAMES) + 1)]
    assert re.findall(r"\]\(([^)]+\.ipynb)\)", contents) == [path.name for path in NOTEBOOKS]
    assert len(NAMES) == 10


@notebooks
def test_is_stored_without_outputs(path: Path) -> None:
    notebook = read(path)

    assert not [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    assert not [cell.id for cell in notebook.cells if cell.metadata or cell.get("attachments")]
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


@notebooks
def test_its_cells_have_names_that_last(path: Path) -> None:
    ids = [cell.id for cell in read(path).cells]

    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", id) for id in ids)


@notebooks
def test_teaches_one_thing_and_asserts_it(path: Path) -> None:
    notebook = read(path)
    first, last = notebook.cells[0], notebook.cells[-1]

    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert last.cell_type == "code"
    assert any(isinstance(one, ast.Assert) for one in ast.parse(last.source).body)
    assert sum("## Exercise" in cell.source for cell in notebook.cells) == 1
    assert len(solutions(notebook)) == 1
    assert "assert" in solutions(notebook)[0]


@notebooks
def test_its_code_can_be_read_without_scrolling(path: Path) -> None:
    notebook = read(path)

    assert [line for source in solved(notebook) for line in source.splitlines() if len(line) > 104] == []


@notebooks
def test_imports_only_what_the_extras_bring(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    brought = {_name(one) for extra in ("demo", "notebook") for one in project["optional-dependencies"][extra]}
    # What they bring along; ipykernel's jupyter-client and palmerpenguins' pandas.
    brought |= {_name(one) for name in list(brought) for one in metadata.requires(name) or () if "extra ==" not in one}

    there = metadata.packages_distributions()
    for module in _imported(codes(read(path)) + solutions(read(path))) - sys.stdlib_module_names - {"starfish_outbox"}:
        assert {_name(one) for one in there[module]} & brought, module


def _imported(sources: list[str]) -> set[str]:
    names = []
    for node in (node for source in sources for node in ast.walk(ast.parse(python(source)))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(str(node.module))
    return {name.partition(".")[0] for name in names}


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()
