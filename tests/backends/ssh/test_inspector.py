"""``dask flame`` lists and ends clusters on hosts that answer to ssh."""

from __future__ import annotations

import json
import os
from typing import Any

import dask.config
import pytest
from click.testing import CliRunner
from distributed import Client

from dask_flame import FlameCluster
from dask_flame.cli import flame
from tests.support.paths import free_port
from tests.support.sshd import SshClient, Sshd, needs_sshd
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.process, needs_sshd]


def _run(*words: str, down: str = "") -> Any:
    """Type a command that succeeds, or finds this host to be down."""
    done = CliRunner().invoke(flame, [words[0], "--backend", "ssh", *words[1:]])
    assert done.exit_code == bool(down), done.output
    assert not down or f"Error: this is not all: {down} could not be looked at" in done.stderr
    return done.stdout


def _listed(*options: str, down: str = "") -> dict[str, Any]:
    """Return the clusters by name; those of tests that run beside this one are there, too."""
    found = json.loads(_run("ps", *options, "--output", "json", down=down))
    return {cluster["name"]: cluster for cluster in found}


def test_clusters_are_listed_read_and_stopped(
    ssh: Sshd, ssh_client: SshClient, capsys: pytest.CaptureFixture[str]
) -> None:
    down = f"127.0.0.1:{free_port()}"
    with (
        FlameCluster(
            backend="ssh", name=f"mine-{os.getpid()}", max=2, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        client.submit(print, "hello from a host", pure=False).result()
        # It must not come between what the commands print.
        wait_for(lambda: "hello from a host" in capsys.readouterr().out, what="it is shown")
        found = _listed("--hosts", f"host1,{down}", down=down)[cluster.name]
        assert (found["state"], found["driver"]) == ("live", "127.0.0.1")
        (runner,) = found["runners"]
        assert runner["name"] == "runner-1"
        assert runner["where"].startswith("host1, process ")
        assert "hello from a host" in _run("logs", cluster.name)
        assert cluster.name not in _run("sweep", "--dry-run")
        said = _run("stop", cluster.name)
        assert "stopped on host1; its driver, at 127.0.0.1, lives on, and was told" in said
        wait_for(lambda: "was stopped on host1" in str(list(cluster.events)), what="it was told")
        with pytest.raises(Exception, match="the cluster was stopped on host1"):
            client.submit(abs, -1, pure=False).result()
    assert cluster.name not in _listed()


def test_its_option_is_its_own_and_it_has_no_others(ssh: Sshd) -> None:
    done = CliRunner().invoke(flame, ["ps", "--backend", "local", "--hosts", "gpu1"])
    assert "--hosts is an option of SSH; leave it out, or add --backend ssh" in done.output
    done = CliRunner().invoke(flame, ["ps", "--backend", "ssh", "--app", "mine"])
    assert "--app is an option of Fly" in done.output
    assert "over SSH write --hosts" in done.output
    with dask.config.set({"flame.ssh.hosts": None}):
        done = CliRunner().invoke(flame, ["ps", "--backend", "ssh"])
    assert "no hosts are named; write --hosts gpu1,gpu2" in done.output
