"""Amounts of resources as Kubernetes writes them, and what a pod asks for (test process)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_FORM = re.compile(r"([+-]?[0-9.]+)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]+)?")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")

Amounts = dict[str, Decimal]


def parse(text: Any) -> Decimal:
    """The number that a quantity is; ValueError in Kubernetes' words if it is none."""
    match = _FORM.fullmatch(str(text))
    try:
        if match is None:
            raise ValueError
        number, suffix = Decimal(match[1]), match[2] or ""
    except (ValueError, ArithmeticError):
        raise ValueError(
            "quantities must match the regular expression "
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        ) from None
    if suffix in _BINARY:
        return number * Decimal(1 << 10 * (_BINARY.index(suffix) + 1))
    if suffix in _DECIMAL:
        return number.scaleb(_DECIMAL[suffix])
    return number.scaleb(int(suffix[1:]))


def write(amount: Decimal, resource: str) -> str:
    """A quantity, in the largest unit that it is a whole number of.

    Real servers keep the unit that a quantity was first given in; this one goes by the resource.
    """
    if amount != amount.to_integral_value():
        return f"{int(amount * 1000)}m"
    whole = int(amount)
    if resource.rpartition(".")[2] in ("memory", "storage", "ephemeral-storage") and whole:
        for power, suffix in reversed(list(enumerate(_BINARY, 1))):
            if whole % 1024**power == 0:
                return f"{whole // 1024**power}{suffix}"
    return str(whole)


def amounts(texts: Mapping[str, Any] | None) -> Amounts:
    return {name: parse(text) for name, text in (texts or {}).items()}


def add(*many: Amounts) -> Amounts:
    total: Amounts = {}
    for one in many:
        for name, amount in one.items():
            total[name] = total.get(name, Decimal(0)) + amount
    return total


def asked(spec: Mapping[str, Any], which: str = "requests") -> Amounts:
    """What a pod's spec asks for: the sum of its containers, or what one of the first needs."""
    total = add(
        *(
            amounts(container.get("resources", {}).get(which))
            for container in spec.get("containers", [])
        )
    )
    for container in spec.get("initContainers", []):
        for name, amount in amounts(container.get("resources", {}).get(which)).items():
            total[name] = max(total.get(name, Decimal(0)), amount)
    return total


def quality(spec: Mapping[str, Any]) -> str:
    """``status.qosClass`` of a pod."""
    resources = [c.get("resources", {}) for c in spec.get("containers", [])]
    named = [{**r.get("requests", {}), **r.get("limits", {})} for r in resources]
    if not any({"cpu", "memory"} & set(names) for names in named):
        return "BestEffort"
    for r in resources:
        limits, requests = amounts(r.get("limits")), amounts(r.get("requests"))
        if any(limits.get(n) is None or limits[n] != requests.get(n) for n in ("cpu", "memory")):
            return "Burstable"
    return "Guaranteed"
