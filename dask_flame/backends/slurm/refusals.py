"""What a refusal of ``sbatch`` means for a runner; pure (driver)."""

from __future__ import annotations

#: Texts in what sbatch says, in lower case, with the settings behind them.
_SETTINGS = (
    ("account", "account and partition"),
    ("partition", "partition"),
    ("qos", "qos"),
    ("gres", "gpus and gpu_kind"),
    ("memory specification", "memory and partition"),
    ("cpu count", "cpus and partition"),
    ("node configuration", "cpus, memory, gpus, gpu_kind, constraint and partition"),
    ("feature", "constraint"),
    ("time limit", "time and partition"),
    ("deadline", "time and job_extra_directives"),
)
#: Limits of this user, which allow further jobs when others have ended.
_LIMITS = ("maxsubmit", "submit limit", "job violates accounting/qos policy", "grpsubmit")
#: What passes by itself.
_PASSING = ("timed out", "unable to contact", "temporarily", "connection refused", "answered")


def no_room(error: str) -> bool:
    """Return whether this user has as many jobs as may be."""
    return any(text in error.lower() for text in _LIMITS)


def is_final(error: str) -> bool:
    """Return whether Slurm would refuse the same request again."""
    return not no_room(error) and not any(text in error.lower() for text in _PASSING)


def refusal(error: str) -> str:
    """Return what sbatch said, with the setting behind it."""
    lower = error.lower()
    if no_room(error):
        return f"{error}; relevant settings: max; or the limit of your account"
    for text, settings in _SETTINGS:
        if text in lower:
            return f"{error}; relevant settings: {settings}"
    if not is_final(error):
        return error
    return f"{error}; relevant settings: job_extra_directives, and the other options of the pool"
