"""The command that starts a runner, for backends that start processes (driver)."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dask_flame.backends.environment import usual_environment
from dask_flame.backends.specs import RunnerSpec
from dask_flame.core.launch_config import LaunchConfig
from dask_flame.core.process_settings import import_path
from dask_flame.core.processes import MARK


@dataclass(frozen=True, kw_only=True)
class RunnerCommand:
    """How to start one runner.

    Attributes
    ----------
    arguments : tuple of str
        The program and its arguments. There is no secret in them.
    environment : mapping of str to str
        Variables to set over those that the process has anyway. May hold secrets.
    config : bytes
        The runner's configuration, which holds secrets. With a leash it is the first line of the
        standard input; else it is the content of the file, which nobody else may read.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    config: bytes = field(repr=False)


def runner_command(
    spec: RunnerSpec, folder: str | Path, *, host: str | None = "127.0.0.1"
) -> RunnerCommand:
    """Return the command for a runner on the driver's machine, which its standard input holds.

    Write ``config`` to the standard input, and keep that open for as long as the runner is to live.
    The line ``end`` then tells the runner to end by itself; when the input closes, as it does when
    the driver is killed, the runner ends at once with all that it has started.

    Parameters
    ----------
    spec : RunnerSpec
    folder : str or Path
        A folder for this runner alone, which the backend removes when the runner is gone. A runner
        whose input has closed removes it.
    host : str or None
        Where the runner listens.
    """
    directory = os.path.join(folder, "scratch")
    config: LaunchConfig = {
        **spec.launch_config(local=True),
        "path": import_path(),
        "cwd": spec.cwd,
        "directory": directory,
        "host": host,
    }
    own = {"TMPDIR": directory, MARK: f"{spec.name}.{secrets.token_hex(8)}"}
    return RunnerCommand(
        arguments=(sys.executable, *spec.flags, "-m", "dask_flame.runner", "0"),
        environment={**usual_environment(spec), **spec.variables, **own},
        config=json.dumps(config).encode() + b"\n",
    )


def runner_command_from_file(
    spec: RunnerSpec, file: str, *, python: str = "python", host: str | None = None
) -> RunnerCommand:
    """Return the command for a runner on another machine, which reads its configuration there.

    The runner ends when its scheduler is gone, and in peace at a SIGTERM. What its calls have
    started is for the substrate to end, as a container or a job of Slurm does.

    Parameters
    ----------
    spec : RunnerSpec
    file : str
        Where the runner finds ``config``, on its machine.
    python : str
        The interpreter there.
    host : str or None
        Where the runner listens; None: at the address by which it reaches the scheduler.
    """
    config: LaunchConfig = {**spec.launch_config(local=False), "host": host}
    return RunnerCommand(
        arguments=(python, *spec.flags, "-m", "dask_flame.runner.from_file", file),
        environment={**usual_environment(spec), **spec.variables},
        config=json.dumps(config).encode(),
    )
