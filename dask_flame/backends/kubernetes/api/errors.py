"""Errors of the Kubernetes API; pure (driver)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import httpx

#: Status codes of temporary errors, which are worth a retry.
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
#: Parts of messages of temporary errors, whatever the status.
_PASSING = ("status unknown for quota", "not yet ready to handle request")
#: Parts of refusals that do not depend on the user.
_DECIDED = ("exceeded quota", "failed quota", "violates PodSecurity", "denied the request")


class KubernetesError(Exception):
    """The API server refused a request, or could not be reached.

    Attributes
    ----------
    code : int
        The HTTP status; 0 if there was no response.
    reason : str
        The kind of error: ``"NotFound"``, ``"Forbidden"``, ….
    message : str
        The server's message.
    wait : float
        Seconds to wait before a retry, as requested by the server.
    unsure : bool
        Whether the request may have taken effect all the same.
    """

    unsure = False

    def __init__(self, code: int, reason: str, message: str, *, wait: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.wait = wait

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return (
            self.code in _AGAIN
            # For example, concurrent requests that count against one quota.
            or self.reason == "Conflict"
            or any(sign in self.message for sign in _PASSING)
        )

    @property
    def decided(self) -> bool:
        """Whether the server was ready when it gave this answer.

        A server that has just started may refuse permitted requests for some seconds, until it has
        read the permissions of its users.
        """
        return self.code not in (401, 403) or any(sign in self.message for sign in _DECIDED)


def response_error(response: httpx.Response) -> KubernetesError:
    """Return the error in a response."""
    try:
        error = status_error(response.json())
    except httpx.StreamError:
        # The response to a failed WebSocket upgrade may already be closed.
        words = f"answered with {response.status_code} {response.reason_phrase}"
        error = KubernetesError(0, response.reason_phrase, words)
    except ValueError:
        error = KubernetesError(0, response.reason_phrase, response.text[:500])
    error.code = response.status_code
    with contextlib.suppress(KeyError, ValueError):
        error.wait = float(response.headers["Retry-After"])
    return error


def status_error(status: Mapping[str, Any]) -> KubernetesError:
    """Return the error in a Status object."""
    return KubernetesError(
        int(status.get("code") or 0), status.get("reason") or "", status.get("message") or "refused"
    )


def error_text(error: BaseException) -> str:
    """Return the text of an error, which httpx may leave empty. It never contains a header."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")
