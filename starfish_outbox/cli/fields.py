"""What ``--json`` writes: every field of every command, and what it means. Fields are added, never renamed."""

from __future__ import annotations

from typing import Final

PLACE: Final = {
    "store": "the path",
    "kind": "`sqlite`, `directory` or `file`",
    "key": "whose queue",
}

ENTRY: Final = {
    "id": "the caller's id; null for an entry of another program whose id is no text",
    "status": "`queued`, `sending`, `failed`, or what another program wrote",
    "attempts": "how many sends failed",
    "enqueuedAt": "milliseconds since the Unix epoch",
    "size": "bytes of the item as UTF-8",
    "claimed": "of an entry that is being sent: `live`, `gone` (its process) or `unknown`; else null",
    "maybeSent": "since when it may be at the server unknown to us, in milliseconds, or null",
    "nextAttemptAt": "not before this, in milliseconds, or null",
    "lastError": "`type`, `message` and `at` (milliseconds) of the last failure, or null",
    "replacement": "a newer item that takes its place once the send under way has ended: `enqueuedAt`, `size`, and its "
    "`item` where items are shown; else null",
}

PROBLEM: Final = {
    "level": "`error` or `warning`",
    "rule": "a name in `rules`; its number is that of schema/README.md",
    "what": "what stands there",
    "key": "whose queue, in a database; else null",
    "path": "which value, as JSONPath",
    "line": "from 1; null in a database",
    "column": "from 1, in characters; null in a database",
}

COPY: Final = {
    "from": "`store`, `kind` and `key` of the source",
    "to": "the same of the target",
    "dryRun": "whether it was only counted",
    "taken": "entries that were new",
    "there": "entries left alone: the id was there",
    "sent": "entries left alone: delivered before",
    "left": "what could not be copied and why",
    "notes": "what is read differently from what is written",
    "moved": "the new name of the source file, or null",
}

DELIVERY: Final = {
    **PLACE,
    "to": "the URL without its query",
    "sent": "entries that the server has now",
    "failed": "entries that were parked by this run",
    "superseded": "sends whose entry was changed here meanwhile",
    "seconds": "how long it took",
    "stopped": "`finished`, `limit`, `asked` (to end), `offline`, `unacked`, `busy`, `auth` or `interrupted`",
    "reason": "what stopped it, or else the last failure of the pass, in words",
    "retryAfter": "seconds the server asks to wait, or null",
    "waiting": "entries that the last pass passed over: not due, or held in their lane",
    "nextAttemptAt": "when the first of those is due, in milliseconds, or null",
    "left": "entries left by status: `queued`, `sending`, `failed`, `other`",
    "reasons": "why they are left: of each reason `status`, `reason`, `entries` (how many), `id` (the oldest one's) "
    "and `nextAttemptAt`",
}

FIELDS: Final[dict[str, dict[str, str]]] = {
    "list": {
        **PLACE,
        "total": "how many entries there are (of the status asked for)",
        "offset": "how many were left out before the first",
        "entries": "as below; with `--items` each has its `item`",
        "unread": "damaged rows or elements that are not in the list, and why",
    },
    "show": {
        **PLACE,
        "entries": "as below, each with `extra` (keys of other programs) and its `item`",
        "situation": "`queued` (the next pass takes it), `waiting`, `sending`, `failed`, `sent`, `foreign`, `unknown`",
        "reason": "why it is not sent, in words",
        "history": "what is known to have happened: `at` (milliseconds), `event` and `detail`, the oldest first",
    },
    "status": {
        **PLACE,
        "queued": "entries that wait",
        "sending": "entries that are claimed",
        "failed": "entries that are parked for a person",
        "other": "entries with another program's status",
        "total": "all of them",
        "bytes": "size of all items as UTF-8",
        "oldest": "when the first was enqueued, in milliseconds since the Unix epoch, or null",
        "durability": "what an acknowledged change survives",
        "owners": "processes that have it open",
        "setAside": "unreadable text that was set aside earlier",
        "unread": "what the next opening will set aside, or read differently from what is written",
        "stuck": "entries that no drain sends as they are, and why",
        "notes": "what was unusual about looking",
    },
    "check": {
        "file": "the path",
        "kind": "`json` or `sqlite`",
        "entries": "elements or rows that were looked at",
        "errors": "how many",
        "warnings": "how many",
        "problems": "as below",
        "rules": "of each broken rule `about`, and `programs`: what each of them does",
        "notes": "what was unusual about looking",
    },
    "export": COPY,
    "import": COPY,
    "retry": {
        **PLACE,
        "retried": "ids that were put back",
        "already": "ids that were queued already",
        "sending": "ids that are being sent, and were left alone",
        "unknown": "ids that are not in the queue",
    },
    "drain": DELIVERY,
    "watch": DELIVERY,
    "conformance": {
        "ok": "whether the exit code is 0",
        "drivers": "of each `name`, `version`, `language`, and `verdicts`: how many of each",
        "surprises": "unlisted failures and listed passes: `id`, `drivers`, `verdict`, `why`, `reasons`",
    },
}
"""The fields of each command's document. One that fails writes only ``error``: ``type``, ``message`` and ``exit``."""
