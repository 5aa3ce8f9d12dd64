"""The published server behind the questions of ``environment.Program``: its own router and its own file store.

``{"op": "serve", "port": 0, "store": "…"}`` answers the port; it serves until it is killed or its input ends.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Request
from starfish_server import SyncConfig
from starfish_server.auth.nonce_cache import create_in_memory_nonce_cache
from starfish_server.auth.revocation_store import create_in_memory_revocation_store
from starfish_server.router.cap_resolver import create_cap_cert_role_resolver
from starfish_server.router.route_builder import SyncRouterOptions, create_sync_router
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions


def collection(name: str, path: str = "{id}", role: str = "public", **more: Any) -> dict[str, Any]:
    given = {"readRoles": [role], "writeRoles": [role], "encryption": "none", "maxBodyBytes": 4_000_000}
    return {"name": name, "storagePath": f"{name}/{path}", **given, **more}


def log_of(name: str, **more: Any) -> dict[str, Any]:
    rules = {"type": "by_timestamp", "requireAuthorSignature": False, **more}
    return collection(name, appendOnly=rules)


COLLECTIONS: Final = [
    collection("obs"),
    log_of("log"),
    log_of("short", maxItems=2),
    log_of("events", field="happened"),
    log_of("recent", maxCheckpointAgeMs=1),
    {**log_of("dropbox"), "pushOnly": True},
    collection("shaped", objectSchema={"type": "object", "properties": {"mass": {"type": "number"}}}),
    collection("small", maxBodyBytes=200),
    collection("limited", rateLimit={"windowMs": 3_600_000, "maxRequests": 1}),
    collection("pictures", allowedMimeTypes=["image/png"]),
    collection("mine", "{identity}/{id}", "self"),
    collection("slow", role="self-nobody"),
]


def application(store: str) -> FastAPI:
    """The router as it is, over a directory."""
    by_cap = create_cap_cert_role_resolver(
        nonce_cache=create_in_memory_nonce_cache(),
        revocation_store=create_in_memory_revocation_store(),
        allow_anonymous=False,
    )

    async def resolver(request: Request) -> Any:
        if "/slow/" in request.url.path:
            await asyncio.sleep(3600)  # longer than the router waits
        return await by_cap(request)

    config = {"version": 1, "collections": COLLECTIONS, "rateLimit": {"windowMs": 60_000, "maxRequests": 1_000_000}}
    options = SyncRouterOptions(
        store=FilesystemObjectStore(FilesystemStorageOptions(base_dir=store)),
        config=SyncConfig.model_validate(config),
        role_resolver=resolver,
        role_resolver_timeout=0.2,
    )
    app = FastAPI()
    app.include_router(create_sync_router(options))
    return app


def main() -> None:
    question = json.loads(sys.stdin.readline())
    listener = socket.create_server(("127.0.0.1", question["port"]))
    server = uvicorn.Server(uvicorn.Config(application(question["store"]), log_level="warning", access_log=False))
    sys.stdout.write(json.dumps(listener.getsockname()[1]) + "\n")
    sys.stdout.flush()

    def until_the_end() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=until_the_end, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
