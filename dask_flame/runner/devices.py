"""The GPUs for the call that is running (runner)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar

#: The environment variable with the devices that a process may use, for CUDA and for AMD's HIP:
#: https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Devices(tuple[int, ...]):
    """GPUs, numbered as libraries in this process number them: 0 is ``"cuda:0"``.

    Attributes
    ----------
    environment : dict of str to str
        Variables that make these the GPUs of a child process.
    """

    environment: dict[str, str]

    def __new__(cls, numbers: Iterable[int] = (), names: Sequence[str] = ()) -> Devices:
        made = super().__new__(cls, numbers)
        made.environment = {VISIBLE: ",".join(names[n] for n in made)} if made else {}
        return made


#: All GPUs of the runner, in the function of ``Pool(setup=…)``.
in_setup: ContextVar[Devices] = ContextVar("dask_flame_devices_in_setup")


def devices() -> Devices:
    """Return the GPUs of the call that this is called in; in ``setup=``, all of the runner.

    A runner whose pool has ``concurrency=1`` gives all its GPUs to the call. Otherwise its slots
    share the GPUs: each call gets its share, but at least one, and those with the fewest other
    calls; a call with ``resources={"GPU": n}`` gets n. Calls that run at the same time therefore
    have different GPUs if there are enough. A call keeps its GPUs until it ends, and an object made
    by :func:`dask_flame.place` keeps them until it is deleted.

    Returns
    -------
    Devices
        A tuple of GPU numbers; empty if there are none, and outside of a call.

    Notes
    -----
    All calls of a runner are threads of one process, which sees all its GPUs; the code of a call
    decides which to use. For torch and CuPy the first one becomes the current device of the call's
    thread, if they are imported when the call begins (name them in ``preload``), so that ``"cuda"``
    means that one. Threads that the call starts, coroutines, methods of a placed object and other
    libraries must choose a device explicitly. CUDA shows a process at most one MIG device: to use
    several of them, a call must start processes.

    Examples
    --------
    >>> tensor.to(f"cuda:{dask_flame.devices()[0]}")                            # doctest: +SKIP
    >>> subprocess.run(command, env=os.environ | dask_flame.devices().environment)  # doctest: +SKIP
    """
    # Imported late, because it imports distributed.
    from dask_flame.runner.interrupt import execution_here

    execution = execution_here()
    return in_setup.get(Devices()) if execution is None else execution.devices
