"""The recipes of README run as they stand there, against small servers that keep what their models keep."""

from __future__ import annotations

import asyncio
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any

import pytest

from starfish_outbox import MemoryCache, OutboxQueue, drain_outbox
from starfish_outbox.drain.results import DrainResult
from tests.conftest import KEY
from tests.loopback import Endpoint, Request, serving

README = Path(__file__).parents[1] / "README.md"


def recipe(heading: str) -> str:
    """The code under a heading."""
    pattern = rf"^### {heading}\n.*?```python\n(.*?)```"
    found = re.search(pattern, README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found, f"README has no recipe for {heading}"
    return found[1]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")  # a proxy that the environment names cannot reach this machine's loopback


class Model(Endpoint):
    """An endpoint whose answer depends on the request, and that loses the answers to some requests, by number."""

    def __init__(self, keep: Callable[[Request], int], *lost: int) -> None:
        super().__init__()
        self._keep = keep
        self._lost = lost

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next(int(line[16:]) for line in lines if line.startswith(b"content-length:"))
            request = Request(head, await reader.readexactly(length))
            self.requests.append(request)
            status = self._keep(request)
            if len(self.requests) in self._lost:
                return
            writer.write(f"HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()


@asynccontextmanager
async def cooked(heading: str, place: str, model: Model) -> AsyncIterator[Any]:
    """The ``send`` of a recipe, for a server on loopback instead of the place that it names."""
    code = recipe(heading)
    assert place in code
    names: dict[str, Any] = {}
    async with serving(model.handle) as url:
        exec(code.replace(place, url.rstrip("/")), names)
        try:
            yield names["send"]
        finally:
            await names.get("client", names["send"]).aclose()


async def drained(send: Any, entries: dict[str, Any], **options: Any) -> tuple[DrainResult, list[Any]]:
    """The result of one pass, and what is left of the entries: id, status, attempts and the last error's class."""
    async with OutboxQueue[Any](MemoryCache()) as queue:
        await queue.hydrate(KEY)
        await queue.enqueue_many(entries.items())
        result = await drain_outbox(queue, send, **options)
        return result, [(e.id, e.status, e.attempts, e.last_error and e.last_error.type) for e in queue.get()]


async def test_a_point_of_influxdb_is_one_however_often_and_whatever_it_spells() -> None:
    points: dict[str, str] = {}

    def keep(request: Request) -> int:
        assert request.target == "/api/v2/write?org=lab&bucket=nests&precision=ms"
        assert request.headers["authorization"] == "Token TOKEN"
        assert b"\n" not in request.body
        key, fields, time = re.split(r"(?<!\\) ", request.body.decode())
        points[f"{key} {time}"] = fields
        return 204

    model = Model(keep, 1, 4)
    async with cooked("InfluxDB", "https://influx.example", model) as send:
        entries = {f"nest {n},x=\\": {"site": "A=B, C\nnests,site=x mass=1", "mass": n} for n in range(5)}
        result, left = await drained(send, entries)
    assert (result.sent, left, len(model.requests)) == (5, [], 7)
    assert sorted(points.values()) == [f"mass={n}.0" for n in range(5)]
    for point in points:
        measurement, site, id = re.split(r"(?<!\\),", point.rsplit(" ", 1)[0])
        assert (measurement, site) == ("nests", r"site=A\=B\,\ C\ nests\,site\=x\ mass\=1")
        assert re.fullmatch(r"id=nest\\ \d\\,x\\=/", id)


async def test_a_metric_of_mlflow_is_one_row_however_often() -> None:
    rows: set[tuple[Any, ...]] = set()

    def keep(request: Request) -> int:
        assert request.target == "/api/2.0/mlflow/runs/log-batch"
        batch = json.loads(request.body)
        for metric in batch["metrics"]:
            rows.add((batch["run_id"], metric["key"], metric["value"], metric["timestamp"], metric["step"]))
        return 200

    model = Model(keep, 2)
    async with cooked("MLflow", "https://mlflow.example", model) as send:
        entries = {
            f"step-{n}": {"run_id": "abc", "step": n, "metrics": {"loss": 1 / (n + 1), "acc": n}} for n in range(3)
        }
        result, left = await drained(send, entries)
    assert (result.sent, left, len(model.requests)) == (3, [], 4)
    assert {(run, key, value, step) for run, key, value, _, step in rows} == {
        ("abc", key, value, n) for n in range(3) for key, value in (("loss", 1 / (n + 1)), ("acc", n))
    }


class OpenRosa:
    """What Central and Kobo keep: one submission an instanceID; the same again is fine, another is a conflict."""

    def __init__(self, again: int) -> None:
        self._again = again
        self.kept: dict[str, bytes] = {}
        self.says: list[int] = []

    def __call__(self, request: Request) -> int:
        if self.says:
            return self.says.pop(0)
        assert request.headers["x-openrosa-version"] == "1.0"
        kind = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        (part,) = BytesParser(policy=HTTP).parsebytes(kind + request.body).iter_parts()
        assert part.get_param("name", header="content-disposition") == "xml_submission_file"
        xml = part.get_payload(decode=True)
        assert isinstance(xml, bytes)
        id = ET.fromstring(xml).findtext("meta/instanceID")
        assert id is not None
        if id not in self.kept:
            self.kept[id] = xml
            return 201
        return self._again if self.kept[id] == xml else 409


@pytest.mark.parametrize("again", [201, 202])
async def test_a_submission_of_odk_or_kobo_is_one_however_often(again: int) -> None:
    server = OpenRosa(again)
    model = Model(server, 1, 4)
    place = "https://central.example"
    async with cooked("ODK Central and KoboToolbox", place, model) as send:
        entries = {f"nest-{n}": {"site": "A & <B>", "mass": n} for n in range(4)}
        result, left = await drained(send, entries)
        assert (result.sent, left, len(model.requests)) == (4, [], 6)
        result, left = await drained(send, entries)
        assert (result.sent, left) == (4, [])
        result, left = await drained(send, {"nest-1": {"site": "other", "mass": 1}})
        assert left == [("nest-1", "failed", 1, "ConflictError")]
    found = [ET.fromstring(xml) for xml in server.kept.values()]
    assert [(one.findtext("site"), one.findtext("mass")) for one in found] == [("A & <B>", str(n)) for n in range(4)]
    assert {(one.tag, one.get("id")) for one in found} == {("data", "nests")}


@pytest.mark.parametrize(
    ("says", "stopped", "state"),
    [
        ([423], "finished", None),  # the first try was still being worked on; asked again, it is there
        ([423, 423], "unacked", ("queued", 0, "UnackedError")),
        ([401], "auth", ("queued", 0, None)),
        ([402], "auth", ("queued", 0, None)),
        ([405], "auth", ("queued", 0, None)),
        ([503], "busy", ("queued", 0, None)),
        ([400], "finished", ("failed", 1, "RejectedError")),
        ([500], "finished", ("queued", 1, "SendError")),
    ],
)
async def test_what_else_odk_or_kobo_say_is_told_apart(says: list[int], stopped: str, state: Any) -> None:
    server = OpenRosa(202)
    server.says = says
    async with cooked("ODK Central and KoboToolbox", "https://central.example", Model(server)) as send:
        result, left = await drained(send, {"nest-1": {"mass": 1}})
    assert result.stopped == stopped
    assert left == ([] if state is None else [("nest-1", *state)])
