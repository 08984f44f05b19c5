"""Warn about Dask settings that have no effect here, if the user has set them (driver).

These do have an effect: ``distributed.nanny.environ`` and ``pre-spawn-environ``,
``temporary-directory``, and all settings that a worker or a scheduler reads itself.
"""

from __future__ import annotations

import warnings
from typing import Any

import dask.config

_NO_NANNY = "no nanny watches a runner"
#: For each setting: the replacement, or why there is none.
IGNORED = {
    "distributed.nanny.preload": f"{_NO_NANNY}; write Pool(preload=[…])",
    "distributed.nanny.preload-argv": f"{_NO_NANNY}; write Pool(preload=[…])",
    "distributed.worker.multiprocessing-method": "runners are forked, or interpreters of their own",
    "distributed.worker.daemon": "runners end with their driver in any case",
    "distributed.worker.resources": "write Pool(resources={…})",
    "distributed.worker.lifetime.restart": "runners boot when there are calls",
    "distributed.scheduler.idle-timeout": "write FlameCluster(max_lifetime=…)",
    "distributed.scheduler.no-workers-timeout": "write Pool(boot_timeout=…, boot_attempts=…)",
    "distributed.scheduler.work-stealing": "no call waits behind another one",
    "distributed.scheduler.worker-saturation": "write Pool(concurrency=…)",
    "distributed.adaptive.target-duration": "each change of demand is decided upon",
    "distributed.adaptive.wait-count": "write Pool(idle_timeout=…)",
    "distributed.adaptive.minimum": "write flame.pool.min",
    "distributed.adaptive.maximum": "write flame.pool.max",
}


def warn_of_ignored(stacklevel: int) -> None:
    """Warn once about all changed settings that have no effect."""
    defaults = dask.config.merge(*dask.config.defaults)
    changed = [
        name
        for name in IGNORED
        if (value := dask.config.get(name, default=None)) is not None
        and value != _default(defaults, name)
    ]
    if changed:
        lines = "".join(f"\n  {name}: {IGNORED[name]}" for name in changed)
        warnings.warn(
            f"these settings of Dask do not count for a FlameCluster:{lines}",
            UserWarning,
            stacklevel=stacklevel,
        )


def _default(defaults: dict[str, Any], name: str) -> Any:
    return dask.config.get(name, default=None, config=defaults)
