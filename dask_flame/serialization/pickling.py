"""Make pickling safe in every process of a cluster (all places)."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import cloudpickle
from distributed.protocol import pickle as dask_pickle

from dask_flame.core.by_value import is_sent_by_value, send_by_value
from dask_flame.core.distributed_internals import function_called, offload_executor, replace
from dask_flame.serialization.failures import Interrupted, answer_always, text_of
from dask_flame.serialization.opaque import dumps_opaquely
from dask_flame.serialization.packed import PackedTask


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
            if writes and (found := _at_first_try(*args, **kwargs)) is not None:
                return found
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


def _at_first_try(
    value: Any,
    *,
    buffer_callback: Callable[[Any], object] | None = None,
    protocol: int | None = None,
) -> bytes | None:
    """Return the pickle of calls, as distributed would make it; None for any other value.

    distributed tries one pickler after the other, and pickles again whatever contains the name
    ``__main__``. That takes longer than all else that is done to send a call of a notebook. It is
    known beforehand that cloudpickle is needed for a function of ``__main__``, or of a module that
    the user has registered with cloudpickle, and is not needed for bytes.
    """
    if protocol not in (None, pickle.HIGHEST_PROTOCOL):
        return None
    if type(value) is PackedTask:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL, buffer_callback=buffer_callback)
    called = function_called(value)
    if type(called) is not FunctionType:
        return None
    if not is_sent_by_value(called):
        return None
    buffers: list[pickle.PickleBuffer] = []
    callback = None if buffer_callback is None else buffers.append
    try:
        pickled: bytes = cloudpickle.dumps(value, buffer_callback=callback)
    except Exception:
        return None  # distributed does, and logs, the same
    for buffer in buffers:
        assert buffer_callback is not None
        buffer_callback(buffer)
    return pickled


def _pressed(error: BaseException) -> bool:
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
    )
