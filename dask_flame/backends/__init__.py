"""What boots runners: the contract, and the backends that are installed (driver)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.backends.base import Backend as Backend
    from dask_flame.backends.command import RunnerCommand as RunnerCommand
    from dask_flame.backends.command import runner_command as runner_command
    from dask_flame.backends.command import runner_command_from_file as runner_command_from_file
    from dask_flame.backends.options import BackendOptions as BackendOptions
    from dask_flame.backends.options import Option as Option
    from dask_flame.backends.options import option as option
    from dask_flame.backends.registry import find_backend as find_backend
    from dask_flame.backends.registry import made as made
    from dask_flame.backends.specs import BackendContext as BackendContext
    from dask_flame.backends.specs import Ended as Ended
    from dask_flame.backends.specs import MostRunners as MostRunners
    from dask_flame.backends.specs import RunnerSpec as RunnerSpec
    from dask_flame.backends.specs import SchedulerSpec as SchedulerSpec

__all__ = [
    "Backend",
    "BackendContext",
    "BackendOptions",
    "Ended",
    "MostRunners",
    "Option",
    "RunnerCommand",
    "RunnerSpec",
    "SchedulerSpec",
    "find_backend",
    "made",
    "option",
    "runner_command",
    "runner_command_from_file",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Backend": "dask_flame.backends.base",
        "BackendContext": "dask_flame.backends.specs",
        "BackendOptions": "dask_flame.backends.options",
        "Ended": "dask_flame.backends.specs",
        "MostRunners": "dask_flame.backends.specs",
        "Option": "dask_flame.backends.options",
        "RunnerCommand": "dask_flame.backends.command",
        "RunnerSpec": "dask_flame.backends.specs",
        "SchedulerSpec": "dask_flame.backends.specs",
        "find_backend": "dask_flame.backends.registry",
        "made": "dask_flame.backends.registry",
        "option": "dask_flame.backends.options",
        "runner_command": "dask_flame.backends.command",
        "runner_command_from_file": "dask_flame.backends.command",
    },
)
