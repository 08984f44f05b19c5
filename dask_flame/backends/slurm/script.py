"""The script of a wave of jobs; pure (driver)."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence

from dask_flame.backends.slurm.identity import Identity
from dask_flame.backends.slurm.options import TIME, SlurmOptions, jobqueue
from dask_flame.backends.slurm.scratch import PREFIX
from dask_flame.backends.specs import RunnerSpec
from dask_flame.errors import BackendError

#: What a job does with signals, from its beginning: SIGTERM, from ``scancel`` or before the time
#: limit, drains the runner; USR1 ends it at once, with what its calls have started. It needs no
#: bash, so that ``shebang`` may name another shell.
_SIGNALS = """
flame_pid= flame_told=
flame_kill() {
  flame_told=1
  [ -z "$flame_pid" ] || kill "-$1" -- "$2$flame_pid" 2>/dev/null
}
trap 'flame_kill TERM ""' TERM
trap 'flame_kill KILL -' USR1
"""
#: The runner has a process group of its own (``set -m``), which ends with it, because not all kinds
#: of process tracking of Slurm find the children of a process that was killed. Its temporary folder
#: is removed however it ends.
_BODY = """
[ -z "$flame_told" ] || exit 143
flame_folder=$(mktemp -d {scratch}/{prefix}XXXXXXXX) || exit 1
set -m
TMPDIR=$flame_folder {command} &
flame_pid=$!
set +m
[ -z "$flame_told" ] || kill -KILL -- "-$flame_pid" 2>/dev/null
while :; do
  flame_told=
  wait "$flame_pid" 2>/dev/null
  flame_code=$?
  [ -n "$flame_told" ] || break
done
trap '' TERM USR1
kill -KILL -- "-$flame_pid" 2>/dev/null
rm -rf "$flame_folder"
trap - TERM USR1
"""
#: Most of Slurm's limits are in whole minutes.
_MINUTE = 60
#: A job that has waited for so many minutes leaves the queue, even if nobody is there to cancel it.
_LONGEST_WAIT = 30 * 24 * 60


def script(
    specs: Sequence[RunnerSpec],
    options: SlurmOptions,
    identity: Identity,
    folder: str,
    *,
    wave: int,
    drain: float,
) -> str:
    """Return the script for runners that differ only in their names.

    Parameters
    ----------
    specs : sequence of RunnerSpec
        Not empty.
    options : SlurmOptions
        Complete ones.
    identity : Identity
    folder : str
        The cluster's folder, on a file system that all nodes share.
    wave : int
        The number of this wave in its cluster.
    drain : float
        Seconds before the time limit at which a runner is told to end.
    """
    lines = [options.shebang or "#!/usr/bin/env bash"]
    skipped = options.job_directives_skip or ()
    made = _directives(specs, options, identity, folder, wave, drain)
    made = [line for line in made if not any(skip in line for skip in skipped)]
    lines += [f"#SBATCH {line}" for line in (*made, *(options.job_extra_directives or ()))]
    lines += [_SIGNALS, *(options.job_script_prologue or ())]
    lines.append(
        _BODY.format(
            scratch=_scratch(options), prefix=PREFIX, command=_command(options, folder, wave)
        )
    )
    lines += [*(options.job_script_epilogue or ()), 'exit "$flame_code"', ""]
    return "\n".join(lines)


def group_key(spec: RunnerSpec, options: SlurmOptions) -> tuple[object, ...]:
    """Return what is the same for runners that fit in one wave."""
    own = (spec.pool, spec.kind, spec.gpus)
    return (*own, cpus(spec), memory(spec), repr(options))


def limit(options: SlurmOptions) -> int:
    """Return the time limit of a job, in seconds."""
    return options.time or TIME


def cpus(spec: RunnerSpec) -> int:
    """Return the CPUs of a job: the pool's, else those of dask-jobqueue, else one a call."""
    given = spec.cpus if spec.cpus is not None else jobqueue("job-cpu", "cores")
    try:
        return math.ceil(float(given)) if given else spec.concurrency
    except (TypeError, ValueError):
        raise BackendError(f"jobqueue.slurm.cores={given!r} is not a number of CPUs") from None


def memory(spec: RunnerSpec) -> str:
    """Return the memory of a job for ``--mem``; empty for the partition's default."""
    if spec.memory is not None:
        return f"{math.ceil(spec.memory / 2**20)}M"
    if given := jobqueue("job-mem"):
        return str(given)
    if given := jobqueue("memory"):
        from dask.utils import parse_bytes

        return f"{math.ceil(parse_bytes(given) / 2**20)}M"
    return ""


def _directives(
    specs: Sequence[RunnerSpec],
    options: SlurmOptions,
    identity: Identity,
    folder: str,
    wave: int,
    drain: float,
) -> list[str]:
    spec, time = specs[0], limit(options)
    minutes = math.ceil(time / _MINUTE)
    gpu = f"gpu:{options.gpu_kind}" if options.gpu_kind else "gpu"
    warning = max(1, min(int(drain), time - 30))
    found = [
        f"--job-name={identity.job_name}",
        f"--comment={shlex.quote(identity.comment(spec.pool, wave))}",
        f"--array=0-{len(specs) - 1}",
        f"--output={shlex.quote(f'{_literal(folder)}/{wave}-%a.out')}",
        f"--partition={options.partition}" if options.partition else "",
        f"--account={options.account}" if options.account else "",
        f"--qos={options.qos}" if options.qos else "",
        f"--constraint={shlex.quote(options.constraint)}" if options.constraint else "",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={cpus(spec)}",
        f"--mem={memory(spec)}" if memory(spec) else "",
        f"--gres={gpu}:{spec.gpus}" if spec.gpus else "",
        f"--time={minutes}",
        f"--deadline=now+{_LONGEST_WAIT + minutes}minutes",
        f"--signal=B:TERM@{warning}",
        "--no-requeue",
        "--open-mode=truncate",
    ]
    return [line for line in found if line]


def _literal(path: str) -> str:
    """Return a path for ``--output``, in which Slurm replaces what is behind a ``%``."""
    return path.replace("%", "%%")


def _scratch(options: SlurmOptions) -> str:
    given = options.local_directory
    return shlex.quote(given) if given else '"${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"'


def _command(options: SlurmOptions, folder: str, wave: int) -> str:
    python = options.python or sys.executable
    place = f"{folder}/{wave}-"
    extra = f" --interface {shlex.quote(options.interface)}" if options.interface else ""
    return (
        f"{python} -m dask_flame.backends.slurm.job_start{extra} "
        f'{shlex.quote(place)}"$SLURM_ARRAY_TASK_ID".json'
    )
