"""The refusals of the fake API server, as Status objects in Kubernetes' words (test process).

Worded as in k8s.io/apimachinery/pkg/api/errors and k8s.io/apimachinery/pkg/util/validation/field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.fakes.kubernetes.kinds import Kind

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


class Refused(Exception):
    """A request that is answered with a Status object of failure."""

    def __init__(
        self, code: int, message: str, *, reason: str | None = None, **details: Any
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason or _REASONS[code]
        self.message = message
        self.details = {key: value for key, value in details.items() if value not in (None, "")}

    @property
    def status(self) -> dict[str, Any]:
        """The Status object."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            status["details"] = self.details
        return status


def bad_request(message: str) -> Refused:
    return Refused(400, message)


def forbidden(kind: Kind, name: str, why: str) -> Refused:
    what = f'{kind.resource} "{name}"' if name else kind.resource
    return Refused(
        403, f"{what} is forbidden: {why}", name=name, group=kind.group, kind=kind.plural
    )


def not_found(kind: Kind, name: str) -> Refused:
    return Refused(
        404, f'{kind.resource} "{name}" not found', name=name, group=kind.group, kind=kind.plural
    )


def no_such_resource() -> Refused:
    return Refused(404, "the server could not find the requested resource")


def not_supported(kind: Kind, action: str) -> Refused:
    return Refused(
        405,
        f'{action} is not supported on resources of kind "{kind.resource}"',
        group=kind.group,
        kind=kind.plural,
    )


def already_exists(kind: Kind, name: str) -> Refused:
    return Refused(
        409,
        f'{kind.resource} "{name}" already exists',
        reason="AlreadyExists",
        name=name,
        group=kind.group,
        kind=kind.plural,
    )


#: Of an update that was made from an object which has changed since.
CHANGED = (
    "the object has been modified; please apply your changes to the latest version and try again"
)


def conflict(kind: Kind, name: str, why: str = CHANGED) -> Refused:
    return Refused(
        409,
        f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}',
        name=name,
        group=kind.group,
        kind=kind.plural,
    )


def expired(message: str) -> Refused:
    return Refused(410, message)


@dataclass(frozen=True)
class Wrong:
    """One field that is not valid."""

    field: str
    type: str
    body: str


def required(field: str, detail: str = "") -> Wrong:
    body = f"Required value: {detail}" if detail else "Required value"
    return Wrong(field, "FieldValueRequired", body)


def invalid_value(field: str, value: Any, detail: str) -> Wrong:
    return Wrong(field, "FieldValueInvalid", f"Invalid value: {json.dumps(value)}: {detail}")


def not_supported_value(field: str, value: str, supported: list[str]) -> Wrong:
    names = ", ".join(f'"{name}"' for name in supported)
    body = f'Unsupported value: "{value}": supported values: {names}'
    return Wrong(field, "FieldValueNotSupported", body)


def not_found_value(field: str, value: str) -> Wrong:
    return Wrong(field, "FieldValueNotFound", f'Not found: "{value}"')


def duplicate_value(field: str, value: str) -> Wrong:
    return Wrong(field, "FieldValueDuplicate", f'Duplicate value: "{value}"')


def forbidden_value(field: str, detail: str) -> Wrong:
    return Wrong(field, "FieldValueForbidden", f"Forbidden: {detail}")


def invalid(kind: Kind, name: str, wrongs: list[Wrong]) -> Refused:
    """422, with every field that is wrong."""
    said = [f"{wrong.field}: {wrong.body}" for wrong in wrongs]
    text = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    return Refused(
        422,
        f'{kind.qualified} "{name}" is invalid: {text}',
        name=name,
        group=kind.group,
        kind=kind.name,
        causes=[{"reason": w.type, "message": w.body, "field": w.field} for w in wrongs],
    )
