"""Run nanny plugins on runners, which have no nanny (scheduler, and a runner).

A Nanny is the parent process that restarts a worker of distributed. A runner is instead replaced
with another runner. So the nanny plugins of distributed itself run on the runner:
:class:`distributed.diagnostics.plugin.Environ`, ``UploadDirectory``, and packages installed with
``restart_workers=True``.
"""

from __future__ import annotations

import inspect
import os
from typing import Any

from distributed import WorkerPlugin
from distributed.diagnostics.plugin import Environ, NannyPlugin
from distributed.protocol import pickle

from dask_flame.errors import PoolError


class NannyPluginOnRunner(WorkerPlugin):
    """Run a nanny plugin on a runner.

    Parameters
    ----------
    plugin : NannyPlugin
        A nanny plugin of distributed itself. It gets the worker, which has the attributes of a
        nanny that these plugins use. Nothing is restarted: a module that has read an environment
        variable when it was imported keeps the old value.
    """

    def __init__(self, plugin: NannyPlugin) -> None:
        self.plugin = plugin

    async def setup(self, worker: Any) -> None:
        if isinstance(self.plugin, Environ):
            os.environ.update(self.plugin.environ)
            return
        done = self.plugin.setup(worker)
        if inspect.isawaitable(done):
            await done

    async def teardown(self, worker: Any) -> None:
        if not isinstance(self.plugin, Environ):
            done = self.plugin.teardown(worker)
            if inspect.isawaitable(done):
                await done


def on_runner(plugin: bytes) -> bytes:
    """Return the worker plugin that does the work of a pickled nanny plugin.

    Raises
    ------
    PoolError
        If the plugin is not one of distributed's own: it may need an actual nanny.
    """
    made = pickle.loads(plugin)
    kind = type(made)
    if kind.__module__ != NannyPlugin.__module__:
        raise PoolError(
            f"{kind.__name__} is a plugin of nannies, and runners have none, so it would never "
            "run; derive it from distributed.WorkerPlugin, whose setup(worker) runs on each "
            "runner, or write Pool(env={…}) or Pool(preload=[…])"
        )
    pickled: bytes = pickle.dumps(NannyPluginOnRunner(made))
    return pickled
