"""``nest()``: ``asyncio.run`` and ``run_until_complete`` inside cells, whose loop runs already.

It stands on `nest_asyncio`, which changes asyncio's loop so that it can be entered again. From version 7 on, ipykernel
runs all cells in one context, which nobody can enter twice: cells that are queued behind one that calls ``asyncio.run``
are taken from the queue and never run. Its successor `nest_asyncio2` has the same interface, and since 1.7.3 puts off
what it cannot enter yet; so that one is used there.
"""

from __future__ import annotations

import asyncio
import re
import sys
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Final

_DISTRIBUTIONS: Final = {"nest_asyncio": "nest-asyncio", "nest_asyncio2": "nest-asyncio2"}
_SAFE: Final = (1, 7, 3)
"""The first nest_asyncio2 that loses no cells."""

_ONE_CONTEXT: Final = (7,)
"""The first ipykernel that runs all cells in one context."""

_EXTRA: Final = "pip install 'starfish-outbox[notebook]'"


@dataclass(frozen=True)
class Nesting:
    """What `nest` did; shown as one sentence.

    Attributes:
        package: ``nest_asyncio`` or ``nest_asyncio2``.
        version: of that package.
        reason: why that one.
        already: it had been applied before.
    """

    package: str
    version: str
    reason: str
    already: bool = False

    def __repr__(self) -> str:
        """The sentence."""
        return f"{self.package} {self.version} {'was applied already' if self.already else 'is applied'}: {self.reason}"


def nest() -> Nesting:
    """Let ``asyncio.run(...)`` and ``loop.run_until_complete(...)`` work inside cells, and say how.

    It changes asyncio for the whole process, for good. ``await`` in a cell needs none of this, nor does
    ``BlockingOutbox``. Calling it again does nothing; it works outside a kernel too.

    Raises:
        RuntimeError: a patch is applied that loses cells in this kernel (restart it, and call this instead); or the
            event loop is uvloop's, which cannot be patched.
        ImportError: the package that this kernel needs is not installed; it is in the extra ``notebook``.
    """
    kernel = kernel_version()
    loop = _running_loop()
    if loop is not None:
        return _nest(loop, kernel)
    loop = asyncio.new_event_loop()  # the patch is one of its class
    try:
        return _nest(loop, kernel)
    finally:
        loop.close()


def kernel_version() -> str | None:
    """The version of the ipykernel in which this runs, or None outside one."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if "ipykernel" not in sys.modules or getattr(shell, "kernel", None) is None:
        return None
    return metadata.version("ipykernel")


def _nest(loop: asyncio.AbstractEventLoop, kernel: str | None) -> Nesting:
    if type(loop).__module__.partition(".")[0] == "uvloop":
        raise RuntimeError(
            "this event loop is uvloop's, which is compiled and cannot be entered again; "
            "use await in cells, or BlockingOutbox, or leave uvloop out of this kernel"
        )
    needs_new = kernel is not None and _numbers(kernel) >= _ONE_CONTEXT
    where = "outside a kernel" if kernel is None else f"with ipykernel {kernel}"
    applied = _applied(loop)
    if applied is not None:
        package, version = applied
        if needs_new and not _is_safe(package, version):
            raise RuntimeError(
                f"{package} {version} was applied before (by this notebook, or by a package that it imports), and "
                f"{where} the cells queued behind an asyncio.run would never run. It cannot be taken back: restart the "
                "kernel and call starfish_outbox.notebook.nest() instead, before anything else"
            )
        return Nesting(package, version, f"it loses no cells {where}", already=True)
    return _apply(loop, where, needs_new=needs_new)


def _apply(loop: asyncio.AbstractEventLoop, where: str, *, needs_new: bool) -> Nesting:
    package = "nest_asyncio2" if needs_new or _version("nest_asyncio") is None else "nest_asyncio"
    version = _version(package)
    if version is None:
        raise ImportError(f"{package} is needed {where} and not installed: {_EXTRA}", name=package)
    if needs_new and not _is_safe(package, version):
        least = ".".join(map(str, _SAFE))
        raise ImportError(f"{package} {version} loses cells {where}; {least} does not: {_EXTRA}", name=package)
    import_module(package).apply(loop)
    if _applied(loop) is None:
        raise RuntimeError(f"{package} {version} did not patch asyncio; is something else in its place?")
    if needs_new:
        return Nesting(package, version, f"{where} nest_asyncio would lose the cells queued behind an asyncio.run")
    if package == "nest_asyncio2":
        return Nesting(package, version, f"nest_asyncio is not installed, and this is its successor ({where})")
    return Nesting(package, version, f"it loses no cells {where}")


def _applied(loop: asyncio.AbstractEventLoop) -> tuple[str, str] | None:
    """Which package has patched asyncio or the class of this loop, and its version."""
    functions: list[Any] = [asyncio.run, type(loop).run_until_complete]
    for function in functions:
        package = function.__module__.partition(".")[0]
        if package in _DISTRIBUTIONS or (package != "asyncio" and hasattr(asyncio, "_nest_patched")):
            return package, _version(package) or "of unknown version"
    return None


def _is_safe(package: str, version: str) -> bool:
    return package == "nest_asyncio2" and _numbers(version) >= _SAFE


def _version(package: str) -> str | None:
    try:
        return metadata.version(_DISTRIBUTIONS.get(package, package))
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
