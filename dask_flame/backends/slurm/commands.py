"""Run Slurm's commands (driver, command line)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection, Sequence

from dask_flame.core.redaction import secret
from dask_flame.errors import BackendError

#: Seconds that a command may take: those of a busy controller take many.
WITHIN = 60.0
#: Seconds for a signal. With tasks of its array in the queue, Slurm delivers a signal, then answers
#: that the job cannot be altered now, and scancel tries again for a minute.
_SIGNAL_WITHIN = 3.0


class SlurmError(BackendError):
    """A command of Slurm has failed; the message is what it said."""


class SlurmLate(SlurmError):
    """A command has not answered in time, so that it may or may not have been done."""


def environment(hidden: Collection[str] = ()) -> dict[str, str]:
    """Return the environment of a command, which Slurm copies to the job.

    Variables of a job that this process may itself be in would be options of the new one, and
    secrets may end up in a site's database: variables that look like one are left out, and those
    that have a value of `hidden`.
    """
    inside = ("SLURM_", "SBATCH_", "SLURMD_")
    return {
        name: value
        for name, value in os.environ.items()
        if name in ("SLURM_CONF", "SLURM_CLUSTERS")
        or not (name.startswith(inside) or secret(name, value) or value in hidden)
    }


async def run(
    *arguments: str, text: str = "", within: float = WITHIN, hidden: Collection[str] = ()
) -> str:
    """Run a command; return its output.

    Parameters
    ----------
    *arguments : str
    text : str, default ""
        Its standard input.
    within : float
        Seconds after which it is killed.
    hidden : collection of str, default ()
        Values of variables that it does not get.

    Raises
    ------
    SlurmError
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(hidden),
            start_new_session=True,  # Ctrl-C in the driver's terminal is not for it
        )
    except FileNotFoundError:
        raise SlurmError(
            f"there is no command {arguments[0]!r}: this machine is not part of a Slurm cluster, "
            "or Slurm's module is not loaded; type: module load slurm, or run this on the "
            "cluster's login node"
        ) from None
    except OSError as error:
        raise SlurmError(f"{arguments[0]} cannot be run: {error}") from None
    try:
        async with asyncio.timeout(within):
            output, errors = await process.communicate(text.encode())
    except TimeoutError:
        raise SlurmLate(f"{arguments[0]} has not answered within {within:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
    if process.returncode:
        raise SlurmError(words(errors.decode(errors="replace")) or f"{arguments[0]} has failed")
    return output.decode(errors="replace")


def words(errors: str) -> str:
    """Return what a command said, in one line.

    Examples
    --------
    >>> words("sbatch: error: invalid partition specified: x\\nsbatch: error: Batch job failed\\n")
    'invalid partition specified: x; Batch job failed'
    """
    lines = (line.strip() for line in errors.splitlines())
    return "; ".join(line.split("error: ", 1)[-1] for line in lines if line)


async def submit(script: str, *, hidden: Collection[str] = ()) -> str:
    """Submit a script; return the id of its job. Variables with a `hidden` value do not travel.

    Raises
    ------
    SlurmError
    """
    said = await run("sbatch", "--parsable", text=script, hidden=hidden)
    return said.strip().splitlines()[-1].partition(";")[0]


async def cancel(jobs: Sequence[str], *, state: str = "") -> None:
    """End jobs, or those of them that are in a state; those that have ended are ignored.

    Raises
    ------
    SlurmError
    """
    if not jobs:
        return
    try:
        await run("scancel", *([f"--state={state}"] if state else []), *jobs)
    except SlurmLate:
        raise
    except SlurmError as error:
        if "invalid job id" not in str(error).lower():
            raise


async def signal(name: str, jobs: Sequence[str]) -> None:
    """Send a signal to the scripts of jobs, as far as they run."""
    if jobs:
        with contextlib.suppress(SlurmError):  # a job that is left is ended otherwise
            await run("scancel", "--batch", f"--signal={name}", *jobs, within=_SIGNAL_WITHIN)
