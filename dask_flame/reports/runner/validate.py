"""What may be reported: one real number a name, and a step; pure (runner)."""

from __future__ import annotations

import math
import operator
import reprlib
from typing import Any

from dask_flame.core.terminal_text import plain

#: The last step that a page can show exactly: JavaScript's numbers are doubles.
LAST_STEP = 2**53 - 1

#: Different things that one call is told to be wrong.
COMPLAINTS = 20
#: Characters of a name.
LONGEST_NAME = 200

WORKS = "a line that works: report(step=1, loss=0.25)"


class InvalidValue(ValueError):
    """What was to be reported cannot be; the message is one line that says what to write."""


def number(name: str, value: Any) -> float:
    """`value` as a float.

    Raises
    ------
    Unfit
        It is not one real number.
    """
    name = plain(name)
    shown = f"report({name}={_shown(value)})"
    if not isinstance(value, (str, bytes, bytearray)):
        item = getattr(value, "item", None)
        try:
            return float(item() if callable(item) else value)
        except OverflowError:
            raise InvalidValue(f"{shown}: {name} is too large for a float; {WORKS}") from None
        # A tensor's library has errors of its own.
        except Exception:
            pass
    if getattr(value, "ndim", 0):
        raise InvalidValue(
            f"{shown}: {name} must be one real number, not {type(value).__name__} of shape "
            f"{tuple(value.shape)}; reduce it first, as in report(step=1, {name}=x.mean())"
        )
    raise InvalidValue(
        f"{shown}: {name} must be one real number, not {type(value).__name__}; {WORKS}"
    )


def whole_step(value: Any) -> int:
    """`value` as a step: also a float that is a whole number, and what has an ``item()``.

    Raises
    ------
    Unfit
        It is not a whole number of 0 or more.
    """
    step: Any = value
    try:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError
        item = getattr(value, "item", None)
        step = item() if callable(item) else value
        if isinstance(step, float) and math.isfinite(step) and step.is_integer():
            step = int(step)
        step = operator.index(step)
    except Exception:
        raise InvalidValue(
            f"report(step={_shown(value)}): step must be a whole number, not "
            f"{type(value).__name__}; the next step is used; {WORKS}"
        ) from None
    if not 0 <= step <= LAST_STEP:
        raise InvalidValue(
            f"report(step={_shown(value)}): step must be from 0 to 2**53 - 1; the next step is "
            f"used; {WORKS}"
        )
    return int(step)


def unfit_name(name: str) -> str:
    """Why no value can be reported under this name; empty where it can be."""
    if len(name) > LONGEST_NAME:
        return (
            f"report() got a name of {len(name):,} characters, and {LONGEST_NAME} is the most: "
            f"{plain(name)} is left out; {WORKS}"
        )
    if not name.isascii() and name.encode("utf-8", "ignore").decode() != name:
        return f"report() got a name that is no text: {name!r} is left out; {WORKS}"
    return ""


def _shown(value: Any) -> str:
    # In one line, and whatever its own repr does.
    try:
        return " ".join(reprlib.repr(value).split())
    except Exception:
        return f"<{type(value).__name__}>"
