"""Refusals of the fake Fly API, in the words of the real one if known (test process)."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """An answer other than 2xx.

    Parameters
    ----------
    status : int
        The HTTP status.
    error : str
        The text of the field ``error``.
    code : str, optional
        The field ``status``; ``"insufficient_capacity"`` is the only value with a meaning.
    headers : mapping of str to str
    """

    def __init__(self, status: int, error: str, *, code: str | None = None, **headers: str) -> None:
        super().__init__(f"{status} {error}")
        self.status = status
        self.error = error
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def body(self) -> dict[str, Any]:
        """Return the JSON of the answer."""
        return {"error": self.error} | ({"status": self.code} if self.code else {})


def unauthenticated() -> Refused:
    return Refused(401, "unauthenticated: token is invalid or expired")


def rate_limited(retry_after: float | None = None) -> Refused:
    """Return a 429. The real API does not promise a ``Retry-After``."""
    headers = {} if retry_after is None else {"Retry_After": f"{retry_after:g}"}
    return Refused(429, "rate limit exceeded", **headers)


def no_app(name: str) -> Refused:
    return Refused(404, f"app not found: {name}")


def no_machine() -> Refused:
    return Refused(404, "not_found: machine not found")


def invalid(text: str) -> Refused:
    return Refused(400, f"invalid_argument: {text}")


def precondition(text: str) -> Refused:
    return Refused(412, f"failed_precondition: {text}")


def name_taken(machine: str, name: str) -> Refused:
    """Return the refusal of a second machine with the same name in one app."""
    return Refused(
        409,
        f"already_exists: unique machine name violation, machine ID {machine} already exists "
        f'with name "{name}"',
    )


def no_capacity(region: str) -> Refused:
    """Return the refusal of a create for which no host of the region has room."""
    return Refused(
        412,
        f"insufficient resources available to fulfill request in region {region}",
        code="insufficient_capacity",
    )


def no_memory() -> Refused:
    """Return the refusal of a start for which the machine's own host has no room any more."""
    return Refused(
        409,
        "aborted: could not reserve resource for machine: insufficient memory available to "
        "fulfill request",
        code="insufficient_capacity",
    )


def too_many(limit: int) -> Refused:
    """Return the refusal of a machine beyond the organization's limit."""
    return Refused(
        422,
        f"organization machine limit reached: your organization may have {limit} machines, "
        "contact support to raise the limit",
    )


def expired(state: str, current: str) -> Refused:
    """Return the answer of a wait that ran out."""
    return Refused(
        408,
        f"deadline_exceeded: machine failed to reach desired state, {state}, currently {current}",
    )
