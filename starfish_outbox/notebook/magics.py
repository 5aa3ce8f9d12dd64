"""``%load_ext starfish_outbox`` gives ``%outbox``: look at the outbox of this notebook, drain it, retry what failed.

A magic cannot await. What a command asks of an async queue is therefore begun as a task of the notebook's loop and
shown under the cell when it is done, which is after the cell has ended: see `Later`. A `BlockingOutbox` answers at
once.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn
from uuid import uuid4

from starfish_outbox.drain import drain_outbox
from starfish_outbox.drain.options import check_number, is_async
from starfish_outbox.entry import FAILED, QUEUED, SENDING
from starfish_outbox.knowing import moment
from starfish_outbox.notebook.blocking import BlockingOutbox
from starfish_outbox.notebook.sending import InThread, Threads
from starfish_outbox.outcomes import describe
from starfish_outbox.queue import OutboxQueue
from starfish_outbox.showing import counted, printable

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_Found = OutboxQueue[Any] | BlockingOutbox

_TASKS: Final[set[asyncio.Task[Any]]] = set()
"""A loop keeps no task alive by itself."""

_HELP: Final = """\
%outbox [status]                 counts, age, size, where it lies, what needs a person
%outbox list [--status S] [-n N] the entries that wait, oldest first, without their items
%outbox show ID                  one entry: why it is not sent, and what happened to it
%outbox drain [SEND] [options]   send what is queued, once, by the function SEND (or `send`)
                                 --limit N, --timeout S, --concurrency N, --batch-size N, --rate N, --max-attempts N
%outbox retry ID...              queue these failed entries again; --all: every one; --reset-attempts: count from 0
%outbox use NAME                 of several outboxes in this notebook, the one meant from now on
%outbox help                     this

Every command takes --queue NAME. Quotes keep an id with spaces together, and {name} puts in a variable.
A BlockingOutbox answers at once. With an async queue, show, drain and retry go on when the cell has ended and show the
answer under it; `done = %outbox drain` and then `await done` in another line waits for it."""


class Text(str):
    """Text that a notebook shows as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The text."""
        return str(self)


class Later:
    """The answer of a command to an async queue: await it, or see it under the cell when it is there.

    The command runs as a task of the notebook's loop, which gets to it when the cell awaits something or has ended; a
    command that was given before comes first.
    """

    def __init__(self, command: str, work: Coroutine[Any, Any, object], before: Later | None) -> None:
        self._command = command
        self._display_id = uuid4().hex
        self._task = asyncio.get_running_loop().create_task(_after(before, work))
        _TASKS.add(self._task)
        self._show(Text(f"{command}: under way, on when this cell has ended"), update=False)
        self._task.add_done_callback(self._done)

    def __await__(self) -> Generator[Any, None, object]:
        return self._task.__await__()

    async def over(self) -> None:
        """Returns when it is done, however it ended."""
        if not self._task.done():
            await asyncio.wait([self._task])

    def __repr__(self) -> str:
        state = "under way" if not self._task.done() else "done"
        return f"<%outbox {self._command}: {state}>"

    def _ipython_display_(self) -> None:
        """Nothing: it is under the cell already, and is brought up to date there."""

    def _done(self, task: asyncio.Task[object]) -> None:
        _TASKS.discard(task)
        if task.cancelled():
            answer: object = Text(f"{self._command}: was cancelled")
        elif (error := task.exception()) is not None:
            answer = Text(printable(f"{self._command} failed: {': '.join(filter(None, describe(error)))}"))
        else:
            answer = task.result()
        self._show(answer, update=True)

    def _show(self, answer: object, *, update: bool) -> None:
        from IPython.display import display

        data = {"text/plain": repr(answer)}
        draw = getattr(answer, "_repr_html_", None)
        if draw is not None:
            data["text/html"] = draw()
        display(data, raw=True, display_id=self._display_id, update=update)  # type: ignore[no-untyped-call]


class Commands:
    """What `%outbox` does, for one shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._used: str | None = None
        self._last: Later | None = None
        self._threads = Threads()

    def __call__(self, line: str) -> object:
        """The answer to a line; what it displays is up to the notebook.

        Raises:
            UsageError: the line is not understood, or does not say which outbox.
        """
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise _usage(f"{error} in {line!r}") from None
        told = _parser().parse_args(words or ["status"])
        command: Callable[[argparse.Namespace], object] = getattr(self, f"_{told.command}")
        return command(told)

    def _help(self, _: argparse.Namespace) -> Text:
        return Text(_HELP)

    def _use(self, told: argparse.Namespace) -> Text:
        name, _ = self._find(told.name)
        self._used = name
        return Text(f"%outbox means {name}")

    def _status(self, told: argparse.Namespace) -> object:
        return self._ask(told, _status)

    def _list(self, told: argparse.Namespace) -> object:
        return self._ask(told, lambda queue: _list(queue, told.limit, told.status))

    def _show(self, told: argparse.Namespace) -> object:
        return self._ask(told, lambda queue: _show(queue, told.id))

    def _retry(self, told: argparse.Namespace) -> object:
        if bool(told.id) == told.all:
            raise _usage("retry takes ids, or --all")
        return self._ask(told, lambda queue: _retry(queue, told.id, reset_attempts=told.reset_attempts))

    def _drain(self, told: argparse.Namespace) -> object:
        send = self._shell.user_ns.get(told.send)
        if not callable(send):
            what = "there is no function" if send is None else f"it is a {type(send).__name__}, no function:"
            raise _usage(f"{what} {told.send!r} in this notebook to send with; name it: %outbox drain SEND")
        names = ("limit", "timeout", "concurrency", "batch_size", "rate", "max_attempts")
        options: dict[str, Any] = {name: value for name in names if (value := getattr(told, name)) is not None}
        _, found = self._find(told.queue)
        try:
            if isinstance(found, BlockingOutbox):
                return found.drain(send, **options)
            if not is_async(send):
                # The notebook's loop must not stand still meanwhile.
                check_number("timeout", told.timeout, "seconds")
                send = InThread(send, self._threads, options.pop("timeout", None), None)
            return self._ask(told, lambda queue: drain_outbox(queue, send, **options))
        except (ValueError, TypeError) as error:
            raise _usage(str(error)) from error

    def _ask(self, told: argparse.Namespace, work: Callable[[OutboxQueue[Any]], Coroutine[Any, Any, object]]) -> object:
        """The answer, at once or later."""
        _, found = self._find(told.queue)
        if isinstance(found, BlockingOutbox):
            return found.run(work(found.queue))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise _usage("no event loop runs here to do this on; in this shell, use a BlockingOutbox") from None
        self._last = Later(told.command, work(found), self._last)
        return self._last

    def _find(self, named: str | None) -> tuple[str, _Found]:
        """The outbox that is meant, and its name."""
        name = named or self._used
        there = self._shell.user_ns
        if name is not None:
            thing = there.get(name)
            if isinstance(thing, OutboxQueue | BlockingOutbox):
                return name, thing
            what = "nothing of that name" if thing is None else f"a {type(thing).__name__}, no outbox"
            raise _usage(f"{name}: {what} in this notebook")
        found = _outboxes(there)
        if len(found) == 1:
            return next(iter(found.items()))
        if not found:
            raise _usage("there is no open outbox in this notebook; make one: outbox = BlockingOutbox('me')")
        raise _usage(f"which one of {', '.join(sorted(found))}? Say it with --queue NAME, or once: %outbox use NAME")


class _Parser(argparse.ArgumentParser):
    """Raises where the one of the library ends the program."""

    def error(self, message: str) -> NoReturn:
        raise _usage(f"{message} (%outbox help)")


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """What ``%load_ext starfish_outbox`` calls."""
    commands = Commands(ipython)

    def outbox(line: str) -> object:
        return commands(line)

    outbox.__doc__ = _HELP
    register: Any = ipython.register_magic_function  # its type is that of a function that is no method
    register(outbox, magic_kind="line", magic_name="outbox")


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """What ``%unload_ext starfish_outbox`` calls."""
    ipython.magics_manager.magics["line"].pop("outbox", None)


def _parser() -> _Parser:
    parser = _Parser(prog="%outbox", add_help=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    shared = _Parser(add_help=False)
    shared.add_argument("--queue", "-q")

    def command(name: str) -> _Parser:
        return commands.add_parser(name, add_help=False, parents=[shared])

    command("help")
    command("status")
    listing = command("list")
    listing.add_argument("--status", choices=(QUEUED, SENDING, FAILED))
    listing.add_argument("--limit", "-n", type=_count, default=20)
    command("show").add_argument("id")
    drain = command("drain")
    drain.add_argument("send", nargs="?", default="send")
    for option in ("--limit", "--concurrency", "--batch-size", "--max-attempts"):
        drain.add_argument(option, type=_count)
    for option in ("--timeout", "--rate"):
        drain.add_argument(option, type=float)
    retry = command("retry")
    retry.add_argument("id", nargs="*")
    retry.add_argument("--all", action="store_true")
    retry.add_argument("--reset-attempts", action="store_true")
    command("use").add_argument("name")
    return parser


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return number


def _usage(message: str) -> Exception:
    """The error that IPython shows in one line, without a traceback."""
    from IPython.core.error import UsageError

    return UsageError(message)


def _outboxes(namespace: dict[str, Any]) -> dict[str, _Found]:
    """What is open in a notebook, each under its first name; a queue inside a blocking outbox is no second one."""
    found: dict[str, _Found] = {}
    for name, thing in list(namespace.items()):
        if name.startswith("_") or any(thing is one for one in found.values()):  # a frame's == is no truth value
            continue
        if (isinstance(thing, BlockingOutbox) and not thing.closed) or (
            isinstance(thing, OutboxQueue) and thing.status().key is not None
        ):
            found[name] = thing
    inside = [thing.queue for thing in found.values() if isinstance(thing, BlockingOutbox)]
    return {name: thing for name, thing in found.items() if thing not in inside}


async def _after(before: Later | None, work: Coroutine[Any, Any, object]) -> object:
    try:
        if before is not None:
            await before.over()
    except asyncio.CancelledError:
        work.close()
        raise
    return await work


async def _status(queue: OutboxQueue[Any]) -> object:
    await queue.refresh()  # another kernel may have drained meanwhile
    return queue.status()


async def _list(queue: OutboxQueue[Any], limit: int | None, status: str | None) -> Text:
    await queue.refresh()
    entries = queue.page(0, limit, status=status)
    if not entries:
        return Text(f"no entry {'waits' if status is None else f'is {status}'}")
    rows = [("id", "status", "attempts", "enqueued", "last error")]
    for entry in entries:
        error = "" if entry.last_error is None else f"{entry.last_error.type}: {entry.last_error.message}"
        when = moment(entry.enqueued_at)
        rows.append((printable(entry.id), printable(entry.status), str(entry.attempts), when, printable(error)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(word.ljust(width) for word, width in zip(row[:4], widths, strict=True)), row[4]]).rstrip()
        for row in rows
    ]
    return Text("\n".join(lines))


async def _show(queue: OutboxQueue[Any], id: str) -> Text:
    told = await queue.explain(id)
    history = await queue.history(id)
    return Text("\n".join([printable(str(told)), *(printable(str(event)) for event in history)]))


async def _retry(queue: OutboxQueue[Any], ids: Sequence[str], *, reset_attempts: bool) -> Text:
    """Without ids: every failed entry."""
    await queue.refresh()
    if not ids:
        ids = [entry.id for entry in queue.page(0, None, status=FAILED)]
    retried, words = 0, []
    for id in dict.fromkeys(ids):
        told = await queue.explain(id)
        if told.situation in ("failed", "foreign"):
            await queue.retry(id, reset_attempts=reset_attempts)
            retried += 1
        else:
            words.append(printable(str(told)))
    return Text("\n".join([f"{counted(retried, 'entry', 'entries')} queued again", *words]))
