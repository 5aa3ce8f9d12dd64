"""``s3_put``: each entry as one object, put where nothing is yet, and what every answer means for the entry.

``If-None-Match: *`` makes the put conditional: the second of two puts changes nothing and is told so. What is there is
then read and compared: "taken" alone is never taken for "already there".

| what happened | what is raised |
|---|---|
| put; or 412, and the object that is there has the same content, or may not be read | nothing |
| 412, and it has another content | `ConflictError` with its ETag |
| 429, 502, 503 SlowDown, 504, another operation on the bucket, a request that took too long | `BusyError` |
| 401, 403, 404, 405, 501, 3xx, and 400 about the credentials, the bucket or its keys | `AuthNeededError` |
| other 4xx | `RejectedError` |
| other 5xx; a body that arrived damaged | `SendError`, a failed attempt |
| no connection, no proxy, a certificate that is refused | `OfflineError` |
| no whole answer; 409 ConditionalRequestConflict: a put of this key is under way | `UnackedError` |

The codes are those of Amazon's "Error responses" list.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

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
from starfish_outbox.jsontext import encode_foreign, encode_item
from starfish_outbox.senders.answers import clean, http_date, retry_after_seconds
from starfish_outbox.senders.workers import Worker, Workers

if TYPE_CHECKING:
    from starfish_outbox.entry import OutboxEntry

MAX_KEY: Final = 1024
"""Bytes of a key that S3 takes."""

_BUSY: Final = frozenset(
    {"OperationAborted", "RequestLimitExceeded", "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"}
)
_PLACE: Final = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "IllegalLocationConstraintException",
        "InvalidBucketName",
        "InvalidToken",
        "MissingSecurityHeader",
        "TokenRefreshRequired",
    }
)
_DAMAGED: Final = frozenset({"BadDigest", "IncompleteBody", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"})

# botocore's classes, and what they derive from; a client of the caller's may be made by something else.
_OFFLINE: Final = frozenset({"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError"})
_UNACKED: Final = frozenset({"HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseStreamingError"})
_NO_CREDENTIALS: Final = frozenset(
    {
        "CredentialRetrievalError",
        "NoAuthTokenError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "SSOError",
        "TokenRetrievalError",
    }
)


def s3_put(
    bucket: str,
    *,
    client: Any = None,
    prefix: str = "",
    key: Callable[[OutboxEntry[Any]], str] | None = None,
    body: Callable[[OutboxEntry[Any]], Any] | None = None,
    content_type: str = "application/json",
    extra: Mapping[str, Any] | None = None,
) -> S3Sender:
    """A ``send`` for `drain_outbox` that puts each entry's item as one JSON object, unless its key is taken.

    ```python
    async with s3_put("survey-2026", prefix="nests/") as send:
        print(await drain_outbox(queue, send, concurrency=8, receipts=True))
    ```

    Its calls run in threads; a send that is cancelled goes on there to its end.

    Args:
        bucket: the bucket's name.
        client: of boto3, or anything with its ``put_object`` and ``get_object``; it should not try again by itself
            (``Config(retries={"total_max_attempts": 1})``), since then "nobody was reached" may hide a lost answer.
            None: one that boto3 makes of the environment (``AWS_ENDPOINT_URL_S3``, profiles, …).
        prefix: what each key begins with, as it stands.
        key: from entry to the rest of its key, which must be the entry's alone; None: the id. Between slashes it is
            percent-encoded, a lone ``.`` or ``..`` too, so that it stays below the prefix; an id's own slashes are
            encoded as well.
        body: from entry to what to put instead of the item: JSON, or bytes that go as they are; the same each time.
        content_type: of the objects.
        extra: more parameters for ``put_object``, such as ``{"ServerSideEncryption": "AES256"}`` or ``Metadata``.

    Raises:
        ValueError: an argument cannot work for any entry, or this client is too old for conditional puts.
        TypeError: ``client`` has no ``put_object`` or no ``get_object``.
        ImportError: boto3 is needed and not installed.
    """
    return S3Sender(bucket, client=client, prefix=prefix, key=key, body=body, content_type=content_type, extra=extra)


class S3Sender:
    """What `s3_put` returns: called with an entry it puts it; ``async with`` or `aclose` ends its threads."""

    def __init__(
        self,
        bucket: str,
        *,
        client: Any,
        prefix: str,
        key: Callable[[OutboxEntry[Any]], str] | None,
        body: Callable[[OutboxEntry[Any]], Any] | None,
        content_type: str,
        extra: Mapping[str, Any] | None,
    ) -> None:
        if not isinstance(bucket, str) or not bucket:
            raise ValueError(f"bucket must be a name, not {bucket!r}")
        if any(part in (".", "..") for part in prefix.split("/")):
            raise ValueError(f"prefix {prefix!r} has a part '.' or '..', which tools resolve")
        if taken := {"Bucket", "Key", "Body", "ContentType", "IfNoneMatch"} & set(extra or {}):
            raise ValueError(f"extra holds {', '.join(sorted(taken))}, which is set for each entry")
        self._client = _own_client() if client is None else client
        if not all(callable(getattr(self._client, name, None)) for name in ("put_object", "get_object")):
            raise TypeError(f"client has put_object and get_object, unlike this {type(client).__name__}")
        if not _knows_conditions(self._client):
            raise ValueError("this client cannot put on a condition: upgrade boto3 to 1.36 or newer")
        self._bucket = bucket
        self._fixed = {"ContentType": content_type, "IfNoneMatch": "*", **(extra or {})}
        self._prefix = prefix
        self._key = key
        self._body = body
        self._workers = Workers("starfish-outbox-s3")

    def __repr__(self) -> str:
        """Where it puts objects; nothing of the client."""
        return f"s3_put({self._bucket!r}, prefix={self._prefix!r})"

    async def __aenter__(self) -> Self:
        """The sender itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the threads."""
        await self.aclose()

    async def aclose(self) -> None:
        """End the threads; one in which a cancelled send still goes on ends after it. The client stays as it is."""
        await asyncio.gather(*map(asyncio.wrap_future, self._workers.end()))

    async def __call__(self, entry: OutboxEntry[Any]) -> dict[str, Any]:
        """Puts one entry; returns when the bucket has it, or had it already: where, for ``receipts``.

        The ``key``; the ``etag`` and, where the bucket keeps versions, the ``version``, as far as the server told them.

        Raises:
            SendError: what happened otherwise; the table at the head of the module says which of its classes.
        """
        key, content = self._key_of(entry), self._content_of(entry)
        answer = await self._workers.run(self._put, key, content)
        if isinstance(answer, Exception):
            raise answer  # here, and not where it arose: the library's words in its context may hold the item
        return {"key": key, **answer}

    def _put(self, _: Worker, key: str, content: bytes) -> dict[str, Any] | Exception:
        """In a worker's thread: what the server told of the object, or what went wrong."""
        where = {"Bucket": self._bucket, "Key": key}
        try:
            return _told(self._client.put_object(**where, Body=content, **self._fixed))
        except Exception as error:  # noqa: BLE001  # of any library; what it means is judged
            if _status(error) != 412:
                return _meaning(error)
        try:
            there = self._client.get_object(**where)
            with closing(there["Body"]) as body:
                same = body.read(len(content) + 1) == content
        except Exception as error:  # noqa: BLE001  # the same
            if _status(error) == 404:
                return BusyError("the object that was there is gone: to be put again")
            # Who may write and not read, as field devices often, cannot compare; the key is the entry's alone.
            return {} if _status(error) == 403 else _meaning(error)
        if not same:
            return ConflictError(f"the bucket holds another content under {key!r}", remote=_told(there).get("etag"))
        return _told(there)

    def _key_of(self, entry: OutboxEntry[Any]) -> str:
        parts = [entry.id] if self._key is None else self._key(entry).split("/")
        key = self._prefix + "/".join(map(_encoded, parts))
        if len(key.encode()) > MAX_KEY:
            raise RejectedError(f"a key of {len(key.encode())} bytes is longer than S3 takes ({MAX_KEY})")
        return key

    def _content_of(self, entry: OutboxEntry[Any]) -> bytes:
        if self._body is None:
            return encode_foreign(entry.item).encode()
        made = self._body(entry)
        if isinstance(made, bytes):
            return made
        try:
            return encode_item(made, max_bytes=1 << 30).encode()
        except ItemError as error:
            raise RejectedError(f"the body of this entry is not JSON: {error}") from error


def _own_client() -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ImportError("s3_put needs boto3: pip install 'starfish-outbox[s3]'") from error
    # The drain tries again, and knows when; a try of the client's own would hide what became of the one before.
    return boto3.client("s3", config=Config(retries={"total_max_attempts": 1, "mode": "standard"}))


def _knows_conditions(client: Any) -> bool:
    """Whether the client's own description of ``PutObject`` has the condition; a client without one is believed."""
    try:
        return "IfNoneMatch" in client.meta.service_model.operation_model("PutObject").input_shape.members
    except AttributeError:
        return True


def _encoded(part: str) -> str:
    if part in (".", ".."):
        return part.replace(".", "%2E")
    return quote(part, safe="", errors="surrogatepass")


def _told(answer: Mapping[str, Any]) -> dict[str, Any]:
    names = {"etag": "ETag", "version": "VersionId"}
    return {ours: answer[theirs] for ours, theirs in names.items() if theirs in answer}


def _status(error: Exception) -> int:
    """The HTTP status of botocore's ``ClientError``; 0 where there was no answer."""
    response = getattr(error, "response", None)
    about = response.get("ResponseMetadata", {}) if isinstance(response, Mapping) else {}
    return int(about.get("HTTPStatusCode", 0))


def _meaning(error: Exception) -> Exception:
    """What an error of the client means; the error itself where nothing is known."""
    if _status(error):
        return _meaning_of_answer(error.response)  # type: ignore[attr-defined]  # it has a status, so it has a response
    names = {kind.__name__ for kind in type(error).__mro__}
    words = f"{type(error).__name__}: {clean(str(error))}"
    if names & _OFFLINE:
        return OfflineError(f"nobody was reached: {words}")
    if names & _UNACKED:
        return UnackedError(f"no whole answer came: {words}")
    if names & _NO_CREDENTIALS:
        return AuthNeededError(f"no credentials: {words}")
    if "ParamValidationError" in names:  # its words hold the values
        return RejectedError("the client takes no such request: see bucket=, key= and extra=")
    return error


def _meaning_of_answer(response: Mapping[str, Any]) -> SendError:
    said, about = response.get("Error", {}), response["ResponseMetadata"]
    status, headers = about["HTTPStatusCode"], about.get("HTTPHeaders", {})
    code = str(said.get("Code", ""))
    what = f"the server answered {status} {clean(code)}: {clean(str(said.get('Message', '')))}"
    if code == "ConditionalRequestConflict":
        return UnackedError(what)  # perhaps our own first try: it is asked again, and not for ever
    if code in _BUSY or status in (429, 502, 503, 504):
        date = http_date(headers.get("date", ""))
        wait = retry_after_seconds(headers.get("retry-after"), time.time() if date is None else date)
        return BusyError(what, wait)
    if status in (401, 403, 404, 405, 501) or 300 <= status < 400 or code in _PLACE or code.startswith("KMS."):
        return AuthNeededError(f"{what}. This is about the bucket or the credentials, not about this entry")
    if code in _DAMAGED or status >= 500:
        return SendError(what)
    return RejectedError(what)
