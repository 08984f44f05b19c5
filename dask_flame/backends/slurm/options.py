"""The options of a pool on Slurm, which describe the jobs of its runners (driver)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import dask.config

from dask_flame.backends.options import BackendOptions, Option, option
from dask_flame.core.option_checks import seconds, word, wrong

#: The time limit of a job in seconds, if nobody has set one.
TIME = 7200
#: Slurm's own notation: minutes, minutes:seconds, hours:minutes:seconds, or these after days.
_SLURM_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")


def check_time(name: str, value: Any) -> int:
    """Return a time limit in seconds, of at least a minute; Slurm's own notation is accepted.

    Examples
    --------
    >>> check_time("time", "2h"), check_time("time", "1-12:00:00"), check_time("time", "90:00")
    (7200, 129600, 5400)
    """
    given = value
    if isinstance(value, str) and (":" in value or "-" in value):
        if not (found := _SLURM_TIME.fullmatch(value.strip())):
            raise wrong(name, given, "a time limit")
        value = _slurm_seconds(found["days"], found["rest"])
    limit = seconds(name, value, zero=False)
    if limit < 60:
        raise wrong(name, given, "a time limit of one minute or more")
    return int(limit)


def _slurm_seconds(days: str | None, rest: str) -> int:
    parts = [int(part) for part in rest.split(":")]
    if days is not None:
        hours, minutes, more = [*parts, 0, 0][:3]  # after days, the first is hours
    elif len(parts) < 3:
        hours, (minutes, more) = 0, [*parts, 0][:2]
    else:
        hours, minutes, more = parts
    return int(days or 0) * 86_400 + hours * 3600 + minutes * 60 + more


def _lines(name: str, value: Any) -> tuple[str, ...]:
    """Check lines of a script; dask-jobqueue also takes directives as a mapping."""
    if isinstance(value, Mapping):
        value = [f"{key}={text}" if text is not None else str(key) for key, text in value.items()]
    if not isinstance(value, list | tuple) or not all(isinstance(line, str) for line in value):
        raise wrong(name, value, "a list of texts")
    if any("\n" in line for line in value):
        raise wrong(name, value, "a list of single lines")
    return tuple(value)


def _folder(name: str, value: Any) -> str:
    if isinstance(value, Path):
        value = str(value)
    given: str = word(name, value, "the path of a folder that all nodes see")
    if not given.startswith(("/", "~")):
        raise wrong(name, value, "an absolute path, or one that begins with ~")
    if "\\" in given or not given.isprintable():
        # With a backslash, Slurm replaces nothing in the path of the output of an array.
        raise wrong(name, value, "a path without backslashes and control characters")
    return given


_word = partial(option, word, section="slurm", nullable=True)
_text_lines = partial(option, _lines, section="slurm", nullable=True)


@dataclass(frozen=True, init=False, repr=False)
class SlurmOptions(BackendOptions):
    """Options of a pool whose runners are jobs of Slurm; None for an option that was not given.

    Each has a setting ``flame.slurm.<option>``, except `gpu_kind`. Where that is not set either,
    the setting of dask-jobqueue with the same meaning applies (``jobqueue.slurm.queue``,
    ``account``, ``walltime``, …).

    Parameters
    ----------
    partition : str, optional
        The partition, or several separated by commas: Slurm takes the one that starts first.
    account, qos, constraint : str, optional
        The account that is charged, the quality of service, and features of nodes.
    time : duration, optional
        The time limit of a job, by default 2 hours. A runner is drained before it is reached.
    gpu_kind : str or list of str, optional
        The type of GPU, as in ``--gres=gpu:TYPE:1``, or several in order of preference.
    interface : str, optional
        The network interface at which the scheduler, in the driver, and runners listen, such as
        ``"ib0"``. By default, that of the route to the network.
    folder : str, optional
        A folder that the driver and all nodes see, for the files of runners: certificates, which
        only you can read, and output. By default ``~/.dask-flame-slurm``.
    python : str, optional
        The Python of runners; by default, the path of the driver's.
    local_directory : str, optional
        A folder on the disk of a node, for temporary files. By default ``$TMPDIR``, or ``/tmp``.
    job_extra_directives : list of str, optional
        Further options of ``sbatch``: ``["--exclusive"]``.
    job_directives_skip : list of str, optional
        Directives that contain one of these texts are left out.
    job_script_prologue, job_script_epilogue : list of str, optional
        Lines of shell to run before the runner starts, and after it has ended:
        ``["module load cuda"]``.
    shebang : str, optional
        The first line of the script, by default ``"#!/usr/bin/env bash"``.

    Raises
    ------
    PoolError
        An option is wrong; the message has its name and a line that works.
    """

    backend: ClassVar[str] = "slurm"
    makes: ClassVar[str] = "jobs of Slurm"
    merges: ClassVar[bool] = True
    settings: ClassVar[Mapping[str, Option]] = {
        "poll": Option(check=partial(seconds, zero=False), example='"2s"'),
        "drain": Option(check=partial(seconds, zero=False), example='"90s"'),
    }

    partition: str | None = _word('"gpu"')
    account: str | None = _word('"my-project"')
    qos: str | None = _word('"normal"')
    constraint: str | None = _word('"a100"')
    time: int | None = option(check_time, '"2h"', section="slurm", nullable=True)
    gpu_kind: str | None = option(word, '"a100"', preference=True)
    interface: str | None = _word('"ib0"', fixed=True)
    folder: str | None = option(
        _folder, '"/scratch/me/flame"', section="slurm", nullable=True, fixed=True
    )
    python: str | None = _word('"/home/me/env/bin/python"')
    local_directory: str | None = _word('"/scratch/local"')
    job_extra_directives: tuple[str, ...] | None = _text_lines('["--exclusive"]')
    job_directives_skip: tuple[str, ...] | None = _text_lines('["--mem"]')
    job_script_prologue: tuple[str, ...] | None = _text_lines('["module load cuda"]')
    job_script_epilogue: tuple[str, ...] | None = _text_lines('["nvidia-smi"]')
    shebang: str | None = _word('"#!/bin/bash -l"')


#: The name under which pools look up this class.
Options = SlurmOptions

#: Settings of dask-jobqueue with the same meaning as an option, by the option.
JOBQUEUE = {
    "partition": "queue",
    "account": "account",
    "time": "walltime",
    "interface": "interface",
    "folder": "shared-temp-directory",
    "python": "python",
    "local_directory": "local-directory",
    "job_extra_directives": "job-extra-directives",
    "job_directives_skip": "job-directives-skip",
    "job_script_prologue": "job-script-prologue",
    "job_script_epilogue": "job-script-epilogue",
    "shebang": "shebang",
}


def of_jobqueue() -> dict[str, Any]:
    """Return the options that dask-jobqueue's configuration determines, checked."""
    declared = SlurmOptions.declared()
    found = {}
    for name, setting in JOBQUEUE.items():
        key = f"jobqueue.slurm.{setting}"
        if value := dask.config.get(key, default=None):
            found[name] = declared[name].checked(key if name != "folder" else name, value)
    return found


def jobqueue(*settings: str) -> Any:
    """Return the first of these settings of dask-jobqueue that is set; None if none is."""
    values = (dask.config.get(f"jobqueue.slurm.{name}", default=None) for name in settings)
    return next((value for value in values if value), None)


def of_configurations() -> dict[str, Any]:
    """Return the options of all pools that do not give them, from both configurations.

    Raises
    ------
    PoolError
    """
    return {**of_jobqueue(), **SlurmOptions.configured().given}


def complete(given: Mapping[str, Any], configured: Mapping[str, Any] | None = None) -> SlurmOptions:
    """Return the options of a runner: its pool's, else those of the configurations.

    Parameters
    ----------
    given : mapping
        Options of the pool.
    configured : mapping, optional
        What :func:`of_configurations` has returned earlier.

    Raises
    ------
    PoolError
    """
    return SlurmOptions(**{**(of_configurations() if configured is None else configured), **given})
