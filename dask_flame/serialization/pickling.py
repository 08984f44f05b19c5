"""Make pickling safe in every process of a cluster (all places)."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable
from typing import Any

from distributed.protocol import pickle as dask_pickle

from dask_flame.core.by_value import send_by_value
from dask_flame.core.distributed_internals import offload_executor, replace
from dask_flame.serialization.failures import Interrupted, answer_always, text_of
from dask_flame.serialization.opaque import dumps_opaquely


def prepare(*, interruptible: bool) -> None:
    """Pickle notebooks by value, and turn errors that would end the process into Exceptions.

    Pickling runs user code, also on the event loop. An import that calls ``sys.exit()`` would end
    the driver's event loop, or a runner, because distributed catches only Exceptions there. This
    replaces ``pickle.dumps`` and ``pickle.loads`` of distributed.

    Parameters
    ----------
    interruptible : bool
        Whether a KeyboardInterrupt in the main thread may come from the user, who pressed Ctrl-C.
    """
    send_by_value()
    # Large messages are pickled in this executor.
    answer_always(offload_executor())
    for name, error in (("dumps", pickle.PicklingError), ("loads", pickle.UnpicklingError)):
        function = getattr(dask_pickle, name)
        if not hasattr(function, "dask_flame"):
            replace(dask_pickle, name, _only_exceptions(function, error, interruptible))


def _only_exceptions(
    function: Callable[..., Any], kind: type[Exception], interruptible: bool
) -> Callable[..., Any]:
    writes = kind is pickle.PicklingError

    @functools.wraps(function)
    def pickles(*args: Any, **kwargs: Any) -> Any:
        try:
            if writes and (opaque := dumps_opaquely(pickles, *args, **kwargs)) is not None:
                return opaque
            return function(*args, **kwargs)
        except OSError as error:
            # For instance a missing file. When a connection is read, an OSError would look like the
            # end of that connection, and the request would be repeated forever.
            raise kind(f"{function.__name__} has raised {text_of(error)}") from error
        except (Exception, Interrupted):
            raise
        except BaseException as error:
            if interruptible and _pressed(error):
                raise
            raise kind(f"{function.__name__} has raised {text_of(error)}") from error

    pickles.dask_flame = True  # type: ignore[attr-defined]
    return pickles


def _pressed(error: BaseException) -> bool:
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
    )
