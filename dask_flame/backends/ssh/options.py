"""The options of a pool whose runners are on machines that answer to ssh (driver)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from dask_flame.backends.options import BackendOptions, Option, option
from dask_flame.backends.ssh.hosts import HostSpec, check_hosts
from dask_flame.core.option_checks import one_of, seconds, word, wrong

#: How runners and the driver reach each other.
REACHES = ("auto", "forward", "direct")


def _config(name: str, value: Any) -> str:
    """Check the path of a configuration of ssh."""
    if not isinstance(value, str | Path) or not str(value).strip():
        raise wrong(name, value, "the path of a configuration of ssh")
    return str(value)


@dataclass(frozen=True, init=False, repr=False)
class SshOptions(BackendOptions):
    """Options of a pool whose runners are on machines that answer to ssh.

    Parameters
    ----------
    hosts : list of str or mapping, or path
        The machines (``flame.ssh.hosts``): aliases of ``~/.ssh/config``, or ``"user@host:port"``,
        or mappings ``{"host": "gpu3", "gpus": 4, "slots": 4, "cpus": 16, "memory": "64 GiB",
        "python": "/opt/env/bin/python"}``, of which all but ``"host"`` may be left out. What a host
        has is found out at the first connection: cores, memory, and GPUs by ``nvidia-smi``.
        ``"slots"`` is the maximum number of runners there. The path of a configuration of ssh means
        all aliases in it: ``hosts="~/.ssh/config"``. Keys, users, jump hosts and known hosts are
        those of ssh's own configuration.
    python : str, optional
        The interpreter on the hosts (``flame.ssh.python``), which has dask-flame installed, in the
        driver's version. By default, one at the same path as the driver's, else ``python3``.
    reach : {"auto", "forward", "direct"}, optional
        How runners and the driver reach each other (``flame.ssh.reach``), the same for all pools.
        ``"forward"``: through the connections of ssh that the driver has opened; data between two
        hosts goes through the driver. ``"direct"``: by connections of their own, for which the
        driver and all hosts must be able to connect to any port of each other. ``"auto"``: directly
        if all of them can when the cluster starts, else forwarded. All connections are TLS with
        certificates of this cluster.

    Raises
    ------
    PoolError
        An option is wrong; the message has its name and a line that works.
    """

    backend: ClassVar[str] = "ssh"
    makes: ClassVar[str] = "runners on machines that answer to ssh"
    merges: ClassVar[bool] = True
    settings: ClassVar[Mapping[str, Option]] = {
        "config": Option(check=_config, example='"~/.ssh/config"', nullable=True),
        "connect-timeout": Option(check=partial(seconds, zero=False), example='"15s"'),
        "silence": Option(check=partial(seconds, zero=False), example='"60s"'),
    }

    hosts: tuple[HostSpec, ...] | None = option(
        check_hosts, '["gpu1", "ada@gpu2:2222"]', section="ssh", nullable=True
    )
    python: str | None = option(word, '"/opt/env/bin/python"', section="ssh", nullable=True)
    reach: str | None = option(
        partial(one_of, words=REACHES), '"forward"', section="ssh", nullable=True, fixed=True
    )


#: The name under which pools look up this class.
Options = SshOptions
