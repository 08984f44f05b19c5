"""Errors of the Machines API, in its own words and without the token; pure (driver)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping

#: Status codes that say nothing about the request, which is worth a retry.
_AGAIN = frozenset({429, 500, 502, 503, 504})
#: The API's code, and its words in answers without it, for a lack of room.
_NO_ROOM, _NO_ROOM_WORDS = "insufficient_capacity", ("insufficient", "no capacity")
#: Characters of an answer that is no JSON.
_SHOWN = 300


class FlyError(Exception):
    """The Machines API refused a request, or could not be reached.

    Attributes
    ----------
    status : int
        The HTTP status; 0 if there was no answer.
    message : str
        The API's own words.
    code : str
        The API's own code for the kind of error; may be empty.
    retry_after : float
        Seconds to wait before a retry, as the server wants it; 0.0 if it has not said.
    unsure : bool
        Whether the request may have taken effect all the same.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        retry_after: float = 0.0,
        unsure: bool = False,
    ) -> None:
        super().__init__(f"{message} (HTTP {status})" if status else message)
        self.status = status
        self.message = message
        self.code = code
        self.retry_after = retry_after
        self.unsure = unsure

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return not self.status or self.status in _AGAIN

    @property
    def gone(self) -> bool:
        """Whether the machine does not exist."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Whether the machine is in another state than the request needs, or its name is taken."""
        return self.status in (409, 412, 422) and not self.no_capacity

    @property
    def no_capacity(self) -> bool:
        """Whether there is no room for the machine in its region, or on its host."""
        words = self.message.lower()
        return self.code == _NO_ROOM or (
            self.status == 412 and any(sign in words for sign in _NO_ROOM_WORDS)
        )


def answer_error(status: int, text: str, headers: Mapping[str, str]) -> FlyError:
    """Return the error in an answer.

    Parameters
    ----------
    status : int
    text : str
        The body, without secrets.
    headers : mapping
    """
    message, code = text.strip()[:_SHOWN], ""
    with contextlib.suppress(ValueError):
        given = json.loads(text)
        if isinstance(given, Mapping):
            message = str(given.get("error") or given.get("message") or message)[:_SHOWN]
            code = str(given.get("status") or "")
    wait = 0.0
    with contextlib.suppress(KeyError, ValueError):
        wait = max(0.0, float(headers["Retry-After"]))
    return FlyError(
        status,
        message or "no reason given",
        code=code,
        retry_after=wait,
        # A gateway may give up waiting for an answer to a request that is carried out.
        unsure=status >= 500,
    )
