"""Remove secrets from objects for a substrate, to display them; pure (driver)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

#: Replaces a secret.
HIDDEN = "(hidden)"
#: Minimum length of a secret to search for: a shorter text may occur in others by chance.
_TELLING = 8


def plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy of an object in types of JSON, as it is sent."""
    sent: dict[str, Any] = json.loads(json.dumps(item))
    return sent


def hide(values: Mapping[str, Any], *, shown: Collection[str] = ()) -> dict[str, Any]:
    """Replace all values except those of the names in ``shown``.

    Examples
    --------
    >>> hide({"HF_TOKEN": "hf_1", "OMP_NUM_THREADS": "1"}, shown={"OMP_NUM_THREADS"})
    {'HF_TOKEN': '(hidden)', 'OMP_NUM_THREADS': '1'}
    """
    return {name: value if name in shown else HIDDEN for name, value in values.items()}


def scrub(item: Any, secrets: Collection[str]) -> Any:
    """Remove these texts from an object, wherever a template may have put them."""
    if isinstance(item, Mapping):
        return {scrub(key, secrets): scrub(value, secrets) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [scrub(value, secrets) for value in item]
    if isinstance(item, str):
        for secret in secrets:
            if len(secret) >= _TELLING:
                item = item.replace(secret, HIDDEN)
    return item
