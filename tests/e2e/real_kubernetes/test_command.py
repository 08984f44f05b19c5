"""The command that tests a real cluster, tried on the fake: tests go into a pod and come back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.real_kubernetes import setting
from tests.e2e.real_kubernetes.ground import NO_IMAGE
from tests.e2e.real_kubernetes.world import GPU
from tests.fakes.kubernetes import FakeKubernetes
from tests.support.paths import ROOT

pytestmark = pytest.mark.process

_PYTEST = [sys.executable, "-m", "pytest", "-v", "-m", "kubernetes", "-p", "no:cacheprovider"]
_FEW = "test_runners_boot_register or test_no_room or test_gpus or without_rights or all_is_as"


def _command(fake: FakeKubernetes, path: Path, *more: str, **env: str) -> tuple[int, str]:
    done = subprocess.run(
        [*_PYTEST, "tests/e2e/real_kubernetes", *more],
        cwd=ROOT,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
            "KUBECONFIG": fake.kubeconfig(path, user="admin", namespace="default"),
            setting.IMAGE: "image:1",
            **env,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
        check=False,
    )
    return done.returncode, done.stdout


def _fake(**more: object) -> FakeKubernetes:
    everything = ({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},)
    return FakeKubernetes(
        users={"admin": everything},
        nodes=[{"cpu": 64, "memory": "256Gi", **more}],
        bad_images={NO_IMAGE: "no such host"},
    )


def test_a_few_tests_in_a_namespace_of_their_own(tmp_path: Path) -> None:
    with _fake().in_thread() as fake:
        code, said = _command(fake, tmp_path / "kubeconfig", "-k", _FEW)
        assert code == 0, said
        ends = dict(re.findall(r"::(\w+)\[real\] (\w+)", said))
        assert ends == {
            "test_runners_boot_register_and_end": "PASSED",
            "test_no_room": "PASSED",
            "test_gpus": "SKIPPED",
            "test_a_driver_without_rights_is_told_the_rules": "PASSED",
            "test_all_is_as_it_was": "PASSED",
        }
        assert f"no node has {GPU}" in said
        (namespace,) = {o["metadata"]["name"] for o in _made(fake)}
        assert namespace.startswith("dask-flame-test-")
        assert fake.at_rest(), fake.left()


def _made(fake: FakeKubernetes) -> list[dict[str, dict[str, str]]]:
    paths = [r.path for r in fake.requests if r.verb == "create" and r.resource == "pods"]
    return [{"metadata": {"name": path.split("/")[4]}} for path in paths]


def test_a_namespace_that_is_there_is_left_as_it_was(tmp_path: Path) -> None:
    with _fake().in_thread() as fake:
        few = ["-k", "test_no_room or all_is_as"]
        code, said = _command(fake, tmp_path / "kubeconfig", *few, **{setting.NAMESPACE: "team"})
        assert code == 0, said
        assert {o["metadata"]["name"] for o in _made(fake)} == {"team"}
        assert fake.requests.count("create", "namespaces") == 0
        assert fake.at_rest(), fake.left()
