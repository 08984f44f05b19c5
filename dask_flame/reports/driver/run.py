"""``run()``: name the calls that are submitted together (driver)."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator

import dask

from dask_flame.core.messages import RUN
from dask_flame.core.option_checks import shown
from dask_flame.core.redaction import veiled
from dask_flame.core.terminal_text import plain
from dask_flame.errors import PoolError
from dask_flame.reports.runs import Run


@contextlib.contextmanager
def run(name: str) -> Iterator[Run]:
    """Make one run, with a name, of all calls that are submitted inside the block.

    A run is a group of calls that are compared with each other: on the page ``/flame``, in
    ``cluster.reports.to_pandas()`` and in ``dask_flame.runs()``. Without this, each ``client.map``
    is a run of its own, named after its function.

    Parameters
    ----------
    name : str
        Name of the run. Two blocks with one name are two runs.

    Yields
    ------
    Run
        The run, with its `id` and its `name`.

    Raises
    ------
    PoolError
        The name is not a text, or is empty.

    Examples
    --------
    >>> with dask_flame.run("depth sweep"):
    ...     futures = client.map(train, depths)
    """
    if type(name) is not str or not name.strip():
        raise PoolError(
            f'name={shown(name)} is not a name; write with dask_flame.run("depth sweep"):'
        )
    # Names of files may have characters that no message can carry.
    name = name.encode(errors="backslashreplace").decode()
    made = Run(uuid.uuid4().hex, veiled(plain(name)), time.time(), 0, named=True)
    with dask.annotate(**{RUN: [made.id, made.name]}):
        yield made
