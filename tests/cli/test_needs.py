"""``dask flame`` says what to type where a backend lacks what it needs."""

from __future__ import annotations

import re
from pathlib import Path

import dask
import pytest
from click.testing import CliRunner

from dask_flame.cli.commands import flame

pytestmark = pytest.mark.process

_VARIABLES = ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "FLY_APP_NAME", "FLY_API_TOKEN")


@pytest.mark.parametrize("command", ["ps", "sweep"])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["slurm"], "there is no command 'squeue': .*; type: module load slurm, or "),
        (["kubernetes"], "no kubeconfig with a context in ~/.kube/config.*; type: export KUBECON"),
        (["fly"], "no app .*; type: fly apps create my-runners, and write --app my-runners "),
        (["fly", "--app", "shop"], r"no token for Fly; type: export FLY_API_TOKEN=\$"),
        (["ssh"], "no hosts are named; write --hosts gpu1,gpu2"),
    ],
)
def test_what_is_missing_is_said_with_what_to_type(
    command: str, words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("dask_flame.backends.kubernetes.api.kubeconfig.ACCOUNT", tmp_path / "none")
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    none = {"flame.fly.app": None, "flame.fly.token": None, "flame.ssh.hosts": None}
    with dask.config.set(none):
        done = CliRunner().invoke(flame, [command, "--backend", *words])
    assert done.exit_code == 1, done.output
    (line,) = done.output.splitlines()
    assert line.startswith("Error: ")
    assert re.search(says, line), line
