"""Hosts that refuse: the error has their own words and a line to type, and the others go on."""

from __future__ import annotations

import os

import pytest

from dask_flame.errors import BackendError
from tests.backends.ssh.hosts.calls import Make, shares
from tests.support.ssh_host_common import keygen
from tests.support.ssh_hosts import SshHosts

pytestmark = pytest.mark.process


def test_hosts_that_refuse_are_named_and_the_others_go_on(hosts: SshHosts, flame: Make) -> None:
    known = hosts.home / ".ssh" / "known_hosts"
    changed, _, refused = hosts.values()
    theirs, other = changed.known_line, refused.known_line
    key = other.split()[-1]
    known.write_text(known.read_text().replace(theirs, f"{theirs.rsplit(' ', 1)[0]} {key}\n"))
    refused.authorize("")
    cluster, client = flame(backend="ssh", hosts=shares(*hosts), max=3)
    assert client.submit(abs, -1).result() == 1
    said = " ".join(str(event) for event in cluster.events)
    assert "gpu1: its host key is another one than in known_hosts" in said
    assert f"ssh-keygen -R '{theirs.split()[0]}'" in said
    assert "gpu3: it refuses the keys of this user" in said
    assert "ssh-copy-id gpu3" in said


def test_the_key_of_a_jump_host_is_not_taken_for_that_of_the_host_behind_it(
    networked: SshHosts, flame: Make
) -> None:
    known = networked.home / ".ssh" / "known_hosts"
    jump = networked["gpu2"]
    known.write_text(known.read_text().replace(jump.known_line, ""))
    with pytest.raises(BackendError, match="host key") as refused:
        flame(backend="ssh", hosts=["gpu3"], max=1)
    assert jump.address in str(refused.value)
    assert "-R" not in str(refused.value)


def test_a_key_of_another_kind_is_a_changed_key(hosts: SshHosts, flame: Make) -> None:
    known = hosts.home / ".ssh" / "known_hosts"
    name = hosts["gpu1"].known_line.split()[0]
    keygen(hosts.home / "other", "ecdsa")
    kind, key, *_ = (hosts.home / "other.pub").read_text().split()
    known.write_text(f"{name} {kind} {key}\n")
    with pytest.raises(BackendError, match=r"is another one than in known_hosts.*ssh-ed25519"):
        flame(backend="ssh", hosts=["gpu1"], max=1)


def test_the_check_of_keys_cannot_be_turned_off(hosts: SshHosts, flame: Make) -> None:
    config = hosts.home / ".ssh" / "config"
    config.write_text(f"Host gpu2\n    UserKnownHostsFile none\n{config.read_text()}")
    with pytest.raises(BackendError, match=r"key of gpu2 would not be checked.*UserKnownHostsFile"):
        flame(backend="ssh", hosts=["gpu3" if hosts["gpu3"].jump else "gpu2"], max=1)


def test_settings_for_terminals_do_not_reach_runners(hosts: SshHosts, flame: Make) -> None:
    config = hosts.home / ".ssh" / "config"
    lines = ("RequestTTY force", "RemoteCommand false", "ForwardAgent /nowhere")
    config.write_text("\n".join(["Host *", *lines, config.read_text()]))
    _, client = flame(backend="ssh", hosts=shares("gpu1"), max=1)
    assert client.submit(os.getenv, "SSH_AUTH_SOCK").result() is None


def test_a_host_of_another_python_is_refused_before_a_call_runs(
    hosts: SshHosts, flame: Make
) -> None:
    host = hosts["gpu1"]
    path = f"{host.home}/other-python"
    python = host.at(path)
    python.write_text(
        '#!/bin/sh\nexec python3 -c "import platform, sys; '
        'platform.python_version = lambda: \'3.99.1\'; exec(sys.argv[1])" "$2"\n'
    )
    python.chmod(0o755)
    with pytest.raises(BackendError, match=r"gpu1: it has Python 3\.99\.1.*write python="):
        flame(backend="ssh", hosts=[{"host": "gpu1", "python": path}], max=1)
    python.unlink()


def test_a_host_without_room_is_named_and_the_others_go_on(
    networked: SshHosts, flame: Make
) -> None:
    with networked["gpu1"].full("/home", "/tmp", "/var/tmp"):
        cluster, client = flame(backend="ssh", hosts=shares("gpu1", "gpu2"), max=2)
        assert client.submit(abs, -1).result() == 1
        said = " ".join(str(event) for event in cluster.events)
        assert "gpu1: nothing can be written to a temporary folder" in said
