"""What the fake API server was asked, and what it is to answer with errors (test process)."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes import http_server
from tests.fakes.kubernetes.errors import Refused


@dataclass
class Request:
    """One request.

    Attributes
    ----------
    method, path : str
        As sent; the path without its query.
    query : mapping of str to str
    verb : str
        Kubernetes' word for it: ``"get"``, ``"list"``, ``"watch"``, …; for paths that belong to
        no resource, the method in small letters.
    resource : str
        ``"pods"``, ``"pods/log"``, ``"jobs"``; empty for paths that belong to none.
    user : str
    time : float
        When it came, in seconds of ``time.monotonic``.
    status : int or None
        Of the answer; None while there is none, and where the connection was cut instead.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    verb: str = ""
    resource: str = ""
    user: str = ""
    time: float = 0.0
    status: int | None = None


class Requests(list[Request]):
    """All requests, in order."""

    def by_verb(self) -> Counter[tuple[str, str]]:
        """How many there were of each verb and resource.

        Examples
        --------
        >>> Requests([Request("GET", "/api/v1/pods", verb="list", resource="pods")]).by_verb()
        Counter({('list', 'pods'): 1})
        """
        return Counter((request.verb, request.resource) for request in self)

    def count(self, verb: str, resource: str = "*") -> int:  # type: ignore[override]
        """How many there were of a verb, and of a resource if it is named."""
        return sum(r.verb == verb and fnmatch.fnmatch(r.resource, resource) for r in self)


class Fault(http_server.Fault[Request]):
    """How the next requests that match are answered: ``"create pods"``, ``"* jobs"``, …"""

    def _fits(self, request: Request, pattern: str) -> bool:
        verb, _, resource = pattern.partition(" ")
        return fnmatch.fnmatch(request.verb, verb) and fnmatch.fnmatch(
            request.resource, resource or "*"
        )

    def refusal(self) -> Refused:
        """The answer, in the words of a server that has too much to do, or is not well."""
        details: dict[str, Any] = {}
        if self.retry_after is not None:
            details["retryAfterSeconds"] = self.retry_after
        text = {
            429: "Too many requests, please try again later.",
            500: "Internal error occurred: etcdserver: request timed out",
            503: "the server is currently unable to handle the request",
            504: "Timeout: request did not complete within the allotted timeout",
        }
        assert self.status is not None
        reason = {504: "Timeout"}.get(self.status)
        message = text.get(self.status, "the server is not well")
        return Refused(self.status, message, reason=reason, **details)
