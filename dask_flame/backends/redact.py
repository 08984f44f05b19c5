"""What is shown of what is sent to a substrate: all of it but its secrets; pure (driver)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

#: What is shown where a secret is sent.
HIDDEN = "(hidden)"
#: A shorter text is in others by chance.
_TELLING = 8


def plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """An object as JSON carries it, which is how it is sent; shares nothing with what was given."""
    sent: dict[str, Any] = json.loads(json.dumps(item))
    return sent


def hide(values: Mapping[str, Any], *, shown: Collection[str] = ()) -> dict[str, Any]:
    """The same names, with the values of these few only.

    Examples
    --------
    >>> hide({"HF_TOKEN": "hf_1", "OMP_NUM_THREADS": "1"}, shown={"OMP_NUM_THREADS"})
    {'HF_TOKEN': '(hidden)', 'OMP_NUM_THREADS': '1'}
    """
    return {name: value if name in shown else HIDDEN for name, value in values.items()}


def scrub(item: Any, secrets: Collection[str]) -> Any:
    """An object without these texts, wherever they are: a template may have put them anywhere."""
    if isinstance(item, Mapping):
        return {scrub(key, secrets): scrub(value, secrets) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [scrub(value, secrets) for value in item]
    if isinstance(item, str):
        for secret in secrets:
            if len(secret) >= _TELLING:
                item = item.replace(secret, HIDDEN)
    return item
