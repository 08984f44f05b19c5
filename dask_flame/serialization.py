"""How what calls bring is pickled, and read, in every process of a cluster (all places)."""

from __future__ import annotations

import pickle
from typing import Any

from distributed.protocol import register_serialization_family
from distributed.protocol.serialize import pickle_dumps, pickle_loads

from dask_flame.by_value import send_by_value
from dask_flame.failures import Interrupted, text_of


def prepare() -> None:
    """Have this process send notebooks by value, and be ended by nothing that it reads.

    What is pickled runs code of the user's where it is read, on the event loop: an import that
    calls ``sys.exit()`` would end the driver's loop, or a runner. distributed's own family "pickle"
    is registered anew, with errors in place of that.
    """
    send_by_value()
    register_serialization_family("pickle", _dumps, _loads)


def _dumps(value: Any, context: Any = None) -> Any:
    try:
        return pickle_dumps(value, context=context)
    except (Exception, Interrupted):
        raise
    except BaseException as error:
        raise pickle.PicklingError(f"pickling it has raised {text_of(error)}") from error


def _loads(header: Any, frames: Any) -> Any:
    try:
        return pickle_loads(header, frames)
    except OSError as error:
        # A file that is not here, for one. Where data is read from a connection, it would be taken
        # for that connection's end, and asked for again without end.
        raise pickle.UnpicklingError(f"reading it has raised {text_of(error)}") from error
    except (Exception, Interrupted):
        raise
    except BaseException as error:
        raise pickle.UnpicklingError(f"reading it has raised {text_of(error)}") from error
