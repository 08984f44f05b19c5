"""A place for drivers on a Kubernetes cluster, made and ended from outside (test process)."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import tarfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from tests.e2e.real_kubernetes import setting
from tests.e2e.real_kubernetes.asking import Asking, Object, Refused
from tests.support.paths import ROOT

_HERE = Path(__file__).parent
#: The helpers that these tests import in a pod.
_SUPPORT = ("__init__", "collection", "examples", "kinds", "paths", "shared_clusters", "waiting")
#: Where the tests lie in a driver's pod, and where it may write.
_FILES, _WORK = "/opt/dask-flame-test", "/work"
_OURS = "app.kubernetes.io/managed-by=dask-flame"
#: What bears the label of these tests is theirs.
_LABEL = "dask-flame-test"
#: All kinds that a cluster of ours, or these tests, may make something of.
_MADE = ("Pod", "Job", "Secret", "Service", "NetworkPolicy", "ConfigMap", "ServiceAccount")
_MADE_TOO = ("Role", "RoleBinding", "ResourceQuota")
#: Pods that the namespace has room for, beside drivers and watchdogs.
_ROOM = 8
_QUOTA = {"pods": str(_ROOM + 6), "count/jobs.batch": "20", "count/secrets": "60"}
#: Seconds that Kubernetes may take to delete what is to go.
_GONE_WITHIN = 120.0
GPU = "nvidia.com/gpu"


class World:
    """A namespace, an account for drivers with the Role of ``deploy/``, and pods for drivers.

    The namespace is one that is there (``DASK_FLAME_TEST_NAMESPACE``), or a new one: restricted,
    with a quota, and deleted at the end.

    Parameters
    ----------
    image : str
        Of drivers, and so of runners.
    namespace : str, optional
        One that is there.
    quota : mapping, optional
        Of a new one; empty: none.
    restricted : bool
        Whether a new one is to be restricted.
    files : sequence of Path
        More that drivers' pods are to have, in the folder that they begin in.

    Attributes
    ----------
    token : str
        What names of this world's clusters begin with.
    """

    def __init__(
        self,
        image: str,
        namespace: str = "",
        *,
        quota: Mapping[str, str] = _QUOTA,
        restricted: bool = True,
        files: Sequence[Path] = (),
    ) -> None:
        self.image = image
        self.token = f"t{uuid.uuid4().hex[:6]}"
        self.name = f"dask-flame-test-{self.token}"
        self.account = ""
        self.room = _ROOM if not namespace else 3
        self.gpus = 0
        self._given = namespace
        self._quota = quota
        self._standard = "restricted" if restricted else "baseline"
        self._files = files
        self._asking = Asking(namespace or self.name)
        self._before: set[str] = set()
        self._ended = False

    def __enter__(self) -> Self:
        self.ask = self._asking.__enter__()
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.end()
        finally:
            self._asking.__exit__()

    def _make(self) -> None:
        if not self._given:
            self._make_namespace()
        self._before = {_line(obj) for obj in self._all()}
        if self._given and (account := os.environ.get(setting.ACCOUNT)):
            self.account = account
        else:
            self.account = self.name
            self.make_account(self.name, driver_rules())
        self.gpus = self._count_gpus()
        files = {path.name: path.read_bytes() for path in [_HERE / "begin.py"]}
        files["tests.tgz"] = _packed(self._files)
        self.make(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": self.name},
                "binaryData": {k: base64.b64encode(v).decode() for k, v in files.items()},
            }
        )

    def _make_namespace(self) -> None:
        labels = {"pod-security.kubernetes.io/enforce": self._standard}
        try:
            self.make(
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": self.name, "labels": labels},
                }
            )
        except Refused as refused:
            raise RuntimeError(
                f"no namespace can be made for the tests ({refused}); name one that is there: "
                f"{setting.NAMESPACE}=my-namespace pytest -m kubernetes"
            ) from refused
        if self._quota:
            self.make(
                {
                    "apiVersion": "v1",
                    "kind": "ResourceQuota",
                    "metadata": {"name": self.name},
                    "spec": {"hard": dict(self._quota)},
                }
            )

    def make_account(self, name: str, rules: Sequence[Mapping[str, Any]]) -> None:
        """An account for drivers' pods that may do this."""
        rbac = "rbac.authorization.k8s.io"
        try:
            self.make({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
            self.make(
                {
                    "apiVersion": f"{rbac}/v1",
                    "kind": "Role",
                    "metadata": {"name": name},
                    "rules": list(rules),
                }
            )
            self.make(
                {
                    "apiVersion": f"{rbac}/v1",
                    "kind": "RoleBinding",
                    "metadata": {"name": name},
                    "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
                    "subjects": [{"kind": "ServiceAccount", "name": name}],
                }
            )
        except Refused as refused:
            raise RuntimeError(
                f"no account for drivers can be made ({refused}); name one that has the rights of "
                f"deploy/kubernetes/role.yaml: {setting.ACCOUNT}=my-account pytest -m kubernetes"
            ) from refused

    def make(self, obj: Mapping[str, Any]) -> Object:
        """Make an object that goes with this world."""
        meta = obj["metadata"]
        labels = {**meta.get("labels", {}), _LABEL: self.token}
        return self.ask.create({**obj, "metadata": {**meta, "labels": labels}})

    def _count_gpus(self) -> int:
        try:
            nodes = self.ask.list("Node")
        except Refused:
            return 0
        return sum(int((n["status"].get("allocatable") or {}).get(GPU, 0)) for n in nodes)

    # Drivers

    def drive(self, name: str, *arguments: str, account: str = "", grace: int = 5) -> str:
        """Start a driver's pod that runs Python with these arguments; its name."""
        pod = f"{self.name}-{name}"
        env = {
            "HOME": _WORK,
            "TMPDIR": f"{_WORK}/tmp",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            setting.TOKEN: self.token,
            setting.ROOM: str(self.room),
            setting.GPUS: str(self.gpus),
            setting.OTHER_IMAGE: os.environ.get(setting.OTHER_IMAGE, ""),
            "BENCHMARK_NAMESPACE": self.ask.namespace,
            "BENCHMARK_IMAGE": self.image,
        }
        container = {
            "name": "driver",
            "image": self.image,
            "args": ["python", f"{_FILES}/begin.py", *arguments],
            "workingDir": _WORK,
            "env": [{"name": key, "value": value} for key, value in env.items()],
            "resources": {
                "requests": {"cpu": "100m", "memory": "256Mi"},
                "limits": {"cpu": "4", "memory": "4Gi"},
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "files", "mountPath": _FILES, "readOnly": True},
                {"name": "work", "mountPath": _WORK},
            ],
        }
        self.make(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": pod},
                "spec": {
                    "restartPolicy": "Never",
                    "serviceAccountName": account or self.account,
                    "terminationGracePeriodSeconds": grace,
                    "enableServiceLinks": True,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 1000,
                        "runAsGroup": 1000,
                        "fsGroup": 1000,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container],
                    "volumes": [
                        {"name": "files", "configMap": {"name": self.name}},
                        {"name": "work", "emptyDir": {}},
                    ],
                },
            }
        )
        return pod

    def phase(self, pod: str) -> str:
        """A pod's phase; empty where it is gone."""
        there = self.ask.get("Pod", pod)
        return str(there["status"]["phase"]) if there else ""

    def said(self, pod: str) -> list[str]:
        """What a pod has printed so far, in lines."""
        return self.ask.printed(pod)

    def why(self, pod: str) -> str:
        """What the API says of a pod that does not do what it should."""
        there = self.ask.get("Pod", pod)
        return "it is gone" if there is None else yaml.safe_dump(there["status"])

    # What is left

    def made_by(self, name: str = "") -> list[str]:
        """What clusters of this world, whose names begin like this, have made: lines to read."""
        return sorted(
            _line(obj)
            for obj in self._all(labelSelector=_OURS)
            if _label(obj, "dask.org/cluster-name").startswith((name or self.token).lower())
        )

    def end(self) -> None:
        """Delete all that this world has made; return when it is gone.

        Raises
        ------
        AssertionError
            Naming what is left.
        """
        if self._ended:
            return
        self._ended = True
        label = f"{_LABEL}={self.token}"
        if not self._given:
            self.ask.delete("Namespace", self.name)
            self._wait(lambda: self.ask.get("Namespace", self.name) is None, "namespace")
            return
        for kind in (*_MADE, *_MADE_TOO):
            with contextlib.suppress(Refused):
                for obj in self.ask.list(kind, labelSelector=label):
                    self.ask.delete(kind, obj["metadata"]["name"], grace=1)

        def gone() -> bool:
            return not self._all(labelSelector=label)

        self._wait(gone, "objects of these tests")

    def left(self) -> list[str]:
        """What is in the namespace now that was not when all began; of others' too."""
        return sorted({_line(obj) for obj in self._all()} - self._before)

    def _all(self, **params: str) -> list[Object]:
        found = []
        for kind in (*_MADE, *_MADE_TOO):
            # A user who may not see them has not made them either.
            with contextlib.suppress(Refused):
                found += self.ask.list(kind, **params)
        return found

    def _wait(self, condition: Any, what: str) -> None:
        until = time.monotonic() + _GONE_WITHIN
        while not condition():
            assert time.monotonic() < until, f"not gone within {_GONE_WITHIN:g} s: {what}"
            time.sleep(0.2)


def _line(obj: Object) -> str:
    meta = obj["metadata"]
    return f"{obj['kind']} {meta['name']} {meta['uid']}"


def _label(obj: Object, name: str) -> str:
    return str((obj["metadata"].get("labels") or {}).get(name, ""))


def driver_rules(file: str = "role.yaml") -> list[Object]:
    """The rules of a Role of ``deploy/``: by default of drivers in pods."""
    text = (ROOT / "deploy" / "kubernetes" / file).read_text()
    rules: list[Object] = next(o for o in yaml.safe_load_all(text) if o["kind"] == "Role")["rules"]
    return rules


def _packed(more: Sequence[Path]) -> bytes:
    """The tests, and what they need of the repository."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        files = [ROOT / "pyproject.toml", *(ROOT / "tests").glob("*.py"), *_HERE.glob("*.py")]
        files += [_HERE.parent / "__init__.py", *(ROOT / "tests" / "fakes").rglob("*.py")]
        files += [ROOT / "tests" / "support" / f"{name}.py" for name in _SUPPORT]
        for path in files:
            tar.add(path, str(path.relative_to(ROOT)))
        for path in more:
            tar.add(path, path.name)
    return out.getvalue()
