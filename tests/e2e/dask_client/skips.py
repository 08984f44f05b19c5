"""Which of distributed's tests are not run on a FlameCluster, mostly by what their code names."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

_OTHER_CLUSTER = "starts a cluster of another kind"

#: What a test names that is of its own cluster, and why that test is skipped.
NAMES = {
    "Worker": "starts a Worker of its own",
    "Nanny": "starts a Nanny of its own",
    "BlockedGatherDep": "starts a Worker of its own",
    "BlockedGetData": "starts a Worker of its own",
    "BlockedInstantiateNanny": "starts a Nanny of its own",
    "Scheduler": "starts a Scheduler of its own",
    "LocalCluster": _OTHER_CLUSTER,
    "SubprocessCluster": _OTHER_CLUSTER,
    "popen": "starts a cluster by commands",
    "tls_only_security": "wants certificates that are not installed",
}

#: What only the asynchronous tests must not name, whose workers share memory upstream.
SHARED_MEMORY = dict.fromkeys(("varying", "map_varying"), "counts attempts in shared memory")

#: Tests that pass or fail by how fast a machine is and what its network is like, and why.
BY_CHANCE = {
    "test_bad_address": "connects to an address in the internet",
    "test_get_foo_lost_keys": "counts workers after a loss, when the pool boots another",
    "test_many_submits_spread_evenly": "wants quick calls to spread, which any free slot may take",
}


def skipped(function: Callable[..., Any]) -> str:
    """Return why this test is skipped; empty if it is run."""
    function = getattr(function, "__wrapped__", function)
    named = {name for code in _codes(function.__code__) for name in code.co_names}
    if function.__name__ in BY_CHANCE:
        return BY_CHANCE[function.__name__]
    reasons = NAMES | (SHARED_MEMORY if inspect.iscoroutinefunction(function) else {})
    return next((why for name, why in reasons.items() if name in named), "")


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
