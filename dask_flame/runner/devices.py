"""Which GPUs the call that runs here is to use (runner)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

#: What CUDA calls the devices that a process may use. AMD's HIP goes by it as well:
#: https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Devices(tuple[int, ...]):
    """GPUs, numbered as libraries in this process number them: 0 is ``"cuda:0"``.

    Attributes
    ----------
    environment : dict of str to str
        What makes them the GPUs of a process that is started with it.
    """

    environment: dict[str, str]

    def __new__(cls, numbers: Iterable[int] = (), names: Sequence[str] = ()) -> Devices:
        made = super().__new__(cls, numbers)
        made.environment = {VISIBLE: ",".join(names[n] for n in made)} if made else {}
        return made


def devices() -> Devices:
    """The GPUs of the call that this is called in.

    A runner whose pool has ``concurrency=1`` gives all its GPUs to the call. Otherwise its slots
    share them out: each call gets as many as there are for each slot, but one at least, and those
    that the fewest other calls have; one with ``resources={"GPU": n}`` gets n. So calls that run at
    the same time have different GPUs wherever there are enough. A call keeps its own to its end,
    and an object that :func:`dask_flame.place` has made, until it is let go.

    Returns
    -------
    Devices
        A tuple of their numbers; empty where there are none, and outside of a call.

    Notes
    -----
    All calls of a runner are threads of one process, which sees all its GPUs: which of them a call
    uses is up to what it calls. The first is made the current one of the call's thread for torch
    and CuPy, if they are imported when the call begins (name them in ``preload``), so that
    ``"cuda"`` is that one. Threads that the call starts, coroutines, methods of a placed object and
    other libraries have to be told. CUDA shows a process no more than one MIG device: with several
    of them, only processes that the call starts can have different ones.

    Examples
    --------
    >>> tensor.to(f"cuda:{dask_flame.devices()[0]}")                            # doctest: +SKIP
    >>> subprocess.run(command, env=os.environ | dask_flame.devices().environment)  # doctest: +SKIP
    """
    # Nobody has a GPU here who has not a runner's worker.
    from dask_flame.runner.interrupt import of_this_call

    execution = of_this_call()
    return Devices() if execution is None else execution.devices
