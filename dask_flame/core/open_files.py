"""How many files and connections a driver may have open, and what its runners need (driver).

The scheduler has a few connections to each runner. Many systems let a process have 1024 descriptors
open (macOS: 256), and more if it asks: the soft limit is raised to the hard one where a scheduler
starts. What it starts in turn has the usual one: there are programs that look at each descriptor
that they could have, or use select(), which takes no number above 1024.
"""

from __future__ import annotations

import resource

from dask_flame.errors import PoolError

#: Descriptors that the driver has open for each runner, at most: two that the runner has opened,
#: the scheduler's, the Client's, and two while results go home. Its guard has fewer.
EACH = 6
#: What Python, a notebook, Dask and its pages have open besides.
BESIDES = 100
#: Where the hard limit is "unlimited", and the kernel takes no such number (macOS).
_MANY = 10_240


#: What this process's limit was, by what it was raised to here: a process has but one.
_raised: dict[int, int] = {}


def usual_limit() -> int:
    """Return how many descriptors this process may have open, but for what was raised here."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _raised.get(soft, soft)


def raise_limit() -> int:
    """Let this process have as many descriptors open as it may; that number."""
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
    """Raise the limit, and see that so many runners are below it.

    Raises
    ------
    PoolError
        They are not, and the limit cannot be raised further from here.
    """
    if too_many := why_no_room(runners):
        raise PoolError(too_many)


def why_no_room(runners: int) -> str:
    """Return why so many runners cannot be, and what to write; empty if they can."""
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
