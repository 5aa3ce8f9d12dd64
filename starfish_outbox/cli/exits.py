"""What the exit code of a command says."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
PROBLEMS: Final = 1
REFUSED: Final = 2
LEFT: Final = 3
WRITE_FAILED: Final = 4
INTERRUPTED: Final = 130

_REFUSED: Final = "nothing was done: wrong usage, or the store, key or file cannot be found, read or opened"
_FAILED: Final = "a write failed; trying the same command again is safe"
_STOPPED: Final = "interrupted by Ctrl-C; nothing is stuck, and the same command goes on where this one stopped"

COMMANDS: Final[dict[str, dict[int, str]]] = {
    "list": {DONE: "shown", REFUSED: _REFUSED},
    "show": {DONE: "shown", REFUSED: _REFUSED, LEFT: "there is no entry with this id"},
    "status": {DONE: "shown", REFUSED: _REFUSED},
    "check": {DONE: "no problems", PROBLEMS: "problems", REFUSED: _REFUSED},
    "export": {
        DONE: "everything was copied, or was there already",
        REFUSED: _REFUSED,
        LEFT: "something could not be read or copied; the rest was",
        WRITE_FAILED: _FAILED,
        INTERRUPTED: _STOPPED,
    },
    "import": {
        DONE: "everything was copied, or was there already",
        REFUSED: _REFUSED,
        LEFT: "something could not be read or copied; the rest was",
        WRITE_FAILED: _FAILED,
        INTERRUPTED: _STOPPED,
    },
    "retry": {
        DONE: "every entry is queued",
        REFUSED: _REFUSED,
        LEFT: "an id is unknown, or its entry is being sent; the others are queued",
        WRITE_FAILED: _FAILED,
        INTERRUPTED: _STOPPED,
    },
    "conformance": {
        DONE: "no case fails that is not listed as known, and none that is listed passes",
        PROBLEMS: "one does",
        REFUSED: "nothing was done: wrong usage, bad cases, or a driver that does not start",
        INTERRUPTED: "interrupted by Ctrl-C; the drivers were ended",
    },
    "drain": {
        DONE: "everything was sent: the queue is empty",
        REFUSED: _REFUSED,
        LEFT: "something is left in the queue, failed entries included",
        WRITE_FAILED: _FAILED,
        INTERRUPTED: _STOPPED,
    },
    "watch": {
        DONE: "it was asked to end, or --until-empty came true, and the queue is empty",
        REFUSED: _REFUSED,
        LEFT: "the same, and something is left in the queue, failed entries included",
        INTERRUPTED: "a second Ctrl-C or SIGTERM cut off what was being sent; nothing is stuck",
    },
}
"""What each code of each command means."""

MEANINGS: Final[dict[int, str]] = {
    DONE: "done; nothing is left to do",
    PROBLEMS: "check found problems, or conformance a failure that is not listed",
    REFUSED: _REFUSED,
    LEFT: "done in part: something is left, failed, unknown, or could not be read",
    WRITE_FAILED: _FAILED,
    INTERRUPTED: _STOPPED,
}
"""What each code means, whichever command."""
