"""The default rule on chains of causes made by hand, what another rule may answer, and the words that are kept."""

from __future__ import annotations

import errno
import itertools
import socket
import ssl
from typing import Any

import httpx
import pytest

from starfish_outbox.errors import (
    AuthNeededError,
    BusyError,
    ConflictError,
    OfflineError,
    RejectedError,
    SendError,
    UnackedError,
)
from starfish_outbox.outcomes import MAX_MESSAGE, Outcome, classify, describe, outcome_of

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")


def raised(*links: BaseException) -> Exception:
    """The first exception, raised because of the second, raised because of the third, and so on."""
    for outer, inner in itertools.pairwise(links):
        outer.__cause__ = inner
    assert isinstance(links[0], Exception)
    return links[0]


def caught_from(outer: Exception, inner: Exception) -> Exception:
    """The outer exception as an ``except`` block raises it while handling the inner one."""
    with pytest.raises(type(outer)) as caught:  # noqa: PT012  # it is the raising that makes the context
        try:
            raise inner
        except type(inner):
            raise outer  # noqa: B904  # the implicit context is what is tested
    return caught.value


def hidden_from(outer: Exception, inner: Exception) -> Exception:
    with pytest.raises(type(outer)) as caught:  # noqa: PT012  # as above
        try:
            raise inner
        except type(inner):
            raise outer from None
    return caught.value


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENETUNREACH, "no route"), OfflineError),
        (OSError(errno.EHOSTUNREACH, "no route"), OfflineError),
        (OSError(errno.ENETDOWN, "down"), OfflineError),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), OfflineError),
        (ConnectionRefusedError(), OfflineError),
        (ssl.SSLCertVerificationError("self-signed"), OfflineError),
        (ConnectionResetError(), UnackedError),
        (BrokenPipeError(), UnackedError),
        (ConnectionAbortedError(), UnackedError),
        (TimeoutError(), UnackedError),
        (OSError(errno.ETIMEDOUT, "timed out"), UnackedError),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), something else"), OfflineError),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 13] denied"), None),
        (OSError(errno.ENOSPC, "disk full"), None),
        (ValueError("bad"), None),
        (raised(RuntimeError("send failed"), ValueError("x"), ConnectionRefusedError()), OfflineError),
        (caught_from(KeyError("x"), socket.gaierror(-2, "no name")), OfflineError),
        (hidden_from(KeyError("x"), ConnectionRefusedError()), None),
        (hidden_from(KeyError("x"), TimeoutError()), None),
    ],
    ids=repr,
)
def test_the_chain_of_causes_decides(error: Exception, expected: type[SendError] | None) -> None:
    assert classify(error) is expected


def test_a_second_try_that_was_refused_does_not_unsay_a_first_that_may_have_arrived() -> None:
    assert classify(caught_from(ConnectionRefusedError(), ConnectionResetError())) is UnackedError
    assert classify(caught_from(ConnectionResetError(), ConnectionRefusedError())) is UnackedError
    assert classify(caught_from(httpx.ConnectTimeout("t"), httpx.ReadTimeout("t"))) is UnackedError


def test_a_reset_or_a_silence_while_connecting_is_offline_by_the_class_above_it() -> None:
    assert classify(raised(httpx.ConnectError("tls"), ConnectionResetError())) is OfflineError
    assert classify(raised(httpx.ConnectTimeout("t"), TimeoutError())) is OfflineError
    assert classify(raised(httpx.ReadError("gone"), OSError(errno.EHOSTUNREACH, "no route"))) is UnackedError
    # The second TimeoutError belongs to an earlier try, which nothing explains.
    assert classify(raised(httpx.ConnectTimeout("t"), TimeoutError(), TimeoutError())) is UnackedError


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([ConnectionRefusedError(), OSError(errno.ENETUNREACH, "")], OfflineError),
        ([REFUSED, REFUSED], OfflineError),
        ([ConnectionRefusedError(), TimeoutError()], UnackedError),
        ([ConnectionRefusedError(), ValueError()], None),
        ([ValueError(), KeyError()], None),
        ([BusyError("later")], BusyError),
        ([RejectedError("no"), OfflineError("gone")], None),
        ([OfflineError("gone")], OfflineError),
        ([ValueError(), UnackedError("?")], UnackedError),
        ([ExceptionGroup("inner", [ConnectionRefusedError()])], OfflineError),
    ],
    ids=repr,
)
def test_a_group_is_offline_only_when_every_member_is(
    members: list[Exception], expected: type[SendError] | None
) -> None:
    assert classify(ExceptionGroup("tasks", members)) is expected
    if expected in (OfflineError, UnackedError, None):
        assert classify(raised(RuntimeError("wrapped"), ExceptionGroup("tasks", members))) is expected


def test_members_that_share_one_cause_are_both_offline() -> None:
    members = [raised(RuntimeError(n), REFUSED) for n in "ab"]
    assert classify(ExceptionGroup("tasks", members)) is OfflineError


def test_a_chain_that_runs_in_a_circle_ends() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert classify(first) is None
    assert describe(first) == ("RuntimeError", "a")
    silent = RuntimeError()
    silent.__context__ = group = ExceptionGroup("g", [silent, ConnectionRefusedError()])
    group.__context__ = silent
    assert classify(silent) is None
    assert describe(silent) == ("RuntimeError", "g (2 sub-exceptions)")


def test_a_chain_of_fifty_thousand_exceptions_is_walked_without_recursion() -> None:
    links: list[BaseException] = [RuntimeError(str(n)) for n in range(50_000)]
    assert classify(raised(*links, ConnectionRefusedError())) is OfflineError
    for link in links:
        link.__cause__ = None  # so that freeing them does not recurse


@pytest.mark.parametrize(
    ("error", "kind", "outcome"),
    [
        (OfflineError("x"), OfflineError, "offline"),
        (UnackedError("x"), UnackedError, "unacked"),
        (BusyError("x", 3.0), BusyError, "busy"),
        (AuthNeededError("x"), AuthNeededError, "auth"),
        (RejectedError("x"), RejectedError, "rejected"),
        (ConflictError("x"), ConflictError, "rejected"),
        (SendError("x"), None, "attempt"),
        (ValueError("x"), None, "attempt"),
    ],
    ids=repr,
)
def test_a_send_error_says_it_itself(error: Exception, kind: type[SendError] | None, outcome: Outcome) -> None:
    error.__context__ = ConnectionRefusedError() if outcome != "attempt" else None
    assert classify(error) is kind
    assert outcome_of(error) == outcome


def test_a_rule_of_the_users_replaces_the_default_and_can_delegate_to_it() -> None:
    class TokenExpiredError(Exception): ...

    def mine(error: Exception) -> type[SendError] | None:
        return AuthNeededError if isinstance(error, TokenExpiredError) else classify(error)

    assert outcome_of(TokenExpiredError(), mine) == "auth"
    assert outcome_of(ConnectionRefusedError(), mine) == "offline"
    assert outcome_of(ConnectionRefusedError(), lambda _: None) == "attempt"
    assert outcome_of(OfflineError("x"), lambda _: None) == "offline"


@pytest.mark.parametrize("answer", [ValueError, "offline", OfflineError("x"), 1])
def test_a_rule_that_answers_something_else_is_told_so(answer: Any) -> None:
    with pytest.raises(TypeError, match="classify must answer a SendError class or None"):
        outcome_of(ValueError(), lambda _: answer)


def test_what_is_kept_of_an_error_is_its_class_and_at_most_500_characters() -> None:
    assert describe(ValueError("no such site")) == ("ValueError", "no such site")
    name, message = describe(ValueError("é" * 2000))
    assert (name, len(message)) == ("ValueError", MAX_MESSAGE)
    assert MAX_MESSAGE == 500


def test_an_error_without_words_borrows_those_of_its_cause_and_a_group_of_one_is_its_member() -> None:
    assert describe(raised(httpx.ReadError(""), OSError(104, "reset by peer"))) == (
        "ReadError",
        "[Errno 104] reset by peer",
    )
    assert describe(TimeoutError()) == ("TimeoutError", "")
    assert describe(ExceptionGroup("g", [ExceptionGroup("h", [ValueError("x")])])) == ("ValueError", "x")


def test_an_error_whose_str_fails_is_still_described() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert describe(BrokenError()) == ("BrokenError", "")
