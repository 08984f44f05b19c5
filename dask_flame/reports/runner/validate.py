"""Validate reported values and steps; pure (runner)."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Callable
from typing import Any

from dask_flame.core.terminal_text import plain

#: Largest step that a page can show exactly: JavaScript numbers are doubles.
LAST_STEP = 2**53 - 1

#: Maximum number of different warnings in one call.
COMPLAINTS = 20
#: Maximum length of a name, in characters.
LONGEST_NAME = 200

WORKS_OF = "a line that works: report(step=1, of=100, loss=0.25)"
WORKS = "a line that works: report(step=1, loss=0.25)"


class InvalidValue(ValueError):
    """A value or a step cannot be reported; the message has one line and a correction."""


def number(name: str, value: Any) -> float:
    """Return `value` as a float.

    Raises
    ------
    InvalidValue
        `value` is not one real number.
    """
    name = plain(name)
    shown = f"report({name}={_shown(value)})"
    if not isinstance(value, (str, bytes, bytearray)):
        item = getattr(value, "item", None)
        try:
            return float(item() if callable(item) else value)
        except OverflowError:
            raise InvalidValue(f"{shown}: {name} is too large for a float; {WORKS}") from None
        # Each tensor library raises errors of its own.
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
    """Return `value` as a step; accepts whole floats, and anything with ``item()``.

    Raises
    ------
    InvalidValue
        `value` is not a whole number of 0 or more.
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


def last_step(of: Any, complain: Callable[..., object], *args: Any) -> float | None:
    """Return a number of steps; complain about anything else, and return None."""
    try:
        steps = number("of", of)
        if not 0 < steps <= LAST_STEP:
            raise InvalidValue(f"report(of={_shown(of)}): of must be above 0; {WORKS_OF}")
    except InvalidValue as error:
        complain(*args, "of", str(error))
        return None
    return steps


def unfit_name(name: str) -> str:
    """Return why a name is not valid; empty if it is valid."""
    if len(name) > LONGEST_NAME:
        return (
            f"report() got a name of {len(name):,} characters, and {LONGEST_NAME} is the most: "
            f"{plain(name)} is left out; {WORKS}"
        )
    if not name.isascii() and name.encode("utf-8", "ignore").decode() != name:
        return f"report() got a name that is no text: {name!r} is left out; {WORKS}"
    return ""


def _shown(value: Any) -> str:
    # One line, even if the repr of the value raises.
    try:
        return " ".join(reprlib.repr(value).split())
    except Exception:
        return f"<{type(value).__name__}>"
