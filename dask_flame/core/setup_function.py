"""The function of ``Pool(setup=…)``: its checks, and its form for runners (driver)."""

from __future__ import annotations

import base64
import inspect
import types
from typing import Any

from dask_flame.core import python_versions
from dask_flame.core.by_value import send_by_value
from dask_flame.core.launch_config import SetupConfig
from dask_flame.core.option_checks import wrong
from dask_flame.core.text import function_name
from dask_flame.errors import PoolError

#: Maximum number of bytes of the pickled function. It is a part of the launch configuration of a
#: runner, which in Kubernetes is a Secret of at most 1 MiB.
LARGEST = 256 * 1024
#: The results of functions that were called by mistake.
_RESULTS = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)


def setup_function(name: str, value: Any) -> Any:
    """Check that a value is a function without arguments that can be sent to runners.

    Raises
    ------
    PoolError
    """
    if isinstance(value, _RESULTS):
        called = value.__name__
        if isinstance(value, types.CoroutineType):
            value.close()  # otherwise Python warns that it was never awaited
        raise PoolError(
            f"{name}={called}() has called the function here; write {name}={called}, and each "
            "runner calls it"
        )
    if not callable(value):
        raise wrong(name, value, "a function")
    _check_arguments(value)
    setup_config(value)
    return value


def setup_config(function: Any) -> SetupConfig:
    """Return the launch configuration for a function, pickled as it is now.

    Raises
    ------
    PoolError
        It cannot be pickled, or is too large.
    """
    name = function_name(function)
    data = _pickled(function, name)
    return {
        "function": base64.b64encode(data).decode(),
        "name": name,
        "python": python_versions.here(),
    }


def _check_arguments(function: Any) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some built-in functions do not have one
    try:
        signature.bind()
    except TypeError as error:
        name = function_name(function)
        raise PoolError(
            f"setup={name} is called without arguments ({error}); write "
            f"setup=functools.partial({name}, …)"
        ) from None


def _pickled(function: Any, name: str) -> bytes:
    # Imported here, because only pools with a setup need it.
    import cloudpickle

    send_by_value()
    file = _LimitedFile()
    try:
        cloudpickle.dump(function, file)
    except Exception as error:
        raise PoolError(
            f"setup={name} cannot be sent to runners ({type(error).__name__}: {error}); make such "
            f"objects inside of the function: def {_plain(name)}(): …, and write "
            f"setup={_plain(name)}"
        ) from error
    if file.size > LARGEST:
        raise PoolError(
            f"setup={name} has {file.size:,} bytes when it is pickled, and runners are sent "
            f"{LARGEST:,} at most; load the data inside of the function: def {_plain(name)}(): "
            f"return load(path), and write setup={_plain(name)}"
        )
    return bytes(file.data)


def _plain(name: str) -> str:
    return name if name.isidentifier() else "load_model"


class _LimitedFile:
    """Counts all bytes that are written, and keeps them up to the limit."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        size = memoryview(data).nbytes
        self.size += size
        if self.size <= LARGEST:
            self.data += data
        return size
