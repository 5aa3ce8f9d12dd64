"""The driver protocol as rules: its JSON Schema, applied to what is asked and to what is answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class ProtocolRules:
    """Says what is wrong with a request or an answer. Needs ``jsonschema``.

    Args:
        path: ``interop/protocol.schema.json``.
    """

    def __init__(self, path: Path) -> None:
        from jsonschema import Draft202012Validator

        self.schema: dict[str, Any] = json.loads(path.read_text("utf-8"))
        definitions = self.schema["$defs"]
        self.operations = frozenset(ref["$ref"].rsplit("/", 1)[1] for ref in definitions["request"]["oneOf"])
        self._validators = {
            name: Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})
            for name in (*self.operations, "answer")
        }
        self._values = {
            op: Draft202012Validator({**rule, "$defs": definitions})
            for op, rule in definitions["values"]["properties"].items()
        }

    def check_request(self, request: Mapping[str, Any]) -> str | None:
        """What is wrong with it, or None."""
        op = request.get("op")
        if op not in self.operations:
            return f"there is no operation {op!r}"
        return _first_problem(self._validators[op], request)

    def check_answer(self, op: str, answer: Mapping[str, Any]) -> str | None:
        """What is wrong with it as an answer to ``op``, or None."""
        problem = _first_problem(self._validators["answer"], answer)
        if problem or "value" not in answer or op not in self._values:
            return problem
        return _first_problem(self._values[op], answer["value"])


def _first_problem(validator: Any, instance: Any) -> str | None:
    for error in validator.iter_errors(instance):
        return f"{error.json_path}: {error.message[:200]}"
    return None
