"""The drivers of ``interop/``, started for a test."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from starfish_outbox.conformance.divergences import Divergence, load_divergences
from starfish_outbox.conformance.driver import Driver
from starfish_outbox.conformance.protocol import ProtocolRules

INTEROP = Path(__file__).parents[1] / "interop"


def node() -> str:
    found = shutil.which("node")
    assert found, "these tests need Node 20"
    assert (INTEROP / "node_modules").is_dir(), "run `npm ci` in interop/ (`make test` does)"
    return found


def typescript_driver(**options: Any) -> Driver:
    """The published TypeScript package."""
    return Driver([node(), str(INTEROP / "drivers/typescript.mjs")], **options)


def python_driver(**options: Any) -> Driver:
    """This package."""
    return Driver([sys.executable, str(INTEROP / "drivers/python.py")], **options)


def published_driver(**options: Any) -> Driver:
    """The published Python package; the first run makes its environment, for which it needs the package index."""
    return Driver([sys.executable, str(INTEROP / "drivers/published_python.py")], **options)


def protocol_rules() -> ProtocolRules:
    return ProtocolRules(INTEROP / "protocol.schema.json")


def divergences() -> list[Divergence]:
    return load_divergences(INTEROP / "divergences.json")
