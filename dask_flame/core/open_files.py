"""Limits on open files and connections in the driver, and the needs of runners (driver).

The scheduler has a few connections to each runner. Many systems limit a process to 1024
descriptors (macOS: 256) by default, and allow more on request: the soft limit is raised to the hard
limit when a scheduler starts. Child processes keep the original limit: some programs iterate over
all possible descriptors, or use select(), which accepts no number above 1024.
"""

from __future__ import annotations

import resource

from dask_flame.errors import PoolError

#: Maximum number of descriptors in the driver for each runner: two opened by the runner, the
#: scheduler's, the Client's, and two while results move home. Its supervisor has fewer.
EACH = 6
#: Descriptors used by Python, a notebook, Dask and its pages.
BESIDES = 100
#: A limit for kernels that refuse "unlimited" although the hard limit says so (macOS).
_MANY = 10_240


#: The original limit, by the limit that replaced it.
_raised: dict[int, int] = {}


def usual_limit() -> int:
    """Return the descriptor limit of this process, before :func:`raise_limit`."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _raised.get(soft, soft)


def raise_limit() -> int:
    """Raise the soft descriptor limit of this process to the hard limit; return the new limit."""
    usual = usual_limit()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _MANY):
        if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < wanted):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            except (OSError, ValueError):
                continue
            _raised[wanted] = usual
            break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def check_room(runners: int) -> None:
    """Raise the descriptor limit, and check that it suffices for so many runners.

    Raises
    ------
    PoolError
        If it does not suffice.
    """
    if too_many := why_no_room(runners):
        raise PoolError(too_many)


def most_runners() -> int | None:
    """Return for how many runners the limit suffices, once it is raised; None without a limit."""
    limit = raise_limit()
    return None if limit == resource.RLIM_INFINITY else max(1, (limit - BESIDES) // EACH)


def why_no_room(runners: int) -> str:
    """Return why so many runners exceed the limit, and what to write; empty if they do not."""
    limit = raise_limit()
    if limit == resource.RLIM_INFINITY:
        return ""
    needed, most = BESIDES + EACH * runners, max(1, (limit - BESIDES) // EACH)
    if needed <= limit:
        return ""
    return (
        f"max={runners} runners need {needed} open files and connections in the driver, {EACH} for "
        f"each of them, and the system allows this process {limit}; write max={most}, or start it "
        f"where `ulimit -n {needed}` has been allowed and typed"
    )
