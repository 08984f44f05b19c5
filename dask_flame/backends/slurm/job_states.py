"""What Slurm says of jobs, and what it means; pure (driver, command line)."""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass

_WIDTHS = {
    "ArrayJobID": 20,
    "ArrayTaskID": 20,
    "JobID": 20,
    "State": 24,
    "exit_code": 12,
    "NodeList": 80,
    "Reason": 120,
    "StartTime": 24,
    "Name": 128,
    "Comment": 400,
}
#: The value of ``squeue --Format``. In columns: every version of Slurm has them, while the JSON of
#: squeue needs a plug-in, and has changed between versions.
FORMAT = ",".join(f"{name}:{width}" for name, width in _WIDTHS.items())

#: States of a job that will run or runs, and of one whose processes are about to end.
PENDING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"})
RUNNING = frozenset({"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"})
GOING = frozenset({"COMPLETING"})

#: Reasons for which a job would wait for ever, with the settings behind them.
_HOPELESS = {
    "PartitionTimeLimit": "time and partition",
    "PartitionNodeLimit": "partition",
    "BadConstraints": "partition, constraint, cpus, memory, gpus and gpu_kind",
    "AccountNotAllowed": "account and partition",
    "InvalidAccount": "account",
    "InvalidQOS": "qos",
    "QOSNotAllowed": "qos",
    "AssocMaxWallDurationPerJobLimit": "time",
    "QOSMaxWallDurationPerJobLimit": "time",
    "QOSMinGRES": "gpus",
    "JobHeldAdmin": "",
    "launch_failed_requeued_held": "",
}
#: Reasons that say that there is nothing free of this kind now. Of several jobs in a queue, only
#: the first one waits for Resources, and those behind it have Priority.
_NO_CAPACITY = frozenset(
    {"Resources", "Priority", "ReqNodeNotAvail", "Nodes_required_for_job_are_DOWN"}
)
#: Why a job has ended that this driver has not cancelled.
CANCELLED = "its job was cancelled by somebody else (CANCELLED)"
#: The signal in the exit status of a job whose output files could not be opened on its node.
_NO_OUTPUT_FILE = 53


@dataclass(frozen=True)
class Job:
    """A job, as ``squeue`` lists it.

    Attributes
    ----------
    wave : str
        The id of the array that it belongs to.
    task : str
        Its number in that array.
    id : str
        Its own id; before it runs, that of the array.
    state, reason, node, name, comment, start : str
    code : int
        Its exit status, as of ``waitpid``.
    """

    wave: str
    task: str
    id: str
    state: str
    code: int
    node: str
    reason: str
    start: str
    name: str
    comment: str

    @property
    def pending(self) -> bool:
        """Whether it waits."""
        return self.state in PENDING

    @property
    def running(self) -> bool:
        """Whether its processes run."""
        return self.state in RUNNING

    @property
    def over(self) -> bool:
        """Whether its processes have ended."""
        return self.state not in PENDING | RUNNING | GOING

    @property
    def target(self) -> str:
        """What ``scancel`` takes for it."""
        return f"{self.wave}_{self.task}" if self.task.isdecimal() else self.id

    @property
    def hopeless(self) -> str:
        """Why it would wait for ever; empty if it would not."""
        if not self.pending or self.reason not in _HOPELESS:
            return ""
        return f"its job would never start: {self.reason}{_settings(_HOPELESS[self.reason])}"

    @property
    def lacks_capacity(self) -> bool:
        """Whether it waits because no such node is free."""
        return self.pending and self.reason.partition(",")[0] in _NO_CAPACITY

    @property
    def waits_for(self) -> str:
        """What it waits for, in Slurm's words; empty if that is not known, or it does not."""
        if not self.pending or self.reason in ("", "None"):
            return ""
        return f"its job waits in the queue: {self.reason}"


def parse(listing: str) -> list[Job]:
    """Return the jobs in the output of ``squeue --noheader --array --Format=FORMAT``."""
    found = []
    for line in listing.splitlines():
        fields, at = {}, 0
        for name, width in _WIDTHS.items():
            fields[name] = line[at : at + width].strip()
            at += width
        if not fields["JobID"]:
            continue
        found.append(
            Job(
                wave=fields["ArrayJobID"],
                task=fields["ArrayTaskID"],
                id=fields["JobID"],
                state=fields["State"],
                code=int(fields["exit_code"]) if fields["exit_code"].isdecimal() else 0,
                node=fields["NodeList"],
                reason=fields["Reason"],
                start=fields["StartTime"],
                name=fields["Name"],
                comment=fields["Comment"],
            )
        )
    return found


def why_ended(job: Job, *, ending: bool, limit: int, memory: str, output: str, folder: str) -> str:
    """Return the reason of a job's end.

    Parameters
    ----------
    job : Job
    ending : bool
        Whether the driver has asked for the end.
    limit : int
        Its time limit, in seconds.
    memory : str
        Its limit of memory; empty for that of the partition.
    output : str
        The end of its output.
    folder : str
        The folder that all nodes must see.
    """
    state = job.state
    if state == "OUT_OF_MEMORY" or "exceeded memory limit" in output:
        of = memory or "that of the partition"
        return f"ran out of memory (limit {of}); relevant settings: memory"
    if state == "TIMEOUT":
        return f"reached its time limit of {_long(limit)} (TIMEOUT); relevant settings: time"
    if state == "NODE_FAIL" or (state == "PENDING" and job.reason == "BeginTime"):
        return f"its node {job.node} failed (NODE_FAIL)".replace("  ", " ")
    if state == "BOOT_FAIL":
        return f"its node {job.node} did not start (BOOT_FAIL)"
    if state == "PREEMPTED":
        return "was preempted by another job (PREEMPTED); relevant settings: partition and qos"
    if state == "DEADLINE":
        return (
            "its job has waited for so long that it could not end before its deadline (DEADLINE); "
            "relevant settings: partition, time"
        )
    if job.code & 0x7F == _NO_OUTPUT_FILE:
        return not_shared(folder, job.node)
    if state == "CANCELLED" and not ending:
        return CANCELLED
    if state == "FAILED" and not job.code:
        return f"its job has failed: {job.reason}"
    why = exit_reason(job.code)
    return "ended by force" if ending and (state == "CANCELLED" or "SIGKILL" in why) else why


def not_shared(folder: str, node: str) -> str:
    """Return the error for a folder that is not there on a node."""
    where = f"node {node}" if node else "its node"
    return (
        f"the folder {folder} is not there on {where}; write folder= with one that all nodes see, "
        "such as one in your home or on a parallel file system; relevant settings: folder"
    )


def exit_reason(status: int) -> str:
    """Return an exit status of ``waitpid`` in words.

    Examples
    --------
    >>> exit_reason(7 << 8), exit_reason(9), exit_reason(137 << 8)
    ('exit code 7', 'killed by SIGKILL', 'killed by SIGKILL')
    """
    code, number = status >> 8, status & 0x7F
    if not number and code > 128:  # a shell says so of its child
        number = code - 128
    if not number:
        return f"exit code {code}"
    try:
        return f"killed by {signals.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"


def _settings(names: str) -> str:
    return f"; relevant settings: {names}" if names else ""


def _long(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
