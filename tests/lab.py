"""JupyterLab and Notebook 7 on loopback, and notebooks run in them in a real browser."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import secrets
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nbformat
from playwright.async_api import Browser, Locator, Page, expect

from tests.browser import Watched, opened

_OPTIONS: Final = (
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.port=0",
    "--ServerApp.open_browser=False",
    "--ServerApp.allow_root=True",
    "--LabApp.expose_app_in_browser=True",
    "--LabApp.extension_manager=readonly",
    "--JupyterNotebookApp.expose_app_in_browser=True",
)
_QUIET: Final = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
# The visible "idle" is true before there is a kernel; this is not.
_READY: Final = """() => {
  const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
  return context?.isReady && context.session?.kernel?.connectionStatus === 'connected'
    && context.session.kernel.status === 'idle';
}"""
_CONNECTED: Final = """() => {
  const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
  return context?.isReady && context.session?.kernel?.connectionStatus === 'connected';
}"""
_RUN: Final = """async number => {
  const notebook = jupyterapp.shell.currentWidget.content;
  notebook.deselectAll();
  notebook.activeCellIndex = number;
  await jupyterapp.commands.execute('notebook:run-cell');
}"""
_REACHED: Final = """([selector, number]) => {
  const shown = document.querySelector(selector)?.textContent.replaceAll(',', '');
  return shown !== undefined && Number(shown) >= number;
}"""
_ASK: Final = """expression => jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute(
  {code: '', silent: false, store_history: false, user_expressions: {asked: expression}}
).done.then(reply => reply.content.user_expressions.asked)"""
_ADDRESS: Final = re.compile(rb"http://127\.0\.0\.1:[1-9]\d*/")
SECONDS: Final = 60  # until a server that does not start is given up


@dataclass
class Lab:
    """A running server: notebooks lie in ``folder``."""

    address: str
    token: str
    folder: Path

    def url(self, name: str, *, app: str = "lab") -> str:
        """Where a notebook of the folder opens: in ``lab``, or in Notebook 7 (``notebook``)."""
        place = f"lab/tree/{name}?reset&token={self.token}" if app == "lab" else f"notebooks/{name}?token={self.token}"
        return f"{self.address}{place}"

    def write(self, name: str, cells: Sequence[str], kernel: str = "python3") -> None:
        """A notebook of code cells for this kernel."""
        notebook = nbformat.v4.new_notebook(  # type: ignore[no-untyped-call]
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],  # type: ignore[no-untyped-call]
            metadata={"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        )
        nbformat.write(notebook, self.folder / name)  # type: ignore[no-untyped-call]

    @asynccontextmanager
    async def open(
        self, browser: Browser, name: str, *, app: str = "lab", **options: Any
    ) -> AsyncIterator[OpenNotebook]:
        """A notebook of the folder, open, its kernel ready."""
        async with opened(browser, self.url(name, app=app), **options) as watched:
            notebook = OpenNotebook(watched)
            await notebook.ready()
            yield notebook


@dataclass
class OpenNotebook:
    """A notebook in a page."""

    watched: Watched

    @property
    def page(self) -> Page:
        return self.watched.page

    @property
    def panel(self) -> Locator:
        """The (first) panel in it."""
        return self.page.locator(".outbox-panel").first

    async def ready(self) -> None:
        """Returns once its kernel is there and idle."""
        await self.page.wait_for_function(_READY, timeout=1000 * SECONDS)

    async def run_all(self) -> None:
        """Run all cells; returns when they have been."""
        await self.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells').then(() => null)")

    async def run(self, *numbers: int) -> None:
        """Run these cells, counted from 0, one after the other; returns when they have been."""
        for number in numbers:
            await self.page.evaluate(_RUN, number)

    async def ask(self, expression: str) -> Any:
        """The value of a Python expression in its kernel, whatever its cells are doing."""
        told = await self.page.evaluate(_ASK, f"__import__('json').dumps({expression})")
        assert told["status"] == "ok", told
        return json.loads(ast.literal_eval(told["data"]["text/plain"]))

    async def reload(self) -> None:
        """Load the page anew, as it was saved; returns when its kernel is connected again."""
        await self.command("docmanager:save")
        await self.page.reload()
        await self.page.wait_for_function(_CONNECTED, timeout=1000 * SECONDS)

    async def command(self, name: str) -> None:
        """Do what a menu entry does."""
        await self.page.evaluate("name => jupyterapp.commands.execute(name).then(() => null)", name)

    def count(self, name: str, panel: Locator | None = None) -> Locator:
        """The number of a panel's entries of this kind."""
        return (panel or self.panel).locator(f'[data-count="{name}"] b')

    def button(self, name: str) -> Locator:
        """A button of the panel."""
        return self.panel.get_by_role("button", name=name)

    @property
    def network(self) -> Locator:
        """The switch of the network."""
        return self.panel.get_by_role("switch", name="Network")

    @property
    def rows(self) -> Locator:
        """The rows of the table that are there."""
        return self.panel.get_by_role("grid", name="Entries").locator(".canvas .row:visible")

    async def reaches(self, name: str, number: int) -> None:
        """Returns once the page shows at least so many."""
        selector = f'.outbox-panel [data-count="{name}"] b'
        await self.page.wait_for_function(_REACHED, arg=[selector, number])

    async def is_idle(self) -> None:
        """Returns once the panel says so."""
        await expect(self.panel.locator("header .chip").first).to_have_text("idle")

    async def number(self, name: str) -> int:
        return int((await self.count(name).inner_text()).replace(",", ""))


@asynccontextmanager
async def lab(folder: Path, kernels: Mapping[str, Path] | None = None) -> AsyncIterator[Lab]:
    """A server with a configuration of its own; what it says goes to a file beside the notebooks.

    Args:
        folder: an empty one.
        kernels: more kernels, by name: the Python of each.
    """
    private, notebooks = folder / "jupyter", folder / "notebooks"
    notebooks.mkdir(parents=True)
    settings = private / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(_QUIET))
    for name, python in (kernels or {}).items():
        spec = private / "data" / "kernels" / name
        spec.mkdir(parents=True)
        argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": name, "language": "python"}))
    token = secrets.token_hex(16)
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(private / "config"),
        "JUPYTER_DATA_DIR": str(private / "data"),
        "JUPYTER_RUNTIME_DIR": str(private / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(private / "config" / "lab" / "user-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(private / "config" / "lab" / "workspaces"),
        "IPYTHONDIR": str(private / "ipython"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-m", "jupyterlab", *_OPTIONS, f"--IdentityProvider.token={token}", str(notebooks)]
    with (folder / "server.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=asyncio.subprocess.PIPE, env=environment
        )
        assert process.stderr is not None
        reading = None
        try:
            async with asyncio.timeout(SECONDS):
                while not (found := _ADDRESS.search(line := await process.stderr.readline())):
                    log.write(line)
                    assert line, f"the server ended: {log.name}"
            reading = asyncio.create_task(_read_on(process.stderr, log))
            yield Lab(found[0].decode(), token, notebooks)
        finally:
            if process.returncode is None:
                process.terminate()  # it shuts its kernels down
            await process.wait()
            if reading is not None:
                await reading


async def _read_on(stream: asyncio.StreamReader, log: Any) -> None:
    while line := await stream.readline():
        log.write(line)
