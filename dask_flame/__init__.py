"""Elastic Dask for notebooks: runners start when you submit calls and end when you stop.

Names are imported on first use, so that a runner or a supervisor does not import the driver's
modules.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dask_flame._lazy import attach as lazily
from dask_flame._version import __version__

if TYPE_CHECKING:
    from dask_flame.attached.application.expose import expose as expose
    from dask_flame.attached.client.attaching import applications as applications
    from dask_flame.attached.client.attaching import attach as attach
    from dask_flame.core.pool import Pool as Pool
    from dask_flame.core.runner_lost import RunnerLost as RunnerLost
    from dask_flame.driver.calls import call as call
    from dask_flame.driver.calls import cast as cast
    from dask_flame.driver.calls import on as on
    from dask_flame.driver.calls import place as place
    from dask_flame.driver.cluster import FlameCluster as FlameCluster
    from dask_flame.driver.connect.connecting import connect as connect
    from dask_flame.driver.post_mortem import post_mortem as post_mortem
    from dask_flame.errors import AttachError as AttachError
    from dask_flame.errors import BackendError as BackendError
    from dask_flame.errors import BootError as BootError
    from dask_flame.errors import BootTimeout as BootTimeout
    from dask_flame.errors import BudgetExhausted as BudgetExhausted
    from dask_flame.errors import CallFailed as CallFailed
    from dask_flame.errors import CallStopped as CallStopped
    from dask_flame.errors import CallTimeout as CallTimeout
    from dask_flame.errors import CellError as CellError
    from dask_flame.errors import FlameError as FlameError
    from dask_flame.errors import PoolError as PoolError
    from dask_flame.files.driver.fetch import fetch as fetch
    from dask_flame.lease.plugin import Lease as Lease
    from dask_flame.lease.recovery import recover as recover
    from dask_flame.lease.resume import resume_clients as resume_clients
    from dask_flame.notebook.watch import watch as watch
    from dask_flame.prints.scheduler.plugin import Prints as Prints
    from dask_flame.reports import Report as Report
    from dask_flame.reports import Reports as Reports
    from dask_flame.reports import label as label
    from dask_flame.reports import report as report
    from dask_flame.reports import reports_of as reports_of
    from dask_flame.reports import stream as stream
    from dask_flame.reports.driver.kept import runs as runs
    from dask_flame.reports.driver.run import run as run
    from dask_flame.reports.driver.stop import stop as stop
    from dask_flame.reports.runner.track import track as track
    from dask_flame.runner.devices import devices as devices
    from dask_flame.runner.setup import setup_result as setup_result

_HOME = {
    "AttachError": "dask_flame.errors",
    "BackendError": "dask_flame.errors",
    "BootError": "dask_flame.errors",
    "BootTimeout": "dask_flame.errors",
    "BudgetExhausted": "dask_flame.errors",
    "PoolError": "dask_flame.errors",
    "CallFailed": "dask_flame.errors",
    "CallStopped": "dask_flame.errors",
    "CallTimeout": "dask_flame.errors",
    "CellError": "dask_flame.errors",
    "FlameCluster": "dask_flame.driver.cluster",
    "FlameError": "dask_flame.errors",
    "Lease": "dask_flame.lease.plugin",
    "Pool": "dask_flame.core.pool",
    "Prints": "dask_flame.prints.scheduler.plugin",
    "Report": "dask_flame.reports",
    "Reports": "dask_flame.reports",
    "RunnerLost": "dask_flame.core.runner_lost",
    "applications": "dask_flame.attached.client.attaching",
    "attach": "dask_flame.attached.client.attaching",
    "call": "dask_flame.driver.calls",
    "cast": "dask_flame.driver.calls",
    "connect": "dask_flame.driver.connect.connecting",
    "devices": "dask_flame.runner.devices",
    "expose": "dask_flame.attached.application.expose",
    "fetch": "dask_flame.files.driver.fetch",
    "on": "dask_flame.driver.calls",
    "place": "dask_flame.driver.calls",
    "post_mortem": "dask_flame.driver.post_mortem",
    "label": "dask_flame.reports",
    "recover": "dask_flame.lease.recovery",
    "report": "dask_flame.reports",
    "reports_of": "dask_flame.reports",
    "resume_clients": "dask_flame.lease.resume",
    "run": "dask_flame.reports.driver.run",
    "runs": "dask_flame.reports.driver.kept",
    "setup_result": "dask_flame.runner.setup",
    "stop": "dask_flame.reports.driver.stop",
    "stream": "dask_flame.reports",
    "track": "dask_flame.reports.runner.track",
    "watch": "dask_flame.notebook.watch",
}

__all__ = [
    "AttachError",
    "BackendError",
    "BootError",
    "BootTimeout",
    "BudgetExhausted",
    "CallFailed",
    "CallStopped",
    "CallTimeout",
    "CellError",
    "FlameCluster",
    "FlameError",
    "Lease",
    "Pool",
    "PoolError",
    "Prints",
    "Report",
    "Reports",
    "RunnerLost",
    "__version__",
    "applications",
    "attach",
    "call",
    "cast",
    "connect",
    "devices",
    "expose",
    "fetch",
    "label",
    "on",
    "place",
    "post_mortem",
    "recover",
    "report",
    "reports_of",
    "resume_clients",
    "run",
    "runs",
    "setup_result",
    "stop",
    "stream",
    "track",
    "watch",
]


# Load the defaults into Dask's configuration. A process without Dask, such as the supervisor, does
# not need them.
if "dask.config" in sys.modules:
    import_module("dask_flame.core.config")


__getattr__, _ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(ipython: Any) -> None:
    """Load the extension for ``%load_ext dask_flame``, which adds ``%%flame``."""
    import_module("dask_flame.notebook").load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Unload the extension for ``%unload_ext dask_flame``."""
    import_module("dask_flame.notebook").unload(ipython)
