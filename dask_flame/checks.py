"""Checks of what users pass: each error names the option, the value and a line that works."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Any

from dask.utils import parse_bytes, parse_timedelta

from dask_flame.errors import PoolError

Duration = str | float | timedelta

EXAMPLES = {
    "min": "2",
    "max": "8",
    "minimum": "0",
    "maximum": "8",
    "concurrency": "1",
    "spare": "1",
    "boot_attempts": "3",
    "cpus": "2",
    "idle_timeout": '"60s"',
    "min_idle_timeout": '"10m"',
    "boot_timeout": '"2m"',
    "shutdown_timeout": '"30s"',
    "disconnect_grace": '"10s"',
    "grace": '"10s"',
    "first": '"5m"',
    "every": '"1s"',
    "silence": '"60s"',
    "max_lifetime": '"8h"',
    "name": '"my-cluster"',
    "namespace": '"my-team"',
    "context": '"my-cluster"',
    "n": "4",
    "n_workers": "4",
    "cores": "4",
    "backend": '"local"',
    "scheduler": '"pod"',
    "scheduler.cpus": "0.5",
    "scheduler.timeout": '"5m"',
    "scheduler.memory": '"2 GiB"',
    "scheduler.service": '"LoadBalancer"',
    "dashboard_address": '"127.0.0.1:8787"',
    "asynchronous": "True",
    "security": "True",
    "silence_logs": "None",
    "memory": '"4 GiB"',
    "home_limit": '"16 GiB"',
    "home.memory": '"1 GiB"',
    "env": '{"TOKENIZERS_PARALLELISM": "false"}',
    "preload": '["numpy"]',
    "single_use": "True",
    "idle_check": "lambda: True",
    "on_boot_failure": '"wait"',
    "on_grow": "lambda pool, count: print(pool, count)",
    "on_shrink": "lambda pool, count: print(pool, count)",
    "gpus": "1",
    "price": "2.5",
    "resources": '{"GPU": 1}',
    "pools": '{"cpu": Pool(max=8), "gpu": Pool(max=2, gpus=1)}',
    "pool": '"gpu"',
    "timeout": '"5m"',
    "rerun": "False",
    "image": '"ghcr.io/me/runner:1.0"',
    "gpu_kind": '"NVIDIA-A100-SXM4-40GB"',
    "gpu_resource": '"nvidia.com/gpu"',
    "shm_size": '"2 GiB"',
    "node_selector": '{"disk": "ssd"}',
    "tolerations": '[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]',
    "spot": "True",
    "priority_class": '"low"',
    "runtime_class": '"nvidia"',
    "service_account": '"runner"',
    "image_pull_secrets": '["registry"]',
    "volumes": '{"/data": "my-claim"}',
    "labels": '{"team": "vision"}',
    "annotations": '{"owner": "me@example.org"}',
    "prints.burst": "200",
    "prints.rate": "20",
    "prints.total_burst": "1_000",
    "prints.total_rate": "200",
    "pod_template": '"runner-pod.yaml"',
}


def wrong(name: str, value: object, wanted: str) -> PoolError:
    return PoolError(f"{name}={value!r} is not {wanted}; write {name}={EXAMPLES[name]}")


def whole(name: str, value: Any, least: int, *, beside: str = "") -> int:
    """A whole number of `least` or more; `beside` says what else would have been right."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise wrong(name, value, f"a whole number of {beside or f'{least} or more'}")
    return value


def number(name: str, value: Any) -> float:
    """A number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise wrong(name, value, "a number above zero")
    return float(value)


#: A number of CPUs as Kubernetes writes it: a plain number, or thousandths of one.
_CPUS = re.compile(r"(\d+\.?\d*|\.\d+)(m?)")


def cpus(name: str, value: Any) -> int | float:
    """Return a number of CPUs, which may be a fraction; whole thousandths, as in Kubernetes.

    Examples
    --------
    >>> cpus("cpus", "500m"), cpus("cpus", 0.2), cpus("cpus", "2")
    (0.5, 0.2, 2)
    """
    number = value
    if isinstance(value, str) and (match := _CPUS.fullmatch(value.strip())):
        number = float(match[1]) / (1000 if match[2] else 1)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < 1e6:
        raise wrong(name, value, 'a number of CPUs such as 2, 0.5 or "500m"')
    # Rounded up, as Kubernetes does; what is left of a product like 0.2 * 3 does not count.
    thousandths = math.ceil(round(number * 1000, 6))
    return thousandths // 1000 if thousandths % 1000 == 0 else thousandths / 1000


def one_of(name: str, value: Any, words: tuple[str, ...]) -> str:
    if value not in words:
        raise wrong(name, value, "one of " + ", ".join(map(repr, words)))
    return str(value)


def yes_or_no(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong(name, value, "True or False")
    return value


def seconds(name: str, value: Any, *, zero: bool = True) -> float:
    """A duration in seconds; without `zero`, not one of 0."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    try:
        if isinstance(value, bool):
            raise TypeError
        # parse_timedelta takes no number below zero for one.
        duration = float(value if isinstance(value, int | float) else parse_timedelta(value))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        raise wrong(name, value, 'a duration such as 60, "60s" or "2m"') from None
    if not math.isfinite(duration) or duration < 0 or not (duration or zero):
        raise wrong(name, value, f"a duration {'of zero or more' if zero else 'above zero'}")
    return duration


#: Seconds of `disconnect_grace` where nobody has said another.
GRACE = 10.0


def grace(name: str, value: Any, configured: Any) -> float:
    """How long a cluster outlives its drivers: as given, as configured, or as usual."""
    said = configured if value is None else value
    return GRACE if said is None else seconds(name, said)


def size(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        amount = int(parse_bytes(value))
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise wrong(name, value, f"a size such as {EXAMPLES[name]}") from None
    if amount < 1:
        raise wrong(name, value, "a size of one byte or more")
    return amount
