"""``drain`` and ``watch``: they send what is queued, and say what became of it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import typer

from starfish_outbox.backoff import Backoff
from starfish_outbox.cli.delivery import OnePass, Watch
from starfish_outbox.cli.frame import IdentityOption, JsonOption, KeyOption, NoColorOption, StoreOption, command
from starfish_outbox.cli.output import Screen
from starfish_outbox.cli.stores import Place, RefusedError, store_at, to_change
from starfish_outbox.cli.target import Target, lane_of

_SOON = 0.001  # seconds; what has to be more than 0
_FAST = 1e6  # a second
_LATE = Backoff.longest  # seconds; an entry that is to wait for longer counts as due: its clock was wrong

ToOption = Annotated[str, typer.Option("--to", metavar="URL", help="Where to post each item.", show_default=False)]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="K:V",
        help="A header for every request, such as a token; @FILE reads one a line, out of sight of other users. "
        "May be repeated.",
    ),
]
ConcurrencyOption = Annotated[
    int, typer.Option("--concurrency", metavar="N", min=1, max=100, help="Sends under way at a time at most.")
]
RateOption = Annotated[
    float | None,
    typer.Option("--rate", metavar="N", min=_SOON, max=_FAST, help="Entries a second at most; no limit by default."),
]
LaneOption = Annotated[
    str | None,
    typer.Option(
        "--lane",
        metavar="MEMBER",
        help="Entries whose items say the same in this member follow one another, and none overtakes one that did not "
        "get through, whatever the concurrency. A name, or a JSON Pointer such as /place/site; entries without it are "
        "one lane too.",
    ),
]
OnParkedOption = Annotated[
    Literal["free", "hold"],
    typer.Option(
        "--on-parked",
        metavar="free|hold",
        help="Whether an entry that is parked as failed lets the rest of its lane go, or holds it until a person "
        "decides. By default free.",
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        max=10_000,
        help='Post up to so many entries at once, as a JSON array of {"id": …, "item": …}, to a server that knows '
        "repeats by these ids. An array that it refuses is halved until what it cannot take is found.",
    ),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=_SOON, max=_LATE, help="Seconds to wait for each answer.")
]
MaxAttemptsOption = Annotated[
    int,
    typer.Option(
        "--max-attempts", metavar="N", min=1, help="Failed attempts after which an entry is parked as failed."
    ),
]
BackoffOption = Annotated[
    float,
    typer.Option(
        "--backoff",
        metavar="SECONDS",
        min=_SOON,
        max=_LATE,
        help="An entry whose attempt failed is left alone for up to so long, each time up to twice as long, by this "
        "and any later run.",
    ),
]
BackoffCapOption = Annotated[
    float,
    typer.Option(
        "--backoff-cap", metavar="SECONDS", min=_SOON, max=_LATE, help="But never longer than this by our own doing."
    ),
]
ReceiptsOption = Annotated[
    bool,
    typer.Option("--receipts", help="Keep what the server answered (databases only); `show` tells it."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    command(app, "drain")(drain)
    command(app, "watch")(watch)


def drain(
    to: ToOption,
    *,
    header: HeaderOption = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Entries to take at most.")] = None,
    concurrency: ConcurrencyOption = 1,
    rate: RateOption = None,
    lane: LaneOption = None,
    on_parked: OnParkedOption = "free",
    batch_size: BatchSizeOption = None,
    timeout: TimeoutOption = 30.0,
    max_attempts: MaxAttemptsOption = 5,
    backoff: BackoffOption = 1.0,
    backoff_cap: BackoffCapOption = 300.0,
    now: Annotated[
        bool,
        typer.Option("--now", help="Try entries that are not due yet too, even where the server asked to wait."),
    ] = False,
    receipts: ReceiptsOption = False,
    store: StoreOption = None,
    identity: IdentityOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Send what is queued to an HTTP endpoint: one POST an entry, its item as JSON, its id as Idempotency-Key.

    One pass, oldest first. An endpoint that is out of reach or busy, or that wants other credentials, ends the pass and
    costs no attempt; an answer that refuses an entry parks it as failed. Ctrl-C puts the entries that are on their way
    back, marked as maybe sent. At the end it says what is left, by reason.
    """
    screen = Screen(as_json=as_json, no_color=no_color)
    place = to_change(store_at(store), identity, key)
    target = Target(to, header or [], timeout)
    options = _options(
        place,
        concurrency=concurrency,
        rate=rate,
        lane=lane,
        on_parked=on_parked,
        batch_size=batch_size,
        timeout=timeout,
        max_attempts=max_attempts,
        backoff=None if now else _backoff(backoff, backoff_cap),
        receipts=receipts,
    )
    delivery = OnePass(screen, place, target, options)
    asyncio.run(delivery.run(limit))
    return delivery.tell()


def watch(
    to: ToOption,
    *,
    header: HeaderOption = None,
    until_empty: Annotated[
        bool,
        typer.Option("--until-empty", help="End once nothing is left that it could send, or credentials are refused."),
    ] = False,
    interval: Annotated[
        float,
        typer.Option(
            "--interval", metavar="SECONDS", min=_SOON, max=_LATE, help="Look for new entries about this often."
        ),
    ] = 5.0,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe/--no-probe",
            help="While the endpoint is out of reach, find out by a mere connection to its host and port when it is "
            "back; or by sending a single entry, as it is always done behind a proxy.",
        ),
    ] = True,
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive/--no-adaptive",
            help="Go slower after the server asked to wait, and faster again bit by bit; it is left alone in any case "
            "for as long as it asks.",
        ),
    ] = True,
    retry_auth: Annotated[
        float | None,
        typer.Option(
            "--retry-auth",
            metavar="SECONDS",
            min=_SOON,
            max=_LATE,
            help="Where credentials were refused, read the files of --header again after so long and try again; by "
            "default it pauses until it is restarted, since trying on can lock an account.",
        ),
    ] = None,
    concurrency: ConcurrencyOption = 1,
    rate: RateOption = None,
    lane: LaneOption = None,
    on_parked: OnParkedOption = "free",
    batch_size: BatchSizeOption = None,
    timeout: TimeoutOption = 30.0,
    max_attempts: MaxAttemptsOption = 5,
    backoff: BackoffOption = 1.0,
    backoff_cap: BackoffCapOption = 300.0,
    receipts: ReceiptsOption = False,
    store: StoreOption = None,
    identity: IdentityOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Drain, and go on: send what is queued now and whatever is enqueued later, until Ctrl-C.

    It says what it is doing: idle, draining, offline or waiting (and until when), or paused because credentials were
    refused. Being offline costs nothing: it tries again with growing pauses, as it does where a write fails, and a
    server that asks to wait is left alone. Ctrl-C or SIGTERM lets the sends under way end; a second one cuts them off.
    A database may be in use by other programs meanwhile; files belong to this one for as long as it runs.
    """
    screen = Screen(as_json=as_json, no_color=no_color)
    place = to_change(store_at(store), identity, key)
    target = Target(to, header or [], timeout)
    options = _options(
        place,
        concurrency=concurrency,
        rate=rate,
        lane=lane,
        on_parked=on_parked,
        batch_size=batch_size,
        timeout=timeout,
        max_attempts=max_attempts,
        backoff=_backoff(backoff, backoff_cap),
        receipts=receipts,
    )
    delivery = Watch(screen, place, target, options, until_empty=until_empty, retry_auth=retry_auth)
    asyncio.run(delivery.run(interval=interval, probe=probe, adaptive=adaptive))
    return delivery.tell()


def _backoff(base: float, cap: float) -> Backoff:
    if base > cap:
        raise RefusedError(f"--backoff ({base:g}) is longer than --backoff-cap ({cap:g})")
    return Backoff(base, cap)


def _options(
    place: Place,
    *,
    concurrency: int,
    rate: float | None,
    lane: str | None,
    on_parked: str,
    batch_size: int | None,
    timeout: float,
    max_attempts: int,
    backoff: Backoff | None,
    receipts: bool,
) -> dict[str, Any]:
    """What `drain_outbox` and `keep_draining` are told.

    Raises:
        RefusedError: it does not go together.
    """
    if receipts and place.store.kind != "sqlite":
        raise RefusedError("--receipts are kept in the ledger of a database; files have none")
    if receipts and batch_size is not None:
        raise RefusedError("--receipts tell what was answered about one entry, and --batch-size posts many at once")
    if on_parked == "hold" and lane is None:
        raise RefusedError("--on-parked hold is about lanes: give --lane as well")
    return {
        "concurrency": concurrency,
        "rate": rate,
        "lane": None if lane is None else lane_of(lane),
        "on_parked": on_parked,
        "batch_size": batch_size,
        "timeout": timeout if batch_size is None else None,  # halves take their time; each request has its own limit
        "max_attempts": max_attempts,
        "backoff": backoff,
        "receipts": receipts,
    }
