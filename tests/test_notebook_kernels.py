"""The same on other kernels than the one that is installed: each in an environment of its own, made by pip."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.kernels import environment, running, texts
from tests.reporting import report
from tests.test_notebook_blocking import clicked_everywhere, prints_under_the_right_cell
from tests.test_notebook_interrupts import interrupted_in_every_call
from tests.test_notebook_nesting import CELLS, NEST, lost, nothing_is_lost

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(sys.platform == "win32", reason="the environments are made as on Unix"),
]

VERSIONS = ("6.31.0", "7.3.0")


@pytest.fixture(scope="module", params=VERSIONS)
def kernel_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("environment")
    packages = ("platformdirs", "ipywidgets", "nest_asyncio>=1.6", "nest_asyncio2>=1.7.3", "uvloop")
    return request.param, environment(folder / "venv", f"ipykernel=={request.param}", *packages)


def test_nest_loses_no_cells_and_says_which_it_took(kernel_of: tuple[str, Path], tmp_path: Path) -> None:
    version, python = kernel_of
    with running(python, tmp_path) as kernel:
        said = nothing_is_lost(kernel)
    wanted = "nest_asyncio " if version.startswith("6.") else "nest_asyncio2 "
    assert said.startswith(wanted)
    assert f"ipykernel {version}" in said
    with running(python, tmp_path) as kernel:
        gone = sum(lost(kernel, kernel.send("import nest_asyncio; nest_asyncio.apply()", *CELLS)[1:]))
        (named,) = kernel.run(NEST)
    report(f"ipykernel {version}: {said}; {gone} of {len(CELLS)} cells lost with nest_asyncio", tmp_path)
    if version.startswith("6."):
        assert (gone, named.error) == (0, "")
        assert "was applied already" in named.text
    else:
        assert gone >= 1
        assert "nest_asyncio 1.6.0 was applied before" in named.words


def test_ctrl_c_in_every_call(kernel_of: tuple[str, Path], tmp_path: Path) -> None:
    interrupted_in_every_call(kernel_of[1], tmp_path)


def test_a_widgets_callback_uses_a_blocking_outbox(kernel_of: tuple[str, Path], tmp_path: Path) -> None:
    version, python = kernel_of
    clicked_everywhere(python, tmp_path, subshells=not version.startswith("6."))


def test_prints_land_under_the_cell_that_drains(kernel_of: tuple[str, Path], tmp_path: Path) -> None:
    prints_under_the_right_cell(kernel_of[1], tmp_path)


def test_the_magic_answers(kernel_of: tuple[str, Path], tmp_path: Path) -> None:
    with running(kernel_of[1], tmp_path) as kernel:
        cells = kernel.run(
            "%load_ext starfish_outbox\nfrom starfish_outbox import open_outbox",
            "queue = await open_outbox('ana', 'outbox.db')\nawait queue.enqueue('a', 1)\nasync def send(entry): pass",
            "%outbox",
            "%outbox drain",
            "%outbox show a",
        )
        assert kernel.wait(lambda: "DrainResult(sent=1" in cells[3].text), cells[3]
        assert kernel.wait(lambda: "'a' was delivered" in cells[4].text), cells[4]
        assert [cell.words for cell in cells] == [""] * 5
        assert "Counts(queued=1" in cells[2].text


def test_uvloop_is_refused_and_an_outbox_works_on_it(kernel_of: tuple[str, Path], tmp_path: Path) -> None:
    """No kernel runs on uvloop by itself; a program that sets its policy and starts a loop does."""
    cells = [
        "import asyncio, threading, uvloop\nfrom starfish_outbox.notebook import BlockingOutbox, nest\nsaid = []",
        "async def main():\n    try: nest()\n    except RuntimeError as error: said.append(str(error))",
        "threading.Thread(target=lambda: uvloop.run(main())).start()\n"
        "while not said: pass\nprint('cannot be entered again' in said[0])",
        "asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())\noutbox = BlockingOutbox('ana', 'outbox.db')",
        "outbox.enqueue_many([(str(n), n) for n in range(20)])\nasync def send(entry): await asyncio.sleep(0)\n"
        "print(type(outbox.portal.loop).__module__, outbox.drain(send, concurrency=4).sent)",
        "outbox.enqueue('x', 1)\nprint(outbox.drain(lambda entry: None, timeout=30).sent)\noutbox.close()",
    ]
    with running(kernel_of[1], tmp_path) as kernel:
        ran = kernel.run(*cells)
    assert [cell.words for cell in ran] == [""] * len(cells)
    assert texts(ran)[2:] == ["True", "", "uvloop 20", "1"]


def test_a_successor_that_is_too_old_is_refused_and_named(tmp_path: Path) -> None:
    """The control of the version that is asked for: 1.7.2 loses cells too."""
    python = environment(tmp_path / "venv", "ipykernel==7.3.0", "platformdirs", "nest_asyncio2==1.7.2")
    with running(python, tmp_path) as kernel:
        (refused,) = kernel.run(NEST)
        cells = kernel.send("import nest_asyncio2; nest_asyncio2.apply()", *CELLS)[1:]
        gone = lost(kernel, cells)
        (named,) = kernel.run(NEST)
    assert refused.error == "ImportError"
    assert "nest_asyncio2 1.7.2 loses cells with ipykernel 7.3.0; 1.7.3 does not" in refused.words
    assert cells[1].text.endswith("\n1\n")  # below what the loop complains about
    assert sum(gone) >= 1
    assert "nest_asyncio2 1.7.2 was applied before" in named.words
