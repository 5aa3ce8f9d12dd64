"""``http_post``: each entry as one POST with an ``Idempotency-Key``, and what every answer means for the entry.

The rules, in the order in which they are tried:

| what happened | what is raised | source |
|---|---|---|
| 2xx | nothing: delivered, or already there | RFC 9110 |
| 3xx | `AuthNeededError` that names the new place: a login page or a moved endpoint, not this entry's fault | |
| 401, 407, 511 | `AuthNeededError`; with the clock's error where the answer has a ``Date`` | RFC 9110, 6585 |
| 409, up to an hour after a try without an answer | `UnackedError`: that one may be under way still | IETF draft |
| other 409 | `ConflictError`; never taken for success, a bare 409 does not say whose version is there | RFC 9110 |
| 408, 425, 429, 502, 503, 504 | `BusyError`, with ``Retry-After`` | RFC 9110, 6585, 8470 |
| other 4xx | `RejectedError` | |
| other 5xx | `SendError`, a failed attempt: an item that always breaks the server must not block the others | |
| no connection, no proxy, none free in the pool | `OfflineError` | |
| a request under way and no whole answer | `UnackedError` | |

The IETF draft is draft-ietf-httpapi-idempotency-key-header: a server answers 409 while it works on a request with the
same key.

Of an answer that is too long, or not at its end when ``timeout`` is over, the status counts: with 2xx the entry is
delivered, and its receipt holds what had come. To ask again would end no better, and a server that knows no keys would
store once more. An answer that breaks off is no whole answer: whoever broke off may have failed before storing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from starfish_outbox.errors import (
    AuthNeededError,
    BusyError,
    ConflictError,
    ItemError,
    OfflineError,
    RejectedError,
    SendError,
    UnackedError,
)
from starfish_outbox.jsontext import decode, encode_foreign, encode_item
from starfish_outbox.senders.answers import REASON, clean, http_date, retry_after_seconds

if TYPE_CHECKING:
    import httpx

    from starfish_outbox.entry import OutboxEntry

_AUTH: Final = frozenset({401, 407, 511})
_BUSY: Final = frozenset({408, 425, 429, 502, 503, 504})
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, a field name
_VISIBLE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
_PATH: Final = "/:@!$&'()*+,;=~"  # RFC 3986, what a path may hold besides letters, digits, "-", "." and "_"
_CLOCK_TOLERANCE: Final = 300.0  # seconds; what servers that sign requests allow
_KEPT: Final = 8_000  # bytes of JSON that a receipt holds
_UNDER_WAY: Final = 3600.0  # seconds that a server may work on one request; a conflict that outlasts them is one


def http_post(
    base_url: str,
    *,
    path: str | Callable[[OutboxEntry[Any]], str] | None = None,
    client: httpx.AsyncClient | None = None,
    headers: Mapping[str, str] | None = None,
    auth: httpx.Auth | tuple[str, str] | None = None,
    timeout: float | None = 30.0,
    body: Callable[[OutboxEntry[Any]], Any] | None = None,
    id_header: str = "Idempotency-Key",
    max_response_bytes: int = 1 << 20,
) -> HttpSender:
    """A ``send`` for `drain_outbox` that posts each entry's item as JSON to one URL, with its id as idempotency key.

    ```python
    async with http_post("https://lab.example/observations") as send:
        print(await drain_outbox(queue, send))
    ```

    The server should know the keys that it has seen: a second request with the same ``Idempotency-Key`` must not store
    a second time. A key is the id where that is visible ASCII without ``%``; any other character goes as
    percent-encoded UTF-8, so that two ids never share a key.

    Args:
        base_url: where to post: ``http`` or ``https``, without a name and password in it. No item can change its host.
        path: what to add to the path of ``base_url``, or a function from entry to that; percent-encoded as it stands.
        client: an ``httpx.AsyncClient`` to use instead of an own one; it is never closed here.
        headers: headers to add to each request, such as a token.
        auth: for the requests, as httpx takes it; None leaves it to the client.
        timeout: seconds for each step of a request (wait for the pool, connect, write) and for the whole answer, or
            None for no limit.
        body: from entry to what to post instead of the item: JSON, or bytes that go as they are.
        id_header: the name of the header with the key.
        max_response_bytes: how much of an answer is read at most.

    Raises:
        ValueError: an argument cannot work for any entry.
        ImportError: httpx is not installed.
    """
    return HttpSender(
        base_url,
        path=path,
        client=client,
        headers=headers,
        auth=auth,
        timeout=timeout,
        body=body,
        id_header=id_header,
        max_response_bytes=max_response_bytes,
    )


class HttpSender:
    """What `http_post` returns: called with an entry it posts it; ``async with`` or `aclose` closes its connections.

    One sender serves one entry at a time or many at once, and goes on working after `aclose` or in another event loop.
    """

    def __init__(
        self,
        base_url: str,
        *,
        path: str | Callable[[OutboxEntry[Any]], str] | None,
        client: httpx.AsyncClient | None,
        headers: Mapping[str, str] | None,
        auth: httpx.Auth | tuple[str, str] | None,
        timeout: float | None,
        body: Callable[[OutboxEntry[Any]], Any] | None,
        id_header: str,
        max_response_bytes: int,
    ) -> None:
        try:
            import httpx as library
        except ImportError as error:
            raise ImportError("http_post needs httpx: pip install 'starfish-outbox[http]'") from error
        self._httpx = library
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {timeout!r}")
        if not _TOKEN.fullmatch(id_header):
            raise ValueError(f"id_header must be the name of a header, not {id_header!r}")
        self._base = _checked_base(base_url)
        try:
            library.URL(base_url)
        except library.InvalidURL as error:
            raise ValueError(f"base_url {base_url!r}: {error}") from error
        self._path = path if callable(path) or path is None else _joined(self._base, path)
        self._theirs = client
        self._own: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # identity: the answer is read as it comes, so nothing that a server packs small can grow large here.
        self._headers = library.Headers({"Content-Type": "application/json", "Accept-Encoding": "identity"})
        self._headers.update(_checked_headers(headers or {}))
        self._auth = library.USE_CLIENT_DEFAULT if auth is None else auth
        self._timeout = timeout
        self._body = body
        self._id_header = id_header
        self._max_response_bytes = max_response_bytes

    def __repr__(self) -> str:
        """Where it posts; no query, no header and no credentials."""
        scheme, host, path, _, _ = urlsplit(self._base)
        return f"http_post({urlunsplit((scheme, host, path, '', ''))!r})"

    async def __aenter__(self) -> Self:
        """The sender itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the connections back."""
        await self.aclose()

    async def aclose(self) -> None:
        """Gives the connections of the own client back; a client that was handed in stays open."""
        own, self._own, loop, self._loop = self._own, None, self._loop, None
        if own is not None and loop is asyncio.get_running_loop():
            await own.aclose()

    async def __call__(self, entry: OutboxEntry[Any]) -> dict[str, Any]:
        """Posts one entry; returns when the server has it, or had it already: what it answered, for ``receipts``.

        The ``status``; the ``answer`` as JSON where it is short and is some, else its first words, or None; and the
        ``location`` of what was made, where the server tells.

        Raises:
            SendError: what happened otherwise; the table at the head of the module says which of its classes.
        """
        library = self._httpx
        url, headers, content = self._request(entry)
        response, answer = None, bytearray()
        clock = asyncio.timeout(None)

        async def trace(event: str, _: object) -> None:
            # httpx's own timeout begins anew with every byte, so an answer could trickle for ever.
            if event.endswith("receive_response_headers.started"):
                now = asyncio.get_running_loop().time()
                clock.reschedule(None if self._timeout is None else now + self._timeout)
            elif event.endswith(("start_tls.started", "send_request_headers.started")):
                clock.reschedule(None)  # what was answered was a proxy's CONNECT, or a request without credentials

        try:
            async with (
                clock,
                self._client().stream(
                    "POST",
                    url,
                    headers=headers,
                    content=content,
                    auth=self._auth,
                    timeout=self._timeout,
                    follow_redirects=False,
                    extensions={"trace": trace},
                ) as response,
            ):
                await _read(response, answer, self._max_response_bytes)
        except (library.ConnectError, library.ConnectTimeout, library.PoolTimeout, library.ProxyError) as error:
            raise OfflineError(f"nobody was reached at {self._place()}: {_words(error)}") from error
        except (library.UnsupportedProtocol, library.LocalProtocolError, library.InvalidURL) as error:
            raise RejectedError(f"this entry cannot be posted to {self._place()}: {_words(error)}") from error
        except library.TransportError as error:
            raise UnackedError(f"no whole answer came from {self._place()}: {_words(error)}") from error
        except TimeoutError as error:
            if not clock.expired():
                raise
            if response is None:
                raise UnackedError(f"no whole answer came from {self._place()} within {self._timeout:g} s") from error
        _judge(response, bytes(answer), url, entry.maybe_sent_ms)
        return _receipt(response, bytes(answer))

    def _request(self, entry: OutboxEntry[Any]) -> tuple[str, httpx.Headers, bytes]:
        """Where an entry goes, with which headers and which bytes."""
        try:
            url = self._path or self._base
            if callable(url):
                url = _joined(self._base, url(entry))
            if self._body is None:
                # As it is stored: what was accepted once, or written by another program, is not refused here.
                content = encode_foreign(entry.item).encode()
            elif isinstance(made := self._body(entry), bytes):
                content = made
            else:
                content = encode_item(made, max_bytes=1 << 30).encode()
        except ItemError as error:
            raise RejectedError(f"the body of this entry is not JSON: {error}") from error
        except _BadPathError as error:
            raise RejectedError(str(error)) from error
        headers = self._headers.copy()
        headers[self._id_header] = idempotency_key(entry.id)
        return url, headers, content

    def _client(self) -> httpx.AsyncClient:
        """The client for the running loop; connections of a loop that is gone can be neither used nor closed here."""
        if self._theirs is not None:
            return self._theirs
        loop = asyncio.get_running_loop()
        if self._own is None or self._loop is not loop:
            self._own, self._loop = self._httpx.AsyncClient(), loop
        return self._own

    def _place(self) -> str:
        return urlsplit(self._base).netloc


def idempotency_key(entry_id: str) -> str:
    """The header value that stands for an id: visible ASCII but ``%`` as it is, the rest as percent-encoded UTF-8.

    Distinct ids give distinct keys; ``unquote(key)`` gives the id back where that is valid Unicode.
    """
    return quote(entry_id, safe=_VISIBLE, errors="surrogatepass")


class _BadPathError(ValueError):
    """A path that a function made for one entry and that could leave the base URL."""


def _checked_base(base_url: str) -> str:
    """The base URL, if it can be one.

    Raises:
        ValueError: it says what is wrong, without repeating a password.
    """
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"base_url {base_url!r}: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url holds a name or password; give them as auth=(name, password)")
    if parts.scheme not in ("http", "https") or not host or any(c.isspace() or not c.isprintable() for c in base_url):
        raise ValueError(f"base_url must be like 'https://host/path', not {base_url!r}")
    if parts.fragment:
        raise ValueError(f"base_url {base_url!r} has a '#' part, which is never sent")
    return base_url


def _checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers, if they can be sent: a token read from a file with its line end would otherwise fail every entry.

    Raises:
        ValueError: it names the header, not the value.
    """
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"headers: {name!r} is not the name of a header")
        if value != value.strip() or not value.isprintable() or not value.isascii():
            raise ValueError(
                f"headers: the value of {name!r} has characters that no header can hold, or space around it"
            )
    return headers


def _joined(base: str, path: str) -> str:
    """The base URL with a path added, percent-encoded, so that neither host nor query can change.

    Raises:
        _BadPathError: a part of it is ``.`` or ``..``, which servers and clients resolve.
    """
    if any(part in (".", "..") for part in path.split("/")):
        raise _BadPathError("a path with '.' or '..' in it could leave the base URL")
    scheme, host, before, query, _ = urlsplit(base)
    added = quote(path.lstrip("/"), safe=_PATH, errors="surrogatepass")
    return urlunsplit((scheme, host, f"{before.rstrip('/')}/{added}", query, ""))


async def _read(response: httpx.Response, got: bytearray, limit: int) -> None:
    """Add the first bytes of the answer as they come; one that is longer than the limit is not read to its end."""
    async for chunk in response.aiter_raw():
        got += chunk[: limit - len(got)]
        if len(got) >= limit:
            break


def _judge(response: httpx.Response, answer: bytes, url: str, maybe_sent_ms: int | None) -> None:
    """Returns when the answer says that the entry is there, else raises what it says."""
    status = response.status_code
    if 200 <= status < 300:
        return
    said = "" if _is_packed(response) else _reason(answer)
    what = f"the server answered {status}{f': {said}' if said else ''}"
    date = http_date(response.headers.get("Date", ""))
    if status in _AUTH:
        raise AuthNeededError(f"{what}. {_auth_advice(status, date)}")
    if status == 409:
        # Either clock may have been put back or forward since: what is not within the hour is a conflict, and parks.
        ago = None if maybe_sent_ms is None else time.time() - maybe_sent_ms / 1000
        if ago is not None and abs(ago) < _UNDER_WAY:
            raise UnackedError(f"{what}. A try {max(ago, 0):.0f} s ago had no answer, and may still be under way")
        raise ConflictError(f"{what}. Another version may be there under this id", response.headers.get("ETag"))
    if status in _BUSY:
        now = time.time() if date is None else date
        raise BusyError(what, retry_after_seconds(response.headers.get("Retry-After"), now))
    if 300 <= status < 400:
        raise AuthNeededError(f"{what}. {_redirect_advice(response, url)}")
    if status >= 500:
        raise SendError(what)
    raise RejectedError(what)


def _receipt(response: httpx.Response, answer: bytes) -> dict[str, Any]:
    """What is worth keeping of an answer that says it is there."""
    receipt = {"status": response.status_code, "answer": None if _is_packed(response) else _answer(answer)}
    if "Location" in response.headers:
        receipt["location"] = clean(response.headers["Location"])
    return receipt


def _answer(answer: bytes) -> Any:
    if len(answer) <= _KEPT:
        try:
            value = decode(answer.decode())
            encode_item(value, max_bytes=_KEPT)
        except ValueError:  # no UTF-8, no JSON, or none that can be stored
            pass
        else:
            return value
    return _reason(answer) or None


def _is_packed(response: httpx.Response) -> bool:
    return bool(response.headers.get("Content-Encoding", "identity").lower() != "identity")


def _auth_advice(status: int, date: float | None) -> str:
    """What to do about refused credentials, with the error of our clock where the server told its own."""
    if status == 511:
        return "This network wants a login before it lets anything through"
    if status == 407:
        return "The proxy wants credentials"
    ahead = 0.0 if date is None else time.time() - date
    if abs(ahead) > _CLOCK_TOLERANCE:
        side = "ahead of" if ahead > 0 else "behind"
        return f"This computer's clock is {abs(ahead):.0f} seconds {side} the server's; set it, then try again"
    return "Check the credentials; a clock that is off by more than 5 minutes looks the same"


def _redirect_advice(response: httpx.Response, url: str) -> str:
    """Where the programmer should point the base URL."""
    location = clean(response.headers.get("Location", ""))
    if not location:
        return "It redirects, and does not say where"
    try:
        place = urljoin(url, location)
    except ValueError:
        place = location
    return f"Redirects are not followed; if the endpoint moved to {place!r}, make that the base URL"


def _reason(answer: bytes) -> str:
    """The first words of an answer: 200 characters, one line, nothing that a terminal would obey."""
    return clean(answer[: 8 * REASON].decode("utf-8", "replace"))


def _words(error: Exception) -> str:
    """What a transport error says: its class, and its text where it has one (in async httpx many have none)."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
