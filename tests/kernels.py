"""Real Jupyter kernels: cells sent all at once, as Run All does, and interrupts."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).parents[1]
SECONDS = 60  # until a test that waits for a cell gives up


@dataclass
class Cell:
    """What became of a cell.

    Attributes:
        text: what it printed and displayed as plain text, updates too.
        error: the name of the exception it ended with.
        words: what that said, with its traceback.
        ended: whether it ran to its end.
    """

    text: str = ""
    error: str = ""
    words: str = ""
    began: bool = False
    ended: bool = False
    shown: list[dict[str, Any]] = field(default_factory=list)


class Kernel:
    """A kernel and what its cells said."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._manager = manager
        self._client = client
        self.cells: dict[str, Cell] = {}
        self._displays: dict[str, Cell] = {}

    def send(self, *sources: str) -> list[Cell]:
        """Ask for these cells, all at once, and wait for none."""
        sent = []
        for source in sources:
            cell = Cell()
            # A cell that ends in an error must not take those behind it along.
            self.cells[self._client.execute(source, stop_on_error=False)] = cell
            sent.append(cell)
        return sent

    def run(self, *sources: str) -> list[Cell]:
        """The same, and wait for their ends."""
        cells = self.send(*sources)
        assert self.wait(lambda: all(cell.ended for cell in cells)), f"not all ended: {cells}"
        return cells

    def wait(self, done: Any, seconds: float = SECONDS) -> bool:
        """Take what the kernel says until ``done()``; whether that came within so many seconds."""
        until = time.monotonic() + seconds
        while not done():
            rest = until - time.monotonic()
            if rest <= 0:
                return False
            with contextlib.suppress(queue.Empty):
                self._take(self._client.get_iopub_msg(timeout=min(rest, 1.0)))
        return True

    def interrupt(self, *, by_message: bool = False) -> None:
        """As the button of a front end does: by a signal or, where the kernel is elsewhere, by a message."""
        if by_message:
            self._client.control_channel.send(self._client.session.msg("interrupt_request", {}))
        else:
            self._manager.interrupt_kernel()

    def click(self, model_id: str, subshell: str | None = None) -> Cell:
        """Click a button, as a front end does: on the channel of the cells, or in a subshell."""
        content = {"comm_id": model_id, "data": {"method": "custom", "content": {"event": "click"}}}
        message = self._client.session.msg("comm_msg", content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        cell = self.cells[message["header"]["msg_id"]] = Cell()
        self._client.shell_channel.send(message)
        return cell

    def new_subshell(self) -> str:
        """The name of a new thread that takes messages while a cell runs (from ipykernel 7 on)."""
        message = self._client.session.msg("create_subshell_request", {})
        self._client.control_channel.send(message)
        while True:
            reply = self._client.get_control_msg(timeout=SECONDS)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return str(reply["content"]["subshell_id"])

    def _take(self, message: dict[str, Any]) -> None:
        content = message["content"]
        display = content.get("transient", {}).get("display_id")
        cell = self.cells.get(message["parent_header"].get("msg_id", ""))
        if message["msg_type"] == "update_display_data":  # which belongs where that display is, whoever updates it
            cell = self._displays.get(display, cell)
        if cell is None:
            return
        if display is not None:
            self._displays.setdefault(display, cell)
        match message["msg_type"]:
            case "stream":
                cell.text += content["text"]
            case "execute_result" | "display_data" | "update_display_data":
                cell.text += content["data"].get("text/plain", "") + "\n"
                cell.shown.append(content["data"])
            case "error":
                cell.error, cell.words = content["ename"], "\n".join([content["evalue"], *content["traceback"]])
            case "execute_input":
                cell.began = True
            case "status" if content["execution_state"] == "idle":
                cell.ended = True


@contextlib.contextmanager
def running(python: str | Path = sys.executable, folder: Path | None = None) -> Iterator[Kernel]:
    """A kernel of that interpreter, with this checkout importable, until the block ends."""
    manager = KernelManager()
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=command, display_name="test", language="python")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder or "")}
    if folder is None:
        del environment["IPYTHONDIR"]
    manager.start_kernel(env=environment, cwd=str(folder or ROOT))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=SECONDS)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def environment(folder: Path, *packages: str) -> Path:
    """The Python of a new virtual environment with these packages."""
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-qq", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return python


def texts(cells: Sequence[Cell]) -> list[str]:
    """What each printed, without the space around it."""
    return [cell.text.strip() for cell in cells]
