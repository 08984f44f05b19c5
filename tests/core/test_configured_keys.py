"""Each documented setting arrives where it is used, or a test of its own shows its effect."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pytest

from dask_flame import Pool
from dask_flame.backends.slurm import SlurmBackend
from dask_flame.backends.slurm.options import SlurmOptions, complete
from dask_flame.backends.specs import BackendContext, RunnerSpec
from dask_flame.code.driver import local_code
from dask_flame.core.config import DEFAULTS
from dask_flame.driver.cluster import FlameCluster
from dask_flame.lease import Lease
from dask_flame.prints.settings import limits, shown
from dask_flame.reports.driver import keeper

# Extras: the unit tests run without them, too.
for _needed in ("asyncssh", "httpx"):
    pytest.importorskip(_needed)

from dask_flame.backends.fly import FlyBackend  # noqa: E402
from dask_flame.backends.ssh import SshBackend  # noqa: E402

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
SPEC = RunnerSpec(name="runner-1", scheduler="", concurrency=1, boot_timeout=1)
CONTEXT = BackendContext(cluster="c", ended=lambda ended: None)

#: Another value than the default, and the value that a pool has then, if it is not the same.
POOL: dict[str, tuple[Any, ...]] = {
    "min": (1,),
    "max": (7,),
    "concurrency": (3,),
    "idle-timeout": ("7s", 7.0),
    "idle-bounds": (["3s", "7m"], (3.0, 420.0)),
    "min-idle-timeout": ("8s", 8.0),
    "boot-timeout": ("9s", 9.0),
    "shutdown-timeout": ("10s", 10.0),
    "spare": (2,),
    "single-use": (True,),
    "post-mortem": (True,),
    "boot-attempts": (5,),
    "price": (2.5,),
    "on-boot-failure": ("wait",),
}

#: The same for options of backends, as a runner has them whose pool does not give them.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "fly.app": ("other-runners",),
    "fly.region": ("ams",),
    "fly.image": ("registry.fly.io/other:2",),
    "fly.cpu-kind": ("performance",),
    "fly.reach": ("public",),
    "slurm.partition": ("long",),
    "slurm.account": ("physics",),
    "slurm.qos": ("high",),
    "slurm.constraint": ("skylake",),
    "slurm.time": ("3h", 10800),
    "slurm.interface": ("ib0",),
    "slurm.folder": ("/scratch/me",),
    "slurm.python": ("/opt/python",),
    "slurm.local-directory": ("/local",),
    "slurm.job-extra-directives": (["--exclusive"], ("--exclusive",)),
    "slurm.job-directives-skip": (["--mem"], ("--mem",)),
    "slurm.job-script-prologue": (["module load cuda"], ("module load cuda",)),
    "slurm.job-script-epilogue": (["nvidia-smi"], ("nvidia-smi",)),
    "slurm.shebang": ("#!/bin/sh",),
    "ssh.python": ("/opt/python",),
    "ssh.reach": ("direct",),
}

_OF_A_RUNNER: dict[str, Callable[[], Any]] = {
    "fly": lambda: FlyBackend(CONTEXT)._options(SPEC),
    "slurm": lambda: complete({}),
    "ssh": lambda: SshBackend(CONTEXT)._options(SPEC),
}


def _scan_options(name: str) -> Any:
    code = local_code.LocalCode([str(ROOT / "tests/support")])
    try:
        return getattr(code.scan.options, name)
    finally:
        code.close()


#: A value, the value that arrives, and where.
OTHERS: dict[str, tuple[Any, Any, Callable[[], Any]]] = {
    "disconnect-grace": ("7s", 7.0, lambda: Lease().grace),
    "silence": ("8s", 8.0, lambda: Lease().silence),
    "max-lifetime": ("9s", 9.0, lambda: Lease().max_lifetime),
    "scheduler.where": ("driver", "driver", lambda: FlameCluster._where(FlyBackend, None)),
    "code.file-limit": ("1 MiB", 1 << 20, lambda: _scan_options("most_bytes")),
    "code.limit": ("2 MiB", 2 << 20, lambda: _scan_options("limit")),
    "prints.show": (False, False, shown),
    "local.echo": (False, False, shown),
    "prints.burst": (11, 11, lambda: limits().burst),
    "prints.rate": (12, 12, lambda: limits().rate),
    "prints.total-burst": (13, 13, lambda: limits().total_burst),
    "prints.total-rate": (14, 14, lambda: limits().total_rate),
    "reports.keep-runs": (15, 15, lambda: keeper.limits().runs),
    "reports.keep-age": ("16s", 16.0, lambda: keeper.limits().age),
    "slurm.drain": ("18s", 18.0, lambda: SlurmOptions.setting("drain")),
    "slurm.poll": ("19s", 19.0, lambda: SlurmOptions.setting("poll")),
    "reports.keep-size": ("17 MiB", 17 << 20, lambda: keeper.limits().size),
}

_KUBERNETES = "tests/backends/kubernetes/test_configured.py"
_REMOTE = "tests/driver/hosts/test_remote.py"

#: The tests that show the effect of the others.
SHOWN_BY = {
    "backend": "tests/backends/kubernetes/test_inspector.py::typed",
    "budget": "tests/driver/test_budget_watch.py::test_the_time_of_runners_needs_no_price",
    "capacity-retry": f"{_REMOTE}::test_kinds_of_pod_are_chosen_where_the_scheduler_is",
    "capacity-wait": "tests/backends/kubernetes/test_capacity.py::test_a_pool_of_one_kind_waits",
    "currency": "tests/core/test_budget.py::test_the_currency_of_the_configuration_is_one",
    "dashboard.token": "tests/dashboard/test_access.py::test_a_token_of_ones_own_and_none",
    "files.limit": "tests/files/driver/test_option.py::test_a_limit_of_their_size",
    "fly.api": "tests/backends/fly/api/test_credentials.py::test_networks_that_need_no_tls",
    "fly.flyctl": "tests/backends/fly/test_cluster.py::"
    "test_flyctl_that_is_missing_is_said_before_anything_runs",
    "fly.logs-api": "tests/backends/fly/test_inspector.py::test_output_that_cannot_be_had_is_said",
    "fly.public-address": "tests/backends/fly/conftest.py::outside",
    "fly.rate": "tests/backends/fly/world.py::settings",
    "fly.token": "tests/backends/fly/test_machine_requests.py::test_no_machine_gets_the_token",
    "home.memory": "tests/core/test_config.py::test_clusters_in_and_after_a_block",
    "inline-result": "tests/scheduler/test_inline_results.py::"
    "test_none_is_sent_if_the_setting_says_so",
    "kubernetes.context": "tests/backends/kubernetes/objects/test_context.py::"
    "test_the_configuration_says_it_as_well",
    "kubernetes.namespace": "tests/backends/kubernetes/objects/test_context.py::"
    "test_the_configuration_says_it_as_well",
    **dict.fromkeys(
        [
            "home.limit",
            "kubernetes.gpu-kinds",
            "kubernetes.gpu-label",
            "kubernetes.image",
            "kubernetes.network-policy",
            "kubernetes.pod-template",
            "kubernetes.read-only-root",
        ],
        f"{_KUBERNETES}::test_settings_reach_the_pods_of_runners",
    ),
    **dict.fromkeys(
        [
            "scheduler.cpus",
            "scheduler.dashboard-port",
            "scheduler.memory",
            "scheduler.pod-template",
            "scheduler.port",
        ],
        f"{_KUBERNETES}::test_settings_reach_the_schedulers_pod",
    ),
    "local.fork": "tests/backends/local/test_fork_server.py::"
    "test_without_templates_where_they_are_not_wanted",
    "packages": "tests/core/test_packages_option.py::test_the_configuration",
    "reports.hide-random": "tests/core/test_argument_text.py::"
    "test_whether_random_texts_are_hidden_is_a_setting",
    "reports.keep": "tests/reports/driver/test_archive.py::"
    "test_a_cluster_prunes_the_file_that_it_writes",
    "reports.names": "tests/reports/runner/test_validate.py::"
    "test_a_call_has_a_most_of_names_and_is_told_once",
    "reports.stop": "tests/dashboard/flame/test_actions.py::"
    "test_a_page_of_all_machines_cannot_unless_it_is_configured",
    "scheduler.service": f"{_REMOTE}::give_an_address",
    "scheduler.timeout": f"{_REMOTE}::test_a_scheduler_that_cannot_start",
    "ssh.config": "tests/backends/ssh/driver.py::main",
    "ssh.connect-timeout": "tests/backends/ssh/driver.py::main",
    "ssh.hosts": "tests/backends/ssh/conftest.py::ssh",
    "ssh.silence": "tests/backends/ssh/test_ends.py::test_a_frozen_connection_ends_on_both_sides",
}


def test_no_setting_is_left_out() -> None:
    documented = {
        f"{name}.{inner}" if inner else name
        for name, value in DEFAULTS["flame"].items()
        for inner in (value if isinstance(value, dict) else [""])
    }
    here = [*(f"pool.{name}" for name in POOL), *OPTIONS, *OTHERS, *SHOWN_BY]
    assert len(here) == len(set(here))
    assert set(here) == documented


@pytest.mark.parametrize("where", sorted(set(SHOWN_BY.values())))
def test_the_tests_of_the_others_are_there(where: str) -> None:
    file, _, function = where.partition("::")
    assert re.search(rf"def {function}\(", (ROOT / file).read_text())


@pytest.mark.parametrize("name", POOL)
def test_settings_of_pools_arrive(name: str) -> None:
    value, arrives = POOL[name][0], POOL[name][-1]
    option = name.replace("-", "_")
    assert getattr(Pool(), option) != arrives
    with dask.config.set({f"flame.pool.{name}": value}):
        assert getattr(Pool(), option) == arrives


@pytest.mark.parametrize("key", OPTIONS)
def test_settings_of_backends_arrive(key: str) -> None:
    value, arrives = OPTIONS[key][0], OPTIONS[key][-1]
    backend, _, name = key.partition(".")
    option = name.replace("-", "_")
    of_a_runner = _OF_A_RUNNER[backend]
    assert getattr(of_a_runner(), option) != arrives
    with dask.config.set({f"flame.{key}": value}):
        assert getattr(of_a_runner(), option) == arrives


@pytest.mark.parametrize("backend", ["fly", "slurm", "ssh"])
def test_a_block_of_settings_may_end_before_a_boot(backend: str) -> None:
    """What a backend was made with stays, as it does for pools."""
    made = {"fly": FlyBackend, "slurm": SlurmBackend, "ssh": SshBackend}[backend]
    name = {"fly": "image", "slurm": "partition", "ssh": "python"}[backend]
    with dask.config.set({f"flame.{backend}.{name}": "mine"}):
        cluster = made(CONTEXT)
    assert getattr(_options_of(cluster), name) == "mine"


def _options_of(cluster: Any) -> Any:
    if isinstance(cluster, SlurmBackend):
        return complete(SPEC.options, cluster._configured)
    return cluster._options(SPEC)


@pytest.mark.parametrize("key", OTHERS)
def test_settings_arrive(key: str) -> None:
    value, arrives, read = OTHERS[key]
    assert read() != arrives
    with dask.config.set({f"flame.{key}": value}):
        assert read() == arrives
