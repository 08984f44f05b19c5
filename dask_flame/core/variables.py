"""Environment variables of runners: checks, and values that are the driver's own (driver).

A value of None stands for the value that the driver has when a runner boots, so that objects which
hold only the name can be shown, compared, copied and sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dask_flame.core.option_checks import line
from dask_flame.core.redaction import veiled
from dask_flame.errors import PoolError

#: The value of a secret: a text; None for the driver's; or the names of one on the substrate.
Secret = str | Mapping[str, str] | None

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: The usual form of a name. Other texts may be values, given by mistake in place of a name.
_USUAL = re.compile(r"[A-Z][A-Z0-9_]*")


def checked_env(option: str, env: Any) -> dict[str, str | None]:
    """Check the option ``env``: names with values, or with None for those of the driver.

    Raises
    ------
    PoolError
    """
    if not isinstance(env, Mapping) or not all(
        isinstance(k, str) and (v is None or isinstance(v, str)) for k, v in env.items()
    ):
        # The values may be secrets, so the error does not show them.
        raise PoolError(
            f"{option} is not a mapping of names to texts, or to None for this process's own "
            f"value; write {line(option)}"
        )
    for variable, value in env.items():
        if not variable or "=" in variable or "\0" in variable + (value or ""):
            raise PoolError(
                f"{option} has a variable that no process can be given, {variable!r}: names are "
                f"not empty and have no '=', and nothing has a NUL; write {line(option)}"
            )
    return dict(env)


def checked_secrets(option: str, secrets: Any) -> dict[str, Secret]:
    """Check the option ``secrets``: a list of names, or a mapping of names to values.

    Raises
    ------
    PoolError
    """
    listed = isinstance(secrets, Sequence) and not isinstance(secrets, str | bytes)
    given = dict.fromkeys(map(_hashable, secrets)) if listed else secrets
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and _VARIABLE.fullmatch(name) and _is_secret(value)
        for name, value in given.items()
    ):
        raise PoolError(
            f"{option} is neither a list of environment variables of this process nor a mapping of "
            'variables to values, to None, or to {"name": …, "key": …} of a Secret of Kubernetes; '
            f"write {line(option)}"
        )
    if listed:
        _check_listed(option, list(given))
    return dict(given)


def check_present(option: str, variables: Mapping[str, object]) -> None:
    """Raise if the driver lacks a variable whose value is to be its own.

    Raises
    ------
    PoolError
    """
    for name, value in variables.items():
        if value is None and name not in os.environ:
            raise _missing(option, name)


def with_own_values(
    option: str, variables: Mapping[str, Secret], *, partly: bool = False
) -> dict[str, str | Mapping[str, str]]:
    """Return these variables with the driver's present values in place of None.

    Parameters
    ----------
    option : str
        The option that they come from, for the error.
    variables : mapping
    partly : bool, default False
        Whether to leave out variables that the driver does not have.

    Raises
    ------
    PoolError
    """
    if not partly:
        check_present(option, variables)
    values = {n: os.environ.get(n) if v is None else v for n, v in variables.items()}
    return {name: value for name, value in values.items() if value is not None}


def _check_listed(option: str, names: list[str]) -> None:
    for number, name in enumerate(names, 1):
        if name not in os.environ:
            usual = _USUAL.fullmatch(name) and veiled(name) == name
            raise _missing(option, name if usual else "", number)


def _missing(option: str, name: str, number: int = 0) -> PoolError:
    # A name that may be a value is not shown.
    what = name or f"item {number} of the list"
    example = name or "HF_TOKEN"
    return PoolError(
        f"{option} takes {what} from the environment of this process, which does not have it; "
        f'write os.environ["{example}"] = "…" before, or {option}={{"{example}": "…"}}'
    )


def _is_secret(value: Any) -> bool:
    if isinstance(value, Mapping):
        return set(value) == {"name", "key"} and all(isinstance(v, str) for v in value.values())
    return value is None or (isinstance(value, str) and "\0" not in value)


def _hashable(item: Any) -> Any:
    return item if isinstance(item, str) else None
