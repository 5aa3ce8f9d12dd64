"""The notebooks of this repository, run in real kernels of their own: cell by cell, or all cells asked for at once.

1. One by one, as nbclient does: each request is sent when the cell before has ended. A kernel that loses requests which
   wait behind another looks healthy that way.
2. All at once, as *Run All* does in JupyterLab.

Every run has folders of its own, so that what it leaves behind can be seen, and no way to the network: a connection to
anywhere but this machine is refused, in the kernels that it starts, too.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any, Final

import nbformat
import psutil  # type: ignore[import-untyped]
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from traitlets.config import Config

from tests.kernels import SECONDS, Cell, Kernel

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "notebooks"

_LINGER: Final = 5.0  # seconds in which a child notices that its kernel has ended
_SOLUTION: Final = re.compile(
    r"<details><summary>A solution</summary>\n\n```python\n(.*?)\n```\n\n</details>", re.DOTALL
)

# What Python runs first, where it finds it. Node's and the browser's connections are not seen by it.
_GUARD: Final = '''\
"""No connection but to this machine."""

import sys


def refuse(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        raise OSError(f"a notebook asked for {host}, and there is no network")


sys.addaudithook(refuse)
'''


def read(path: Path) -> Any:
    """A notebook as it is stored."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def codes(notebook: Any) -> list[str]:
    """The sources of its code cells."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def python(source: str) -> str:
    """The source of a cell without its line magics."""
    return "\n".join(line for line in source.splitlines() if not line.startswith("%"))


def solutions(notebook: Any) -> list[str]:
    """The solutions of its exercises, which hide in its texts."""
    return [
        found for cell in notebook.cells if cell.cell_type == "markdown" for found in _SOLUTION.findall(cell.source)
    ]


def solved(notebook: Any) -> list[str]:
    """Its code cells, with each solution where the reader would try it: after the exercise."""
    sources = []
    for cell in notebook.cells:
        sources += [cell.source] if cell.cell_type == "code" else _SOLUTION.findall(cell.source)
    return sources


@dataclass
class Place:
    """Where a run has its folders; ``environment`` is for its kernel.

    Attributes:
        work: its working directory.
        temporary: where its temporary files are.
        runtime: where Jupyter keeps files for each running kernel.
    """

    work: Path
    temporary: Path
    runtime: Path
    environment: dict[str, str]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def under(cls, folder: Path, **variables: str) -> Place:
        """New folders under this one; more or other environment variables."""
        short = Path(tempfile.mkdtemp(prefix="books-", dir="/tmp"))  # the path of a socket has some hundred characters
        place = cls(folder / "work", short / "tmp", short / "run", {})
        guard = folder / "guard"
        for one in (place.work, place.temporary, place.runtime, guard):
            one.mkdir(parents=True)
        (guard / "sitecustomize.py").write_text(_GUARD, "utf-8")
        place.environment = {
            **os.environ,
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(place.runtime),
            "PYTHONPATH": os.pathsep.join([str(guard), str(ROOT)]),
            "STARFISH_TEST_RUN": place.mark,
            "TMPDIR": str(place.temporary),
            **variables,
        }
        return place

    @property
    def sockets(self) -> Config:
        """Has a kernel talk through sockets in a folder.

        Ports are chosen before a kernel takes them, and with kernels side by side another one is sometimes faster.
        """
        return Config(KernelManager={"transport": "ipc", "ip": str(self.runtime / "kernel")})

    def left(self) -> list[str]:
        """Files and processes that are still there after the end."""
        files = [str(path) for folder in (self.temporary, self.runtime) for path in folder.iterdir()]
        return files + [str(process) for process in psutil.wait_procs(self._processes(), timeout=_LINGER)[1]]

    def close(self) -> None:
        """Remove the short-named folders; the others are the caller's."""
        shutil.rmtree(self.runtime.parent)

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("STARFISH_TEST_RUN") == self.mark:
                    found.append(process)
            except (psutil.Error, OSError):
                continue  # it has just ended, or belongs to somebody else
        return found


@dataclass
class Ran:
    """What became of a run.

    Attributes:
        seconds: from the first cell to the end of the last one.
        errors: of cells that ended in one: its name and text.
        unfinished: the numbers of cells that did not run to their ends.
        shown: each display and result, by MIME type.
        said: all that was printed.
        left: files and processes that are still there.
    """

    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)
    shown: list[Mapping[str, Any]] = field(default_factory=list)
    said: str = ""
    left: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether every cell ran to its end, without an error, and nothing was left behind."""
        return not (self.errors or self.unfinished or self.left)


def one_by_one(sources: Sequence[str], place: Place) -> Ran:
    """Run these cells with nbclient, which sends each when the one before has ended."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        allow_errors=True,
        config=place.sockets,
        resources={"metadata": {"path": str(place.work)}},
    )
    began = time.monotonic()
    with closing(place):
        asyncio.run(client.async_execute(env=place.environment))
        ran = Ran(time.monotonic() - began, left=place.left())
    for output in (output for cell in cells for output in cell.outputs):
        match output.output_type:
            case "error":
                ran.errors.append(f"{output.ename}: {output.evalue}")
            case "stream":
                ran.said += output.text
            case _:
                ran.shown.append(output.data)
    return ran


def all_at_once(sources: Sequence[str], place: Place, *, patience: float = SECONDS) -> Ran:
    """Ask for all these cells before the first has ended; give up when for so many seconds the kernel says nothing."""
    began = time.monotonic()
    with closing(place):
        cells = asyncio.run(_all_at_once(sources, place, patience))
        ran = Ran(time.monotonic() - began, left=place.left())
    ran.errors = [f"{cell.error}: {cell.words}" for cell in cells if cell.error]
    ran.unfinished = [number for number, cell in enumerate(cells) if not (cell.began and cell.ended)]
    ran.shown = [data for cell in cells for data in cell.shown]
    ran.said = "".join(cell.text for cell in cells)
    return ran


async def _all_at_once(sources: Sequence[str], place: Place, patience: float) -> list[Cell]:
    manager = AsyncKernelManager(kernel_name="python3", config=place.sockets)
    await manager.start_kernel(env=place.environment, cwd=str(place.work))
    client: Any = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=SECONDS)
        kernel = Kernel(manager, client)
        cells = kernel.send(*sources)
        with suppress(Empty):
            while not all(cell.ended for cell in cells):
                kernel._take(await client.get_iopub_msg(timeout=patience))
        return cells
    finally:
        client.stop_channels()
        await manager.shutdown_kernel()  # as a front end does: the kernel can tidy up
