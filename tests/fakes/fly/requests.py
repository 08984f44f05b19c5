"""What the fake Fly API was asked, and what it is to answer with errors (test process)."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes import http_server
from tests.fakes.fly.errors import Refused, no_capacity, rate_limited, unauthenticated


@dataclass
class Request:
    """One request. Its repr shows neither the token nor the body, which may hold secrets.

    Attributes
    ----------
    method, path : str
        As sent; the path without its query.
    query : mapping of str to str
    action : str
        ``"create"``, ``"get"``, ``"list"``, ``"update"``, ``"start"``, ``"stop"``, ``"delete"``,
        ``"wait"``, ``"exec"``, ``"metadata-set"``, …
    app, machine : str
        Empty where the path names none.
    body : object
        The decoded JSON.
    time : float
        When it came, in seconds of ``time.monotonic``.
    status : int or None
        Of the answer. None while there is none, and where the connection was cut instead.
    error : str
        The text of a refusal.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    action: str = ""
    app: str = ""
    machine: str = ""
    body: Any = field(default=None, repr=False)
    time: float = 0.0
    status: int | None = None
    error: str = ""


class Requests(list[Request]):
    """All requests, in order."""

    def by_action(self) -> Counter[str]:
        """Return how many requests of each action there were."""
        return Counter(request.action for request in self)

    def of(self, action: str, *, status: int | None = None) -> list[Request]:
        """Return the requests of an action, a pattern perhaps, and of a status if it is given."""
        return [
            request
            for request in self
            if fnmatch.fnmatch(request.action, action) and status in (None, request.status)
        ]


_TEXTS = {
    408: "deadline_exceeded: request took too long",
    409: "aborted: machine update failed due to concurrent update",
    422: "unprocessable entity",
    500: "internal: unknown error",
    502: "bad gateway",
    503: "unavailable: the service is currently unavailable",
    504: "upstream request timeout",
}


class Fault(http_server.Fault[Request]):
    """How the next requests that match are answered: ``"create"``, ``"st*"``, ``"*"``, …"""

    def _fits(self, request: Request, pattern: str) -> bool:
        return fnmatch.fnmatch(request.action, pattern)

    def refusal(self) -> Refused:
        """Return the answer."""
        assert self.status is not None
        if self.status == 429:
            return rate_limited(self.retry_after)
        if self.status == 401:
            return unauthenticated()
        if self.status == 412:
            return no_capacity("any")
        headers = {} if self.retry_after is None else {"Retry_After": f"{self.retry_after:g}"}
        return Refused(self.status, _TEXTS.get(self.status, "internal: unknown error"), **headers)
