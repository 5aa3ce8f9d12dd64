"""The examples in the docstrings of ``starfish_outbox.testing`` and in README run as they stand, and are short."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import testing

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def _examples() -> dict[str, str]:
    found = {}
    for name in testing.__all__:
        for number, code in enumerate(BLOCK.findall(inspect.getdoc(getattr(testing, name)) or "")):
            found[f"{name}-{number}"] = code
    for number, code in enumerate(BLOCK.findall(README.read_text(encoding="utf-8"))):
        if "starfish_outbox.testing" in code:
            found[f"README-{number}"] = code
    return found


EXAMPLES = _examples()


def test_each_of_the_five_has_an_example() -> None:
    five = {"FlakySender", "FaultyCache", "ManualClock", "CacheContract", "MisbehavingServer"}
    assert {name.partition("-")[0] for name in EXAMPLES} >= five


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_runs_as_it_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")  # a proxy that the environment names cannot reach this machine's loopback
    tree = ast.parse(textwrap.dedent(EXAMPLES[name]))
    code = compile(tree, f"<the example of {name}>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert any(isinstance(node, ast.Assert) or "assert_" in ast.unparse(node) for node in ast.walk(tree))
    running: Any = types.FunctionType(code, {"__name__": name})()
    if inspect.isawaitable(running):
        await running
