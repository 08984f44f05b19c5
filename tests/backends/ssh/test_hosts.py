"""The option ``hosts`` and what it means; where runners go."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dask_flame import Pool, PoolError
from dask_flame.backends.specs import RunnerSpec
from dask_flame.backends.ssh import SshOptions
from dask_flame.backends.ssh.bootstrap import command, why_unfit
from dask_flame.backends.ssh.claims import Capacity, Need, Taken
from dask_flame.backends.ssh.hosts import HostSpec, check_hosts
from dask_flame.backends.ssh.launch import need
from dask_flame.backends.ssh.placement import choose, most, why_full, why_never

pytestmark = pytest.mark.unit


def test_hosts_are_aliases_users_with_ports_or_mappings() -> None:
    given = ["gpu1", "ada@gpu2:2222", {"host": "10.0.0.3", "gpus": 4, "memory": "64 GiB"}]
    one, two, three = check_hosts("hosts", given)
    assert one == HostSpec("gpu1", "gpu1")
    assert (two.user, two.host, two.port) == ("ada", "gpu2", 2222)
    assert two.ssh == "-p 2222 ada@gpu2"
    assert (three.gpus, three.slots, three.memory) == (4, None, 64 * 2**30)
    assert repr((one, three)) == "('gpu1', {'host': '10.0.0.3', 'gpus': 4, 'memory': '64 GiB'})"
    assert check_hosts("hosts", (one, two, three)) == (one, two, three)
    assert check_hosts("hosts", "gpu1") == (one,)
    assert check_hosts("hosts", ["ada@[fe80::1]:22"])[0].host == "fe80::1"


def test_a_configuration_of_ssh_gives_its_aliases(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host gpu3\n")
    config = tmp_path / "config"
    config.write_text(
        "# Host none\nHost gpu1 gpu2 *.example !bad\n  User ada\nHost=gpu1\nInclude more\n"
        "Match host gpu9\nHost *\n"
    )
    hosts = check_hosts("hosts", str(config))
    assert [host.host for host in hosts] == ["gpu1", "gpu2", "gpu3"]
    assert hosts[0].ssh == f"-F {config} gpu1"
    config.write_text("Host *\n")
    with pytest.raises(PoolError, match="names no hosts: it has no line such as `Host gpu1`"):
        Pool(hosts=config)
    with pytest.raises(PoolError, match="cannot be read: No such file"):
        Pool(hosts="/no/such/config")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "is not a list of hosts"),
        (3, "is not a list of hosts"),
        (["-oProxyCommand=x"], "is not a host such as"),
        (["a b"], "is not a host such as"),
        (["gpu1:99999"], "is not a host such as"),
        (["gpu1", {"host": "gpu1"}], "'gpu1' is there twice"),
        ([{"host": "gpu1", "gpu": 1}], "unknown key 'gpu' of a host"),
        ([{"gpus": 1}], 'is not a mapping with a "host"'),
        ([{"host": "gpu1", "slots": 0}], "hosts: gpu1: slots=0 is not a whole number of 1 or more"),
    ],
)
def test_what_is_no_host_is_refused(value: Any, says: str) -> None:
    with pytest.raises(PoolError, match=says) as caught:
        Pool(hosts=value)
    wanted = "; write slots=4" if "slots" in says else ""
    assert wanted in str(caught.value)


def test_a_pool_takes_and_shows_them() -> None:
    pool = Pool(hosts=["gpu1", {"host": "gpu2", "slots": 2}], reach="forward", max=2)
    assert "hosts=('gpu1', {'host': 'gpu2', 'slots': 2})" in repr(pool)
    with pytest.raises(PoolError, match=r'reach=.tunnel. is not one of .*; write reach="forward"'):
        SshOptions(reach="tunnel")


@dataclass
class _Place:
    host: HostSpec
    capacity: Capacity
    used: Taken = field(default_factory=Taken)

    def taken(self) -> Taken:
        return self.used


def _spec(**more: Any) -> RunnerSpec:
    return RunnerSpec(name="", scheduler="", concurrency=1, boot_timeout=1, **more)


def test_a_runner_goes_to_the_emptiest_host() -> None:
    big = _Place(HostSpec("big", "big"), Capacity(cpus=16, memory=100), Taken(4, 4))
    small = _Place(HostSpec("small", "small"), Capacity(cpus=4, memory=100), Taken(2, 2))
    gpu = _Place(HostSpec("gpu", "gpu"), Capacity(cpus=64, memory=100, gpus=("0", "1")))
    assert choose(_spec(), [small, big]) is big
    assert choose(_spec(), [small, big, gpu]) is gpu
    # Cores beside GPUs are kept for runners with GPUs, while there are others.
    assert choose(_spec(), [small, big, gpu], keep_gpus=True) is big
    assert choose(_spec(cpus=20), [small, big, gpu], keep_gpus=True) is gpu
    assert choose(_spec(gpus=1), [small, big, gpu], keep_gpus=True) is gpu
    gpu.used = Taken(2, 2, 0, gpus=2)
    assert choose(_spec(gpus=1), [small, big, gpu]) is None
    assert why_never(_spec(gpus=1), [small, big, gpu]) == ""
    full = why_full(_spec(gpus=1), [big, gpu])
    assert full == "big: gpus=1, and it has none; gpu: 2 of 2 GPUs are taken"
    assert why_never(_spec(memory=200), [big]).startswith("big: memory=")


def test_slots_stand_in_for_cores() -> None:
    capacity = Capacity(slots=4, cpus=2, memory=100)
    assert need(_spec(), HostSpec("a", "a", slots=4), capacity) == Need(cpus=0)
    assert need(_spec(), HostSpec("a", "a"), capacity) == Need(cpus=1)
    assert need(_spec(cpus=2), HostSpec("a", "a", slots=4), capacity) == Need(cpus=2)
    assert capacity.why_not(Need(cpus=0), Taken(3)) == ""
    assert capacity.why_not(Need(cpus=0), Taken(4)) == "4 of 4 slots are taken"


def test_what_hosts_hold_is_the_least_of_what_they_have() -> None:
    one = _Place(HostSpec("one", "one"), Capacity(cpus=8, memory=100, gpus=("0", "1")))
    two = _Place(HostSpec("two", "two", slots=3), Capacity(slots=3, cpus=8, memory=100), Taken(3))
    assert most(_spec(), [one, two]).number == 11  # also if others have some of it now
    assert most(_spec(gpus=1, cpus=0.1), [one, two]).why == "one holds 2, two holds 0"
    assert most(_spec(gpus=2), [one]).number == 1
    assert most(_spec(memory=30), [one, two]).number == 6
    assert most(_spec(cpus=0.1), [one]).number == 80
    assert most(_spec(cpus=3), [one, two], ["three"]).why == (
        "one holds 2, two holds 2, three is away"
    )
    many = [_Place(HostSpec(f"h{n}", ""), Capacity(cpus=64)) for n in range(20)]
    assert most(_spec(), many).number == 1280
    assert most(_spec(), many).why.endswith("h7 holds 64, and 12 more hosts")


def test_the_command_has_no_quotes_that_a_shell_could_misread() -> None:
    words = command("~/my env/bin/python", "/usr/bin/python3")
    assert words.startswith("exec sh -c '")
    assert "\n" not in words
    assert "!" not in words
    assert '"$HOME"/' in words


def test_a_python_that_does_not_fit_is_explained() -> None:
    from dask_flame import __version__
    from dask_flame.core.python_versions import here

    assert why_unfit(here(), __version__, "", "gpu1", "python3") == ""
    other = why_unfit(here(), "0.0.1", "", "-p 2222 gpu1", "python3")
    assert "has dask-flame 0.0.1, and the driver has" in other
    assert f"type: ssh -p 2222 gpu1 python3 -m pip install dask-flame=={__version__}" in other
    broken = why_unfit(here(), __version__, "No module named 'psutil'", "gpu1", "python3")
    assert "cannot import dask-flame (No module named 'psutil')" in broken
