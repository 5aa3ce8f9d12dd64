"""The process that collects: each row of a CSV into the outbox, as a scientist's cells would do it, run again and all.

It prints what was acknowledged, one line a row, as soon as the outbox said so:

- ``stored N``: row N (from 0) was added; the outbox says that it would survive a power cut;
- ``known N``: its id is in the outbox already, so it was refused;
- ``pass {"sent": …, "failed": …, "stopped": …}``: it tried to drain.

A kill at any point loses nothing that was printed. Run again with the same arguments it adds what is not there yet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from starfish_outbox import OutboxError, OutboxQueue, drain_outbox, open_outbox
from starfish_outbox.demo.survey import NOT_AVAILABLE, SurveyError, item, read_survey
from starfish_outbox.senders import HttpSender, http_post

STEPS: Final = 400
"""A file of more rows is collected in about this many steps, each one commit; a smaller one row by row."""

BURST: Final = 8
"""Steps between two rests: somebody observes a nest, then walks on."""


async def collect(options: argparse.Namespace) -> None:
    """Collects the whole file, trying to drain after the first burst and at the end.

    Raises:
        SurveyError: the file cannot be used.
        OutboxError: the outbox refuses a row, or cannot be written.
    """
    survey = read_survey(options.csv, options.id)
    rows = list(enumerate(survey.observations))
    size = max(1, len(rows) // STEPS)
    rest = options.seconds * size * BURST / len(rows)
    async with open_outbox(options.identity, options.outbox) as queue, loopback_post(options.url) as send:
        for step, start in enumerate(range(0, len(rows), size)):
            some = rows[start : start + size]
            pairs = [(one.id, item(one, options.na)) for _, one in some]
            # A cell of a notebook would say enqueue; a file of many rows shares one commit among some of them.
            added = [await queue.enqueue(*pairs[0])] if size == 1 else await queue.enqueue_many(pairs)
            say("".join(f"{'stored' if new else 'known'} {n}\n" for (n, _), new in zip(some, added, strict=True)))
            if step == BURST - 1:
                await try_to_drain(queue, send)
            if step % BURST == BURST - 1:
                await asyncio.sleep(rest)
        await try_to_drain(queue, send)


@asynccontextmanager
async def loopback_post(url: str) -> AsyncIterator[HttpSender]:
    """A sender to a URL on this machine, past any proxy that the environment names for the rest of the world."""
    import httpx

    async with httpx.AsyncClient(trust_env=False) as client, http_post(url, client=client, timeout=10) as send:
        yield send


async def try_to_drain(queue: OutboxQueue[Any], send: HttpSender) -> None:
    """One pass, whatever the network does, and a line about it."""
    result = await drain_outbox(queue, send)
    say(f"pass {json.dumps({'sent': result.sent, 'failed': result.failed, 'stopped': result.stopped})}\n")


def say(lines: str) -> None:
    """Puts whole lines into the pipe at once."""
    sys.stdout.write(lines)
    sys.stdout.flush()


def main() -> int:
    """The command line of the collector; 0 when everything was acknowledged."""
    parser = argparse.ArgumentParser(prog="python -m starfish_outbox.demo.collect", description=__doc__)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--id", required=True, help="the columns that name a row")
    parser.add_argument("--na", type=json.loads, default=list(NOT_AVAILABLE), help="a JSON list of marks")
    parser.add_argument("--outbox", type=Path, required=True)
    parser.add_argument("--identity", required=True)
    parser.add_argument("--url", required=True, help="where it tries to drain to")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long to rest in all between bursts")
    try:
        asyncio.run(collect(parser.parse_args()))
    except (SurveyError, OutboxError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
