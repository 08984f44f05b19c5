"""Wrong values of every option: each is refused at once, by name, with a line that works."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from fractions import Fraction
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import pytest
from distributed import Security
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.ioloop import IOLoop

import dask_flame
from dask_flame import FlameCluster, FlameError, Lease, Pool, PoolError, Prints, Reports
from dask_flame.backends import Backend
from dask_flame.backends.fly import FlyOptions
from dask_flame.backends.kubernetes import KubernetesOptions
from dask_flame.backends.local import LocalOptions
from dask_flame.backends.slurm import SlurmOptions
from dask_flame.backends.ssh.options import SshOptions
from dask_flame.core import backend_options
from dask_flame.core.backend_options import option_names
from dask_flame.core.config import DEFAULTS
from dask_flame.core.option_checks import shown
from dask_flame.core.ranges import RUNNERS
from dask_flame.core.rate_limit import Limits
from dask_flame.core.settings import SETTINGS
from dask_flame.errors import ClosedError
from dask_flame.scaling.fleet import Fleet
from tests.support.examples import examples

GPU_POD = Path(__file__).parents[2] / "deploy/kubernetes/gpu/gke/pod.yaml"

nan, inf = math.nan, math.inf


@pytest.fixture(autouse=True, scope="module")
def _one_look_at_what_is_installed() -> Iterator[None]:
    """An unknown option has the installed packages read, which takes longer than all else."""
    with pytest.MonkeyPatch.context() as patch:
        found = functools.cache(backend_options.entry_points)
        patch.setattr(backend_options, "entry_points", found)
        yield


class Odd:
    """A value of no kind, whose repr is no help."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


_JUNK: list[Any] = [b"8", [3], (1,), {1: 2}, {3}, object(), Odd(), 1j, np.array([1, 2]), print]
_NOT_NUMBERS = [True, nan, inf, -inf, -1, 10**30, 10**5000, Fraction(10**400), "", " ", "8", *_JUNK]
COUNTS = [1.5, *_NOT_NUMBERS]
NUMBERS = [0, *_NOT_NUMBERS]
DURATIONS = [
    *(True, nan, inf, -inf, -1, 10**30, 10**5000, Fraction(10**400), *_JUNK),
    *("", " ", "s", "soon", "5 parsecs", "-1s", "inf s", "1e30 s", "8" * 5000 + "s"),
    *(timedelta(-1), timedelta.max, np.timedelta64("nat", "s"), np.array([60])),
]
SIZES = [
    *(True, nan, inf, -inf, -1, 0, 0.5, 1, 4, 4096, 10**30, 10**5000, Fraction(10**400), *_JUNK),
    *("", " ", "GB", "lots", "4 GX", "-1 GB", "1e30 GB", "4", "inf"),
]


def _is_small(size: Any) -> bool:
    """Whether it is a size from zero on, which only few settings may be."""
    return type(size) in (int, float, str) and size in (0, 0.5, 1, 4, 4096, "4")


YES_OR_NO = [0, 1, nan, "", "yes", "True", *_JUNK]
FUNCTIONS = [True, 0, 1, nan, "", "print", *(junk for junk in _JUNK if junk is not print)]
WORDS = [True, 0, 1, nan, 10**5000, "", " ", " a", *_JUNK]
CHOICES = [*WORDS, "Fail", "nonsense"]
NAMES = [*WORDS, [""], ["a", 1], [" "], (b"a",)]
PACKAGES = [True, 0, 1, nan, "", "a==1", [], [""], ["a=1"], ["-r a"], ["./a-1.tar.gz"], *_JUNK]
PAIRS = [True, 1, nan, "", "a=b", {"a": 1}, {"": "b"}, {"a b": "c"}, *_JUNK]


@dataclass
class Row:
    """An option: what is wrong for it, what is right, and how it is given.

    Those whose values may be secrets are not shown.
    """

    name: str
    wrong: Sequence[Any]
    right: Sequence[Any] = ()
    use: Callable[[str, Any], object] = lambda name, value: Pool(**{name: value})
    secret: bool = False
    where: str = "Pool"
    errors: tuple[type[Exception], ...] = field(default=(PoolError,))

    def __str__(self) -> str:
        return f"{self.where}-{self.name}"


def nothing(context: Any) -> None:
    """What makes no backend: a cluster that has no other fault is refused for it, at the end."""


def cluster(name: str, value: Any, **more: Any) -> None:
    """Check an option of a cluster, without starting one."""
    options = {"backend": nothing, **more, name: value}
    if name == "backend":
        options["asynchronous"] = b"never"
    with pytest.raises(PoolError) as caught:
        FlameCluster(**options)
    last = "asynchronous=b'never'" if name == "backend" else "backend=<function nothing"
    if not str(caught.value).startswith(last):
        raise caught.value


def setting(name: str, value: Any) -> None:
    with dask.config.set({"flame.pool.price": 2.5, name: value}):
        if name.startswith("flame.pool."):
            Pool()
        else:
            cluster("max", 1)


def files(name: str, value: Any) -> None:
    """Check the files of a cluster, in a folder that has what the lines to write name."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.mkdir("data")
        cluster(name, value)


def submitted(how: Callable[..., object], name: str, value: Any) -> None:
    """Have something called, where there is no client for it."""
    with pytest.raises((FlameError, TypeError)) as caught:
        how(print, **{name: value})
    if "there is no Dask client" not in str(caught.value):
        raise caught.value


def by_keyword(what: Callable[..., object], *first: Any) -> Callable[[str, Any], object]:
    return lambda name, value: what(*first, **{name: value})


SECRETS = [{"a b": "s3cret"}, True, 1, nan, "", {"": "s3cret"}, {"A": 1}, *_JUNK]

CPUS = [0, 5000, "0m", "2Gi", "1e3", *(v for v in _NOT_NUMBERS if not isinstance(v, str))]

POOL = [
    Row("min", COUNTS, [0, 1, 1.0, np.int64(1), np.float32(1)]),
    Row("max", COUNTS, [0, 8, RUNNERS, 8.0, np.int8(8), np.float64(8)]),
    Row("concurrency", [0, *COUNTS], [1, 64, np.uint16(4)]),
    Row("spare", COUNTS, [0, np.int64(2)]),
    Row("boot_attempts", [0, *COUNTS], [1, 1000]),
    Row("cpus", CPUS, [1, 64, 0.5, "500m", np.int32(2), np.float64(0.5)]),
    Row("gpus", COUNTS, [0, 8, np.int64(8)]),
    Row("price", NUMBERS, [0.01, 3, np.float32(2.5), Fraction(1, 2)]),
    *(
        Row(
            name,
            DURATIONS,
            [0, 1.5, "60s", timedelta(1), np.float64(2), np.timedelta64(5, "s"), *more],
        )
        for name, *more in (("idle_timeout", "auto"), ("min_idle_timeout",), ("shutdown_timeout",))
    ),
    Row(
        "idle_bounds",
        [
            *(True, 1, nan, "", "2s", ["2s"], ["2s", "1s"], [0, 0], [1, 2, 3], [-1, 2], [1, None]),
            *_JUNK,
        ],
        [("2s", "15m"), [0, 5], [np.float64(1), timedelta(1)]],
    ),
    Row("boot_timeout", [0, "0s", *DURATIONS], [0.1, "2m", np.str_("2m")]),
    Row("memory", [*SIZES, "63 MiB", "2 PiB"], ["64 MiB", 2**30, "4GB", np.int64(2**30)]),
    Row("single_use", YES_OR_NO, [True, False, np.True_]),
    Row("post_mortem", YES_OR_NO, [True, False]),
    Row("on_boot_failure", CHOICES, ["fail", "wait", np.str_("wait")]),
    *(Row(name, FUNCTIONS, [print, int]) for name in ("idle_check", "on_grow", "on_shrink")),
    Row("setup", FUNCTIONS, [print, int]),
    Row(
        "resources",
        [
            *(True, 1, nan, "", "GPU", {"": 1}, {" ": 1}, {1: 1}, {"a": 0}, {"a": -1}, {"a": "1"}),
            *({"a": nan}, {"a": inf}, {"a": True}, {"a": 10**30}, {"a": None}, *_JUNK),
        ],
        [{}, {"GPU": 1}, {"a": np.float32(0.5)}],
    ),
    Row("env", [*SECRETS[1:], {"A=B": "s3cret"}, {"A": "\0"}], [{}, {"A": "b"}], secret=True),
    Row(
        "preload",
        [True, 1, nan, "", " ", "numpy", [""], [" "], ["a b"], ["-c"], ["a", 1], *_JUNK],
        [[], (), ["numpy"], ("a.b",), [np.str_("numpy")]],
    ),
    Row("options", [True, 1, "", *_JUNK], secret=True),
    *(
        Row(name, WORDS, ["a", "a/b:1"])
        for name in (
            *("image", "gpu_resource"),
            *("priority_class", "runtime_class", "service_account"),
        )
    ),
    Row("gpu_kind", [*WORDS, [], ["a", "a"], ["a", 1]], ["a", "a/b:1", ["a", "b"], ("a",)]),
    Row("shm_size", SIZES, ["2 GiB", 2**20]),
    Row("node_selector", PAIRS, [{}, {"disk": "ssd"}]),
    Row("labels", [*PAIRS, {"dask.org/x": "y"}], [{"a": "b"}]),
    Row("annotations", [*PAIRS, {"dask.org/x": "y"}], [{"a": "any text"}]),
    Row(
        "tolerations", [True, 1, nan, "", {"key": "a"}, [{}], [{"k": 1}], *_JUNK], [[{"key": "a"}]]
    ),
    Row("spot", [*YES_OR_NO, [], ["prefer"]], [True, False, "prefer", [False, True]]),
    Row("read_only_root", YES_OR_NO, [True, False]),
    Row("image_pull_secrets", NAMES, [["a"], ("a", "b")]),
    Row(
        "volumes",
        [
            *(True, 1, nan, "", {"data": "claim"}, {"/data": ""}, {"/data": 1}, {"/data": {}}),
            *({"/a:b": "claim"}, {1: "claim"}, *_JUNK),
        ],
        [{"/data": "claim"}, {"/x": {"emptyDir": {}, "subPath": "y"}}],
        secret=True,
    ),
    Row("app", [*WORDS, "My App", "-a", "a/b", "a" * 64], ["a", "my-runners"]),
    Row("region", [*WORDS, "Frankfurt", [], ["a", "b"], ["fra", 1]], ["fra", ["fra", "ams"]]),
    Row("cpu_kind", [*CHOICES, []], ["shared", ["performance", "shared"]]),
    Row("reserve", COUNTS, [0, 8, np.int64(2)]),
    Row("reach", CHOICES, ["proxy", "wireguard", "public", "auto", "forward", "direct"]),
    # tests/backends/ssh/test_hosts.py has what is wrong in one of them.
    Row("hosts", [1, True, [], ["a", "a"]], [["a", "me@b:22"], "a", {"host": "a", "gpus": 1}]),
    Row(
        "mounts",
        [
            *PAIRS,
            {"data": "vol_1"},
            {"/data": "claim"},
            {"/": "vol_1"},
            {"/a": "vol_1", "/b": "vol_2"},
        ],
        [{"/data": "vol_1"}],
    ),
    *(
        Row(name, WORDS, ["a", "a b"])
        for name in ("partition", "account", "qos", "constraint", "interface", "python", "shebang")
    ),
    Row("local_directory", WORDS, ["/scratch"]),
    Row("folder", [*WORDS, "here"], ["/scratch/me", "~/flame", Path("/scratch")]),
    Row("time", [0, "5s", "1:2:3:4", *DURATIONS], ["2h", 60, "1-12:00:00", np.int64(3600)]),
    *(
        Row(
            f"job_{name}",
            [True, 1, nan, "", "text", [3], ["a\nb"]],
            [["a"], ("a", "b"), {"a": "b"}],
        )
        for name in ("extra_directives", "directives_skip", "script_prologue", "script_epilogue")
    ),
    Row("secrets", SECRETS, [{"A": "b"}, {"PATH": None}, ["PATH"], ("PATH",), []], secret=True),
    Row(
        "pod_template",
        [True, 1, nan, "", " ", "no/such/file.yaml", "\0", "x" * 5000, *_JUNK[:3], object()],
        [{"spec": {}}, lambda pod: pod, str(GPU_POD)],
        secret=True,
    ),
]

BUDGETS = [
    *(True, 20, nan, "", " ", "20", "USD", "-1 h", "0 USD", "20 m", "3 gpu", "20 %", "1 2 h"),
    [20, "h"],
    *_JUNK,
]
SEATS = [*CHOICES, "pod", "Driver"]
CLUSTER = [
    *(
        Row(row.name, row.wrong, row.right, cluster, row.secret, "FlameCluster")
        for row in POOL
        if row.name not in option_names() | {"options", "max"}
    ),
    Row("max", [0, *COUNTS], [1, RUNNERS, np.int64(3)]),
    Row("disconnect_grace", DURATIONS, [0, "10s"]),
    Row("max_lifetime", [0, 0.001, "1ms", *DURATIONS], [1, "8h"]),
    Row("home_limit", SIZES, ["1 MB", 2**40]),
    Row("budget", BUDGETS, ["20 USD", "$20", "40 runner-hours", "90 min", np.str_("1 h"), None]),
    Row(
        "code",
        [*(0, 1, nan, "", "src", {}, [1], [""], ["no/such"], (None,)), *_JUNK],
        [True, False, [], ["tests"], (__file__,), [dask_flame], [Path(__file__)]],
    ),
    Row(
        "files",
        [
            *(True, 0, nan, "", "data", [("data", "data")], {"": "data"}, {"data": ""}, *_JUNK),
            *({"data": None}, {"data": "~"}, {b"data": "data"}, {"data": "a\0b"}),
        ],
        [None, {}, {"data": "data"}, {Path("data"): Path("/data")}],
    ),
    Row("packages", PACKAGES, ["check", "sync", False, "ignore", ["a==1"], np.str_("sync")]),
    Row("name", ["a/b", "-a", "a" * 42, "é", *WORDS], ["a", "a-1"]),
    Row("asynchronous", [True, *YES_OR_NO], [False, np.False_]),
    Row(
        "dashboard_address",
        [
            *(True, False, 0, 5, 8787, nan, "", " ", ":", "nonsense", "127.0.0.1", ":99999"),
            *(":-1", "127.0.0.1:http", "no such host:1", "1.2.3.4.5:1", "a" * 99 + ":1"),
            *("http://127.0.0.1:8787", "198.51.100.7:8787", "127.0.0.1:1:2", *_JUNK),
        ],
        [":0", "0", "127.0.0.1:8787", "localhost:80", "0.0.0.0:0", np.str_(":0")],
    ),
    Row(
        "silence_logs",
        [True, -1, 101, 1.5, nan, inf, 10**30, 10**5000, "", " ", "abc", *_JUNK],
        [None, False, 0, 30, logging.ERROR, "ERROR", "warning", np.int64(30), 40.0],
    ),
    Row("loop", [True, 0, 1, "", "loop", *_JUNK], [None]),
    Row("scheduler", SEATS, ["auto", "driver"]),
    Row(
        "pools",
        [
            *(True, 0, 1, "", "cpu", {}, {"a b": Pool()}, {"": Pool()}, {1: Pool()}),
            *({"a": 5}, {"a": {"max": 3}}, {"a": Pool}, [Pool()], *_JUNK),
        ],
        [{"a": Pool(max=1)}],
        secret=True,
    ),
    Row(
        "security",
        ["", "yes", 0, 1, {"tls_key": "s3cret"}, *_JUNK],
        [True, Security()],
        secret=True,
    ),
    Row(
        "backend",
        [
            *(
                True,
                0,
                1,
                nan,
                "",
                " ",
                int,
                object,
                Backend,
                Pool,
                lambda: None,
                lambda a, b: None,
            ),
            *(junk for junk in _JUNK if junk is not print),
        ],
        ["local", nothing, partial(nothing)],
    ),
]
for _row in CLUSTER:
    _row.where, _row.use = "FlameCluster", files if _row.name == "files" else cluster
    if _row.name == "budget":
        _row.use = partial(cluster, price=2.5)

_CONFIGURED = {
    "backend": [0, nan, "", " ", [3], {1: 2}],
    "disconnect-grace": DURATIONS,
    "silence": DURATIONS,
    "packages": PACKAGES,
    "max-lifetime": [0, 0.001, *DURATIONS],
    "budget": BUDGETS,
    "currency": WORDS,
    "capacity-wait": [0, *DURATIONS],
    "capacity-retry": [0, *DURATIONS],
    "scheduler.where": CHOICES,
    "scheduler.cpus": CPUS,
    "scheduler.memory": SIZES,
    "scheduler.service": CHOICES,
    "scheduler.port": [0, 65_536, *COUNTS],
    "scheduler.dashboard-port": [0, 65_536, *COUNTS],
    "scheduler.pod-template": [True, 1, "", [3], {}],
    "scheduler.timeout": [0, *DURATIONS],
    "dashboard.token": [True, 1, 10**20, nan, "", "s3cret", "s3cret" * 3 + "/", " " * 16, *_JUNK],
    "inline-result": ["2 MiB", *(size for size in SIZES if size is True or not _is_small(size))],
    "files.limit": SIZES,
    "home.limit": SIZES,
    "home.memory": SIZES,
    "code.limit": SIZES,
    "code.file-limit": SIZES,
    "prints.show": YES_OR_NO,
    "prints.burst": [0, *COUNTS],
    "prints.rate": NUMBERS,
    "prints.total-burst": [0, *COUNTS],
    "prints.total-rate": NUMBERS,
    "reports.names": [0, *COUNTS],
    "reports.hide-random": YES_OR_NO,
    "reports.keep": WORDS,
    "reports.keep-runs": [0, *COUNTS],
    "reports.keep-age": [0, *DURATIONS],
    "reports.keep-size": SIZES,
    "reports.stop": YES_OR_NO,
    "local.echo": YES_OR_NO,
    "local.fork": YES_OR_NO,
    "kubernetes.namespace": WORDS,
    "kubernetes.context": WORDS,
    "kubernetes.image": WORDS,
    "kubernetes.gpu-kinds": [True, 1, "", "a", [3], {"a": 1}, {"a": "b"}],
    "kubernetes.gpu-label": WORDS,
    "kubernetes.pod-template": [True, 1, "", [3], {}],
    "kubernetes.network-policy": YES_OR_NO,
    "kubernetes.read-only-root": YES_OR_NO,
    "ssh.hosts": [1, True, [], ["a", "a"]],
    "ssh.python": WORDS,
    "ssh.reach": CHOICES,
    "ssh.config": [True, 1, "", " ", *_JUNK],
    "ssh.connect-timeout": [*DURATIONS, 0],
    "ssh.silence": [*DURATIONS, 0],
    "fly.app": [*WORDS, "My App"],
    "fly.region": [*WORDS, "Frankfurt", [], ["fra", 1]],
    "fly.image": WORDS,
    "fly.cpu-kind": CHOICES,
    "fly.reach": CHOICES,
    "fly.token": [True, 1, 10**20, nan, "", " ", *_JUNK],
    "fly.api": WORDS,
    "fly.logs-api": WORDS,
    "fly.rate": NUMBERS,
    "fly.flyctl": WORDS,
    "fly.public-address": WORDS,
    **{
        f"slurm.{name}": WORDS
        for name in ("partition", "account", "qos", "constraint", "interface", "python", "shebang")
    },
    "slurm.local-directory": WORDS,
    "slurm.folder": [*WORDS, "here"],
    "slurm.time": [0, "5s", "1:2:3:4", *DURATIONS],
    **{
        f"slurm.job-{name}": [True, 1, "text", [3], ["a\nb"]]
        for name in ("extra-directives", "directives-skip", "script-prologue", "script-epilogue")
    },
    "slurm.poll": [0, *DURATIONS],
    "slurm.drain": [0, *DURATIONS],
    **{
        f"pool.{row.name.replace('_', '-')}": row.wrong
        for row in POOL
        if row.name.replace("_", "-") in DEFAULTS["flame"]["pool"]
    },
}
#: A mapping is a section of settings to Dask, and a set is no value of YAML.
CONFIGURED = [
    Row(
        f"flame.{name}",
        [v for v in wrong if not isinstance(v, dict) or "kinds" in name],
        use=setting,
        secret="token" in name,
        where="configuration",
    )
    for name, wrong in _CONFIGURED.items()
]

ELSEWHERE = [
    *(
        Row(name, wrong, right, by_keyword(Lease), where="Lease")
        for name, wrong, right in (
            ("grace", DURATIONS, [0, "10s"]),
            ("silence", DURATIONS, [0, "60s"]),
            ("max_lifetime", [0, 0.001, *DURATIONS], [1, "8h"]),
            ("first", DURATIONS, [0, "5m"]),
            ("on_lapse", FUNCTIONS, [print]),
            ("on_return", FUNCTIONS, [print]),
        )
    ),
    Row("calls", [0, *COUNTS], [1, np.int64(10)], by_keyword(Reports), where="Reports"),
    Row("points", [0, 99, *COUNTS], [100], by_keyword(Reports), where="Reports"),
    Row("total", [0, 99, *COUNTS], [100], by_keyword(Reports), where="Reports"),
    Row("names", [0, *COUNTS], [1, np.int64(10)], by_keyword(Reports), where="Reports"),
    Row("hide_random", YES_OR_NO, [True, np.False_], by_keyword(Reports), where="Reports"),
    Row("limits", [True, 1, "", Limits, *_JUNK], [Limits()], by_keyword(Prints), where="Prints"),
    Row("to", FUNCTIONS, [print], by_keyword(Prints), where="Prints"),
    *(
        Row(name, wrong, [1], lambda n, v: Prints(Limits(**{n: v})), where="Limits")
        for name, wrong in (
            ("burst", [0, *COUNTS]),
            ("rate", NUMBERS),
            ("total_burst", [0, *COUNTS]),
            ("total_rate", NUMBERS),
        )
    ),
    *(
        Row(name, wrong, right, by_keyword(dask_flame.on), where="on")
        for name, wrong, right in (
            ("pool", WORDS, ["gpu", np.str_("gpu")]),
            ("timeout", [0, "0s", *DURATIONS], [1, "5m", np.float32(3)]),
            ("rerun", YES_OR_NO, [True, False, np.False_]),
        )
    ),
    *(
        Row(name, wrong, (), partial(submitted, how), where=how.__name__)
        for how in (dask_flame.call, dask_flame.cast)
        for name, wrong in (
            ("pool", WORDS),
            ("timeout", [0, *DURATIONS]),
            ("rerun", YES_OR_NO),
        )
    ),
    Row("pool", WORDS, (), partial(submitted, dask_flame.place), where="place"),
    Row(
        "items", [5, nan, None, object(), Odd(), True], [[], "ab", {}], by_keyword(dask_flame.track)
    ),
    Row("total", COUNTS, [0, 9, None, np.int64(3)], by_keyword(dask_flame.track, [1])),
    Row("every", DURATIONS, [0, "1s"], by_keyword(dask_flame.track, [1])),
    Row("limit", [0, None, *COUNTS], [1, np.int64(9)], by_keyword(dask_flame.stream, [])),
    Row("metric", WORDS, ["loss", None], by_keyword(dask_flame.watch, [])),
    Row("best", CHOICES, ["min", "max", None], by_keyword(dask_flame.watch, [])),
    Row("log", [None, *YES_OR_NO], [True, np.False_], by_keyword(dask_flame.watch, [])),
]

FUTURES: list[Any] = [
    None,
    True,
    5,
    nan,
    "",
    "abc",
    b"abc",
    object(),
    Odd(),
    [1],
    [None],
    {1: 2},
    ["a"],
]


def _given(written: str, name: str) -> Any:
    """The value that a line gives an option."""
    if written.startswith("dask.config.set("):
        return eval(written[len("dask.config.set(") : -1])[name]
    assert written.startswith(f"{name}="), written
    names = {
        "Pool": Pool,
        "load_model": print,
        "logging": logging,
        "print": print,
        "range": range,
    }
    return eval(written[len(name) + 1 :], names)


def refused(row: Row, value: Any) -> str:
    """Have this refused; what is said."""
    with pytest.raises(row.errors) as caught:
        row.use(row.name, value)
    said = str(caught.value)
    assert row.name in said
    assert len(said) < 600
    assert "s3cret" not in said
    if not row.secret:
        assert shown(value) in said
        with contextlib.suppress(RuntimeError, ValueError):
            if len(repr(value)) < 50:
                assert repr(value) in said
    return said


_watching: list[str] | None = None
_STARTED = ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec")


def _audit(event: str, args: object) -> None:
    if _watching is not None and event.startswith(_STARTED):
        _watching.append(event)


sys.addaudithook(_audit)  # which cannot be taken back


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """What processes and threads are started meanwhile."""
    global _watching
    _watching = started = []

    def begun(*args: object) -> None:
        sys.setprofile(None)
        started.append("thread")

    before = threading.getprofile()
    threading.setprofile(begun)  # it is called in each new thread
    try:
        yield started
    finally:
        threading.setprofile(before)
        _watching = None


@pytest.fixture
def nothing_starts() -> Iterator[None]:
    """No process and no thread is started meanwhile."""
    with watched() as started:
        yield
    assert started == []


@pytest.mark.process
def test_what_watches_for_starts_sees_them() -> None:
    with watched() as started:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        subprocess.run(["true"], check=True)
    assert {"thread", "subprocess.Popen"} <= set(started)


ROWS = [*POOL, *CLUSTER, *CONFIGURED, *ELSEWHERE]


def _kind(row: Row) -> pytest.MarkDecorator:
    # Whether a port is free is seen by taking it.
    return pytest.mark.process if row.name == "dashboard_address" else pytest.mark.unit


@pytest.mark.parametrize("row", [pytest.param(r, id=str(r), marks=_kind(r)) for r in ROWS])
@pytest.mark.usefixtures("nothing_starts")
def test_a_wrong_value_is_refused_at_once(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    written = set()
    for value in row.wrong:
        said = refused(row, value)
        found = re.search(r"write (.*)$", said)
        assert found, said
        written.add(found[1])
    # Where there are other words, as of a pool that is written {"a": 5}, they say it in full.
    for line in written:
        if "did you mean" not in line:
            row.use(row.name, _given(line, row.name))
    for value in row.right:
        row.use(row.name, value)


@pytest.mark.unit
@pytest.mark.parametrize("row", [r for r in POOL if r.right], ids=str)
def test_a_right_value_is_held_as_pythons_own(row: Row) -> None:
    held = []
    for value in row.right:
        pool = Pool(**{row.name: value})
        held.append(
            pool.options[row.name] if row.name in option_names() else getattr(pool, row.name)
        )
    for value in held:
        assert not type(value).__module__.startswith("numpy")
        if not callable(value) and not isinstance(value, dict) and row.name != "hosts":
            json.dumps(value)


@pytest.mark.unit
def test_every_option_is_in_the_table() -> None:
    def options(what: Callable[..., Any], *left_out: str) -> set[str]:
        kinds = (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        given = signature(what).parameters.values()
        return {p.name for p in given if p.kind in kinds} - {"self", *left_out}

    def rows(where: str) -> set[str]:
        return {row.name for row in ROWS if row.where == where}

    assert {f.name for f in fields(Pool)} | option_names() == rows("Pool") - {
        *("items", "total", "every", "limit", "metric", "best", "log")
    }
    # Runners here have none of these; test_where_pods_are.py has what is wrong in them.
    assert options(FlameCluster.__init__, "namespace", "context") <= rows("FlameCluster")
    assert options(Lease.__init__) == rows("Lease")
    assert options(Reports.__init__) == rows("Reports")
    assert options(Prints.__init__) == rows("Prints")
    assert options(dask_flame.on) == rows("on")
    assert options(dask_flame.call, "fn") == rows("call")
    assert options(dask_flame.cast, "fn") == rows("cast")
    assert options(dask_flame.place, "cls") == rows("place")
    sections = {
        f"{name}.{inner}" if isinstance(value, dict) else name
        for name, value in DEFAULTS["flame"].items()
        for inner in (value if isinstance(value, dict) else [""])
    }
    assert {f"flame.{name}" for name in sections} == rows("configuration")
    of_backends = {
        f"{known.backend}.{name}"
        for known in (FlyOptions, KubernetesOptions, LocalOptions, SlurmOptions, SshOptions)
        for name in known.settings
    } | {
        *("kubernetes.image", "kubernetes.read-only-root"),
        *(f"fly.{name}" for name in ("app", "cpu-kind", "image", "reach", "region")),
        *(
            f"{kind.backend}.{name.replace('_', '-')}"
            for kind in (SlurmOptions, SshOptions)
            for name, known in kind.declared().items()
            if known.section
        ),
    }
    assert {n for n in sections if not n.startswith("pool.")} == {*SETTINGS, *of_backends}


@pytest.mark.unit
@pytest.mark.parametrize("what", [dask_flame.stream, dask_flame.watch])
@pytest.mark.parametrize("value", FUTURES, ids=lambda v: type(v).__name__)
def test_what_are_no_futures(what: Callable[..., object], value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{what.__name__}\(\) takes futures, not .*a line that"):
        what(value)


@pytest.mark.unit
@pytest.mark.parametrize("value", ["", 5, True, object(), [3]])
def test_what_is_no_client(value: Any) -> None:
    with pytest.raises(TypeError, match=r"client=.* is not a distributed\.Client; write"):
        dask_flame.reports_of(value)


@pytest.mark.unit
@pytest.mark.parametrize("value", [5, "f", [3], object()])
@pytest.mark.parametrize("how", [dask_flame.call, dask_flame.cast, dask_flame.place])
def test_what_is_no_function(how: Callable[..., object], value: Any) -> None:
    with pytest.raises(TypeError, match=r"fn=.* cannot be called; write call\(fn, 1, 2\)"):
        how(value)


@pytest.mark.process
def test_an_event_loop_that_stands_still() -> None:
    loop = IOLoop(make_current=False)
    try:
        with pytest.raises(
            PoolError, match=r"^loop=<.* is not a tornado\.ioloop\.IOLoop that runs"
        ):
            FlameCluster(loop=loop)
    finally:
        loop.close()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"max_workers": 4}, "max=4"),
        ({"n_workers": 4}, "max=4"),
        ({"n_workers": np.int64(4)}, "max=4"),
        ({"n_workers": 0}, "max=8"),
        ({"n_workers": "s3cret"}, "max=8"),
        ({"threads_per_worker": 2}, "concurrency=2"),
        ({"memory_limit": "4GB"}, 'memory="4GB"'),
        ({"memory_limit": "auto"}, 'memory="4 GiB"'),
        ({"idle_timout": 5}, "idle_timeout=5"),
        ({"envs": {"A": "s3cret"}}, 'env={"TOKENIZERS_PARALLELISM": "false"}'),
        ({"secret": {"A": "s3cret"}}, 'secrets={"HF_TOKEN": "hf_…"}'),
    ],
)
def test_another_tools_name_is_answered_with_the_line_to_write(given: Any, line: str) -> None:
    for made in (FlameCluster, Pool):
        with pytest.raises(PoolError) as caught:
            made(**given)
        assert str(caught.value).endswith(f"did you mean {line}?")
        assert "s3cret" not in str(caught.value)


_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**30, 10**4000, -1, 0, 1, 3])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["", " ", "60s", "4 GiB", "local", "auto", "wait", "127.0.0.1:0", "nan", "1e9 s"]
    )
    | st.binary(max_size=4)
    | st.sampled_from([object(), print, int, Pool(), timedelta(1), np.int64(3)]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
_OPTIONS = sorted({row.name for row in CLUSTER} - {"backend"})


@pytest.mark.unit
@settings(max_examples=examples(60))
@given(
    st.dictionaries(
        st.sampled_from(_OPTIONS) | st.from_regex("[a-z_]{1,12}", fullmatch=True), _ANYTHING
    )
)
@pytest.mark.usefixtures("nothing_starts")
def test_whatever_is_given_is_refused_in_our_words(options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PoolError) as caught:
            FlameCluster(**{"backend": nothing, **options})
    assert len(str(caught.value)) < 2_500
    assert "\n" not in str(caught.value)


@pytest.mark.unit
@settings(max_examples=examples(60))
@given(st.sampled_from(sorted(SETTINGS)), _ANYTHING)
@pytest.mark.usefixtures("nothing_starts")
def test_whatever_is_configured_is_refused_in_our_words(name: str, value: Any) -> None:
    with dask.config.set({f"flame.{name}": value}), pytest.raises(PoolError) as caught:
        FlameCluster(backend=nothing)
    said = str(caught.value)
    assert said.startswith("backend=<function nothing") or "Dask's configuration" in said


@pytest.mark.unit
@pytest.mark.parametrize("given", [{"flame.pool": 5}, {"flame": [1]}, {"flame.home": "16 GiB"}])
def test_a_section_of_the_configuration_that_is_none(given: dict[str, Any]) -> None:
    (name,) = given
    with dask.config.set(given), pytest.raises(PoolError) as caught:
        FlameCluster()
    said = str(caught.value)
    assert said.startswith(f"{name}={given[name]!r} in Dask's configuration is not a section")
    line = eval(said.partition("write dask.config.set(")[2][:-1])
    with dask.config.set(line), pytest.raises(PoolError, match=r"^backend=<function nothing"):
        FlameCluster(backend=nothing)


# While it runs, and afterwards


def _steered(cluster: FlameCluster) -> list[Row]:
    """What may be told a cluster that runs."""
    scale, adapt = cluster.scale, cluster.adapt

    def wait(name: str, value: Any) -> None:
        cluster.wait_for_workers(**{"n_workers": 1, name: value})

    return [
        Row("n", COUNTS, use=by_keyword(scale)),
        Row("cores", NUMBERS, use=by_keyword(scale)),
        Row("memory", SIZES, use=by_keyword(scale)),
        Row("minimum", COUNTS, use=by_keyword(adapt)),
        Row("maximum", [v for v in COUNTS if v is not inf], use=by_keyword(adapt)),
        *(Row(f"{n}_cores", NUMBERS[1:], use=by_keyword(adapt)) for n in ("minimum", "maximum")),
        *(
            Row(f"{n}_memory", [v for v in SIZES if v is not SIZES[5]], use=by_keyword(adapt))
            for n in ("minimum", "maximum")
        ),
        Row("n_workers", [0, *COUNTS], use=wait),
        Row("timeout", DURATIONS, use=wait),
    ]


@pytest.mark.process
def test_a_cluster_that_runs_refuses_wrong_values_and_goes_on(flame: Any) -> None:
    cluster, client = flame(max=8, memory="1 GiB")
    before = cluster.pools["default"]
    lines = []
    for row in _steered(cluster):
        for value in row.wrong:
            said = refused(row, value)
            lines.append((row, said.partition("; write ")[2]))
    for row in POOL:
        if row.name in (
            "concurrency",
            "single_use",
            "gpus",
            "resources",
            "options",
            *option_names(),
        ):
            continue
        for value in row.wrong:
            refused(Row(row.name, (), use=by_keyword(cluster.resize), secret=row.secret), value)
    for value in [[], {}, 5, True, nan, "", "tpu", b"default", object(), Odd()]:
        for do in (cluster.resize, partial(cluster.wait_for_workers, 1, pool=value)):
            with pytest.raises(
                PoolError, match=r"there is no pool .*; there are 'default'"
            ) as caught:
                do(value) if do == cluster.resize else do()
            assert shown(value) in str(caught.value)
    for value in DURATIONS:
        refused(Row("timeout", (), use=by_keyword(cluster.close)), value)
    assert cluster.pools["default"] == before
    assert [e.kind for e in cluster.events] == []
    assert client.submit(int, "3").result(timeout=60) == 3
    client.close()
    cluster.close()
    # What is said to be right is: all that is wrong now is that the cluster has closed.
    for row, line in {(str(r), said): (r, said) for r, said in lines}.values():
        with pytest.raises(ClosedError):
            row.use(row.name, _given(line, row.name))


@pytest.mark.unit
def test_the_largest_pool_is_decided_upon_in_a_moment() -> None:
    fleet = Fleet(Pool(min=RUNNERS, max=RUNNERS, concurrency=RUNNERS))
    begin = time.thread_time()
    decision = fleet.decide(0.0, RUNNERS * RUNNERS)
    assert decision.boot is not None
    assert len(decision.boot.names) == RUNNERS
    assert len(fleet.next_names) == 0
    assert time.thread_time() - begin < 5
