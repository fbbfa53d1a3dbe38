"""Failures of the Hub: which pass, how long to wait for that, and what to tell of the others.

First of `remote`; `target`, `push` and `download` make their requests through it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from dd_plugin.text import described, without_secrets

T = TypeVar("T")

# Seconds before the second attempt, the third, and so on.
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
# 409 and 412: somebody else has written meanwhile. The others: too much to do, or down.
_PASSING = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
# The client's library for HTTP has been httpx and httpx2; its base class is at the same place.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


class DamagedAnswerError(Exception):
    """The Hub's answer is JSON, and something that belongs into it is missing."""


NETWORK_ERRORS = (_HTTP_ERROR, OfflineModeIsEnabled, json.JSONDecodeError, DamagedAnswerError)
# What the client raises when it looks for something in an answer that is not there.
_OF_A_DAMAGED_ANSWER = (AttributeError, LookupError, TypeError)


class PushError(RuntimeError):
    """A distilled set could not be pushed: what was wrong, and what to do about it."""


def passes(error: BaseException) -> bool:
    """Return whether a failed request may well succeed if it is tried again."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING
    return isinstance(error, (_HTTP_ERROR, json.JSONDecodeError, DamagedAnswerError))


def wanted_wait(error: BaseException) -> float:
    """Return the seconds that the Hub asks to wait for, or 0."""
    response = getattr(error, "response", None)
    said = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(said), 300.0) if said.isdigit() else 0.0


def understood(call: Callable[[], T]) -> T:
    """Return the answer to a request of the client.

    Raises:
        DamagedAnswerError: the answer lacks what the client looks for in it.
    """
    try:
        return call()
    except _OF_A_DAMAGED_ANSWER as error:
        raise DamagedAnswerError(described(error)) from error


def patiently(call: Callable[[], T], sleep: Callable[[float], object]) -> T:
    """Return the answer to a request, repeated while it fails for a reason that passes.

    The request changes nothing, or the same when it is repeated.
    """
    for wait in WAITS:
        try:
            return understood(call)
        except NETWORK_ERRORS as error:
            if not passes(error):
                raise
            sleep(max(wait, wanted_wait(error)))
    return understood(call)


@contextmanager
def told(repo_id: str) -> Iterator[None]:
    """Raise the Hub's refusals and the network's failures as a `PushError`."""
    try:
        yield
    except NETWORK_ERRORS as error:
        raise PushError(_explained(error, repo_id)) from error


def _explained(error: Exception, repo_id: str) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return (
            f"the Hub does not accept the token ({said(error)}); run `hf auth login`, or give one "
            "that is valid"
        )
    if status in (403, 404):
        return (
            f"the Hub does not let this token write to {repo_id} ({said(error)}); use one that "
            "may, or `create_pr`"
        )
    again = f"push again later with `dd-plugin push FOLDER {repo_id}`: what has arrived stays"
    if status is not None:
        return f"the Hub answered {status} for {repo_id} ({said(error)}); {again}"
    if isinstance(error, json.JSONDecodeError):
        return f"the Hub gave an answer that is not JSON; {again}"
    if isinstance(error, DamagedAnswerError):
        return f"the Hub gave an answer that is incomplete ({error}); {again}"
    reason = without_secrets(f"{type(error).__name__}: {error}")
    return f"the Hub could not be reached ({reason}); {again}"


def said(error: BaseException) -> str:
    """Return the Hub's words about a refusal, on one line, without signed addresses."""
    message = getattr(error, "server_message", None) or str(error)
    # A gateway says it in a page of HTML.
    words = " ".join(re.sub(r"<[^>]*>", " ", without_secrets(str(message))).split())
    return words if len(words) <= 300 else f"{words[:300]} ..."
