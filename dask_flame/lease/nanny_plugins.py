"""Plugins of nannies, on runners, which have none (scheduler, and a runner).

A Nanny is the parent process that restarts distributed's own workers. A runner's place is taken by
another runner instead. So what distributed's own plugins of nannies do, they do on the runner
itself: :class:`distributed.diagnostics.plugin.Environ`, ``UploadDirectory``, and what is installed
with ``restart_workers=True``.
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
    """Does on a runner what a plugin of nannies does.

    Parameters
    ----------
    plugin : NannyPlugin
        One of distributed's own. They are given the worker, which has the attributes of a nanny
        that they use. Nothing is restarted: what a module has read of a variable when it was
        imported, it keeps.
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
    """Return the plugin of workers that does what a pickled plugin of nannies does.

    Raises
    ------
    PoolError
        If it is none of distributed's own: nobody can say what it needs of a nanny.
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
