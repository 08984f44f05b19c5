"""Describe the calls of ``client.submit`` and ``client.map`` before they begin (driver)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import dask
from distributed import Future

from dask_flame.core.argument_text import NamedArgument, argument_text
from dask_flame.core.distributed_internals import Alias, SubmittedCalls, TaskRef
from dask_flame.core.messages import RUN
from dask_flame.core.parameters import parameters
from dask_flame.core.settings import configured
from dask_flame.core.text import function_name, without_token
from dask_flame.serialization.task_arguments import plain_node

#: Maximum number of calls of one submission that are described.
MOST = 1_000


def described(found: SubmittedCalls) -> dict[str, Any]:
    """Return the description of submitted calls, as plain values for msgpack.

    Parameters
    ----------
    found : SubmittedCalls

    Returns
    -------
    dict
        ``function``: its name. ``total``: number of calls. ``run``: the value of the annotation
        ``flame_run``, or None. ``calls``: for each of the first `MOST` calls its key, the text of
        its arguments, and its parameters.
    """
    return {
        "function": function_name(found.function),
        "total": len(found.keys),
        "run": dask.get_annotations().get(RUN),
        "calls": list(islice(_each(found), MOST)),
    }


def _each(found: SubmittedCalls) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    hide = bool(configured("reports.hide-random"))
    cell = str(getattr(found.function, "__module__", "")).startswith("dask_flame.notebook.")
    for key, args, kwargs in found.each():
        if cell:
            yield key, "", {}  # a notebook cell has no arguments of its own
            continue
        text = argument_text(found.function, args, kwargs, _shown, hide_random=hide)
        named = parameters(found.function, args, kwargs, _shown, hide_random=hide)
        yield key, text, named


def _shown(value: Any) -> Any:
    """Return the value to show for an argument; results of other calls are shown by their names."""
    if isinstance(value, Future | TaskRef):
        return NamedArgument(without_token(value.key))
    if isinstance(value, Alias):
        return NamedArgument(without_token(value.target))
    return plain_node(value)
