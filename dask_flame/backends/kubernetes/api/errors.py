"""What the Kubernetes API says when it refuses, or cannot be reached; pure (driver)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import httpx

#: What the server says when it is not to blame, nor what was asked: try again.
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
#: ... and parts of what it says then, whatever the status.
_PASSING = ("status unknown for quota", "not yet ready to handle request")
#: Parts of refusals that have nothing to do with who asks.
_DECIDED = ("exceeded quota", "failed quota", "violates PodSecurity", "denied the request")


class KubernetesError(Exception):
    """The API server has refused, or could not be reached.

    Attributes
    ----------
    code : int
        The HTTP status; 0 where there was none.
    reason : str
        In one word: ``"NotFound"``, ``"Forbidden"``, ….
    message : str
        In the server's own words.
    wait : float
        Seconds that the server asks for before it is tried again.
    unsure : bool
        Whether what was asked for may have been done all the same.
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
        """Whether the same request may be granted a moment later."""
        return (
            self.code in _AGAIN
            # As with a quota that many requests count against at a time.
            or self.reason == "Conflict"
            or any(sign in self.message for sign in _PASSING)
        )

    @property
    def decided(self) -> bool:
        """Whether this is the answer of a server that is ready.

        One that has just come back may refuse for some seconds what it allows otherwise: until it
        has read who may do what, it takes everybody for nobody.
        """
        return self.code not in (401, 403) or any(sign in self.message for sign in _DECIDED)


def said(response: httpx.Response) -> KubernetesError:
    """What a response says that refuses."""
    try:
        error = stated(response.json())
    except httpx.StreamError:
        # Where there was to be a WebSocket, it may be closed already.
        words = f"answered with {response.status_code} {response.reason_phrase}"
        error = KubernetesError(0, response.reason_phrase, words)
    except ValueError:
        error = KubernetesError(0, response.reason_phrase, response.text[:500])
    error.code = response.status_code
    with contextlib.suppress(KeyError, ValueError):
        error.wait = float(response.headers["Retry-After"])
    return error


def stated(status: Mapping[str, Any]) -> KubernetesError:
    """What a Status object says that refuses."""
    return KubernetesError(
        int(status.get("code") or 0), status.get("reason") or "", status.get("message") or "refused"
    )


def worded(error: BaseException) -> str:
    """What went wrong; httpx's errors may be empty. None of them holds a header, or a token."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")
