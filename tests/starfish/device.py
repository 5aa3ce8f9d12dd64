"""The published SDK with this package's senders and queue, behind the questions of ``environment.Program``.

Operations, each a method of `Device` that takes its arguments by name; an answer is JSON. ``send`` answers
``{"returned": …}`` or what was raised.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from starfish_protocol import compute_hash, sign_cap_cert, user_id_from_pub_hex
from starfish_protocol.suites import ed25519
from starfish_sdk import StarfishClient

import starfish_outbox
from starfish_outbox import ConflictError, OutboxEntry, OutboxQueue, SQLiteCache, drain_outbox
from starfish_outbox.senders import StarfishAppend, starfish_append, starfish_push, union_by_id


class Counting(httpx.AsyncHTTPTransport):
    """httpx's own way to the network; counts the requests that are tried, also those that reach nobody."""

    tried = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.tried += 1
        return await super().handle_async_request(request)


class Owner:
    """A key pair and the certificate by which it stands for itself: what the SDK calls a cap provider."""

    def __init__(self) -> None:
        private = Ed25519PrivateKey.generate()
        self._private = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()).hex()
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        self.identity = user_id_from_pub_hex(public)
        now = int(time.time())
        cert = {
            "v": 1,
            "kind": "device",
            "iss": public,
            "issUserId": self.identity,
            "sub": public,
            "subKem": ed25519.generate_kem_keypair()[1],
            "scope": {"ops": ["read", "write"], "collections": ["mine"]},
            "nbf": now - 86_400,
            "exp": now + 86_400,
            "nonce": base64.b64encode(bytes(16)).decode(),
        }
        self._cap = sign_cap_cert(cert, self._private)

    async def get_cap(self) -> dict[str, Any]:
        return {"cap": self._cap, "dev_ed_priv_hex": self._private}


class Logged(logging.Handler):
    """What the package warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def overwriting(remote: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    """A broken merge: what the others put under the same name is gone."""
    return {**remote, **mine}


def taking_any_409(send: Callable[[OutboxEntry[Any]], Awaitable[Any]]) -> Callable[[OutboxEntry[Any]], Awaitable[Any]]:
    """A broken sender: whatever is there, it counts as delivered."""

    async def broken(entry: OutboxEntry[Any]) -> Any:
        try:
            return await send(entry)
        except ConflictError:
            return None

    return broken


class NeverLooking(StarfishAppend):
    """A broken sender: it appends again without a look."""

    async def _look(self, *_: Any) -> None:
        return None


class Device:
    """One process of a user."""

    def __init__(self) -> None:
        self.senders: dict[str, Any] = {}
        self.transports: dict[str, Counting] = {}
        self.clients: dict[str, StarfishClient] = {}
        self.owner = Owner()
        self.logged = Logged()
        logging.getLogger("starfish_outbox").addHandler(self.logged)
        self.clock = 0.0  # seconds by which the clock of this computer is off
        real = time.time
        time.time = lambda: real() + self.clock

    async def where(self) -> dict[str, Any]:
        return {"outbox": starfish_outbox.__file__, "identity": self.owner.identity}

    async def make(
        self,
        name: str,
        kind: str,
        url: str,
        path: str,
        *,
        broken: str = "",
        base: str | None = None,
        without_hash: bool = False,
        by_cap: bool = False,
        timeout: float = 30,
        **options: Any,
    ) -> None:
        """A sender under a name, with a client of its own."""
        transport = self.transports[name] = Counting()
        http = httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False)
        client = StarfishClient(url, cap_provider=self.owner if by_cap else None, client=http)
        self.clients[name] = client
        if kind == "list":
            options["merge"] = overwriting if broken == "overwriting" else union_by_id("seen", "id")
        if base is not None:
            options["base_hash"] = lambda _: base
        protocol = sys.modules["starfish_protocol"]
        if without_hash:
            sys.modules["starfish_protocol"] = None  # type: ignore[assignment]  # as where it is not installed
        try:
            function: Callable[..., Any] = starfish_append if kind == "append" else starfish_push
            send = function(client, path=path, **options)
        finally:
            sys.modules["starfish_protocol"] = protocol
        if broken == "never looking":
            send.__class__ = NeverLooking
        self.senders[name] = taking_any_409(send) if broken == "taking any 409" else send

    async def send(
        self, name: str, id: str, item: Any, *, attempts: int = 0, maybe: int | None = None, clock: float = 0.0
    ) -> dict[str, Any]:
        """What one entry comes to, how many requests it took, and what was warned of."""
        entry = OutboxEntry(id, item, "sending", attempts, 0, maybe_sent_ms=maybe)
        before, warned = self.transports[name].tried, len(self.logged.lines)
        self.clock = clock
        try:
            outcome = {"returned": await self.senders[name](entry)}
        except Exception as error:  # noqa: BLE001  # whatever it is is what the test asks for
            outcome = {"raised": type(error).__name__, "says": str(error), "remote": getattr(error, "remote", None)}
            outcome["retry_after"] = getattr(error, "retry_after", None)
        finally:
            self.clock = 0.0
        calls = self.transports[name].tried - before
        return {**outcome, "calls": calls, "warned": self.logged.lines[warned:]}

    async def push(self, name: str, path: str, data: Any, base: str | None = None) -> str:
        """The SDK alone, as another device."""
        return str((await self.clients[name].push(path, data, base)).hash)

    async def append(self, name: str, path: str, data: Any) -> int:
        return int((await self.clients[name].append(path, data)).timestamp)

    async def pull(self, name: str, path: str) -> Any:
        return (await self.clients[name].pull(path)).data

    async def elements(self, name: str, path: str) -> list[Any]:
        return list(await self.clients[name].pull(path, full=True))

    async def hash(self, data: Any) -> str:
        return str(compute_hash(data))

    async def open(self, path: str) -> int:
        """The outbox of this process; how many entries are in it."""
        self.queue = OutboxQueue[Any](SQLiteCache(path))
        await self.queue.hydrate("outbox.ana")
        return len(self.queue.get())

    async def enqueue(self, pairs: list[tuple[str, Any]]) -> int:
        return sum(await self.queue.enqueue_many((id, item) for id, item in pairs))

    async def drain(self, name: str, **options: Any) -> dict[str, Any]:
        """One pass."""
        before = self.transports[name].tried
        result = await drain_outbox(self.queue, self.senders[name], **options)
        entries = self.queue.get()
        return {
            "sent": result.sent,
            "failed": result.failed,
            "stopped": result.stopped,
            "reason": result.reason,
            "queued": [entry.id for entry in entries if entry.status != "failed"],
            "parked": [entry.id for entry in entries if entry.status == "failed"],
            "calls": self.transports[name].tried - before,
        }


async def answer(target: object) -> None:
    """Answers questions until the input ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        question = json.loads(line)
        said = await getattr(target, question.pop("op"))(**question)
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(answer(Device()))
