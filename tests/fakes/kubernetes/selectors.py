"""Which objects a label or field selector chooses (test process)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.fakes.kubernetes.errors import bad_request
from tests.fakes.kubernetes.kinds import EVENTS, JOBS, NAMESPACES, PODS, SECRETS, Kind

Object = dict[str, Any]
Chooses = Callable[[Object], bool]

_SET = re.compile(r"(!?)\s*([\w./-]+)\s*(?:(=|==|!=)\s*([\w.-]*)|(in|notin)\s*\(([^()]*)\))?")
#: What a client may select by, beside the name and the namespace. As in each kind's strategy.
_FIELDS: dict[Kind, tuple[str, ...]] = {
    PODS: (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    EVENTS: (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    JOBS: ("status.successful",),
    NAMESPACES: ("status.phase",),
    SECRETS: ("type",),
}


def split(text: str) -> list[str]:
    """The parts of a selector: those commas that are not inside parentheses."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def one_of(labels: Mapping[str, str], key: str, operator: str, values: list[str]) -> bool:
    """Whether labels fulfil one expression, as selectors and affinities have them."""
    value = labels.get(key)
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    if operator in ("Exists", "DoesNotExist"):
        return (value is not None) == (operator == "Exists")
    if value is None or operator not in ("Gt", "Lt"):
        return False
    return int(value) > int(values[0]) if operator == "Gt" else int(value) < int(values[0])


def by_labels(text: str) -> Chooses:
    """A label selector: ``a=b``, ``a!=b``, ``a in (b,c)``, ``a notin (b)``, ``a``, ``!a``."""
    wanted: list[tuple[str, str, list[str]]] = []
    for part in split(text):
        match = _SET.fullmatch(part)
        if match is None or (match[1] and (match[3] or match[5])):
            raise bad_request(
                f'unable to parse requirement: found {part!r}, expected: "=", "!=", "in", "notin"'
            )
        key = match[2]
        if match[3]:
            wanted.append((key, "NotIn" if match[3] == "!=" else "In", [match[4]]))
        elif match[5]:
            values = [value.strip() for value in match[6].split(",")]
            wanted.append((key, "In" if match[5] == "in" else "NotIn", values))
        else:
            wanted.append((key, "DoesNotExist" if match[1] else "Exists", []))

    def chooses(obj: Object) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(one_of(labels, *expression) for expression in wanted)

    return chooses


def by_fields(text: str, kind: Kind) -> Chooses:
    """A field selector: ``a.b=c`` or ``a.b!=c``, of the fields that the kind has indexed."""
    wanted: list[tuple[list[str], bool, str]] = []
    for part in split(text):
        match = re.fullmatch(r"([\w.]+)\s*(!=|==|=)\s*(.*)", part)
        if match is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        if match[1] not in ("metadata.name", "metadata.namespace", *_FIELDS.get(kind, ())):
            raise bad_request(f"field label not supported: {match[1]}")
        wanted.append((match[1].split("."), match[2] != "!=", match[3]))

    def chooses(obj: Object) -> bool:
        for path, same, text in wanted:
            value: Any = obj
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if (("" if value is None else str(value)) == text) != same:
                return False
        return True

    return chooses
