"""The folders, variables and command lines of the fake's pods (test process)."""

from __future__ import annotations

import base64
import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.fakes.kubernetes import quantities
from tests.fakes.kubernetes.kinds import CONFIG_MAPS, SECRETS, SERVICES, Kind
from tests.fakes.kubernetes.store import Object, Store

_REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")
_SERVICE = re.compile(r"\b([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\.cluster\.local)?\b")
_PYTHON = re.compile(r"python(3(\.\d+)?)?")
#: What a pod has of this process' environment, in the place of an image with the same programs.
_IMAGE = ("PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "DASK_FLAME_WATCHED")


class Missing(Exception):
    """What a pod refers to is not there, yet."""


class Surroundings:
    """What a pod's containers find: volumes as folders, variables, addresses.

    Nothing is mounted, since absolute paths cannot be made on a machine that is not the pod's. A
    path at which a volume is mounted is replaced by that of its real folder, where the path begins
    an argument, the value of an argument like ``--file=/etc/…``, or a variable's value; inside a
    longer text, or in a file, it is not. The names ``<service>.<namespace>.svc`` and
    ``….svc.cluster.local`` are replaced by the Service's ``clusterIP`` wherever they stand in
    these. A pod with a service account that there is finds its token by ``KUBECONFIG``.

    Secrets and ConfigMaps that change, or come late where they are optional, are written again
    some time after; what the downward API says is not. Claims, host paths and all other volumes
    are empty folders. A container begins in its ``workingDir`` if that is mounted, else in a
    folder of the pod's.

    Parameters
    ----------
    store : Store
    pod : dict
    folder : Path
        Of the pod; what is written goes there.
    address : str
        The pod's.
    base : mapping of str to str
        Variables of all pods.
    account : callable
        Of the pod, the kubeconfig of its service account, if it has one.
    """

    def __init__(
        self,
        store: Store,
        pod: Object,
        folder: Path,
        address: str,
        base: Mapping[str, str],
        account: Callable[[Object], str | None] = lambda pod: None,
        pythons: Mapping[str, str] | None = None,
    ) -> None:
        self._pythons = pythons or {}
        self._store = store
        self._pod = pod
        self._folder = folder
        self._address = address
        self._base = base
        self._account = account

    def prepare(self) -> None:
        """Write the volumes; Missing if one cannot be."""
        for name in ("tmp", "work"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        if (config := self._account(self._pod)) is not None:
            _put(self._folder / "account", config.encode(), 0o600)
        for volume in self._pod["spec"].get("volumes") or []:
            where = self._folder / "volumes" / volume["name"]
            where.mkdir(parents=True, exist_ok=True)
            try:
                self._fill(volume, where)
            except Missing as missing:
                text = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {missing}'
                raise Missing(text) from None

    def refresh(self) -> None:
        """Write again the Secrets and ConfigMaps that are there."""
        for volume in self._pod["spec"].get("volumes") or []:
            where = self._folder / "volumes" / volume["name"]
            if where.is_dir():
                with contextlib.suppress(Missing):
                    self._fill(volume, where)

    def _fill(self, volume: Object, where: Path) -> None:
        if secret := volume.get("secret"):
            self._files(SECRETS, secret.get("secretName", ""), secret, where)
        if config := volume.get("configMap"):
            self._files(CONFIG_MAPS, config.get("name", ""), config, where)
        for item in (volume.get("downwardAPI") or {}).get("items") or []:
            _put(where / item["path"], self._said(item).encode())
        for source in (volume.get("projected") or {}).get("sources") or []:
            if secret := source.get("secret"):
                source = {"secret": {**secret, "secretName": secret.get("name", "")}}
            self._fill(source, where)

    def _files(self, kind: Kind, name: str, source: Object, where: Path) -> None:
        try:
            data = self._data(kind, name)
        except Missing:
            if source.get("optional"):
                return
            raise
        items = source.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            if item["key"] not in data:
                if source.get("optional"):
                    continue
                raise Missing(f"references non-existent {kind.name.lower()} key: {item['key']}")
            mode = item.get("mode", source.get("defaultMode", 0o644))
            _put(where / item["path"], data[item["key"]], mode)

    def _data(self, kind: Kind, name: str) -> dict[str, bytes]:
        obj = self._store.get(kind, self._pod["metadata"]["namespace"], name)
        if obj is None:
            raise Missing(f'{kind.name.lower()} "{name}" not found')
        if kind == SECRETS:
            return {k: base64.b64decode(v) for k, v in (obj.get("data") or {}).items()}
        binary = (obj.get("binaryData") or {}).items()
        return {k: v.encode() for k, v in (obj.get("data") or {}).items()} | {
            k: base64.b64decode(v) for k, v in binary
        }

    def real(self, container: Object) -> Callable[[str], str]:
        """What makes real paths and addresses of what a container is told."""
        mounts = {
            mount["mountPath"].rstrip("/"): self._folder
            / "volumes"
            / mount["name"]
            / mount.get("subPath", "")
            for mount in container.get("volumeMounts") or []
        }
        mounts[container["terminationMessagePath"]] = self.message(container)

        def real(text: str) -> str:
            for path in sorted(mounts, key=len, reverse=True):
                match = re.match(rf"(--?[\w-]+=)?{re.escape(path)}(?=/|$)", text)
                if match:
                    text = f"{match[1] or ''}{mounts[path]}{text[match.end() :]}"
                    break
            return _SERVICE.sub(self._service, text)

        return real

    def _service(self, match: re.Match[str]) -> str:
        service = self._store.get(SERVICES, match[2], match[1])
        address = service["spec"].get("clusterIP") if service else None
        return match[0] if address in (None, "None", "") else str(address)

    def message(self, container: Object) -> Path:
        """Where a container may write why it ends."""
        return self._folder / f"{container['name']}.end"

    def log(self, container: Object) -> Path:
        return self._folder / f"{container['name']}.log"

    def start(self, container: Object) -> Path:
        """The folder in which it begins."""
        real = Path(self.real(container)(container.get("workingDir") or ""))
        inside = self._folder in real.parents
        return real if inside and real.is_dir() else self._folder / "work"

    def variables(self, container: Object) -> dict[str, str]:
        """The environment of a container, all of it; Missing if it refers to what is not there."""
        env = {name: os.environ[name] for name in _IMAGE if name in os.environ}
        bin = os.path.dirname(sys.executable)
        path = os.environ.get("PATH", os.defpath)
        env |= {
            "PATH": os.pathsep.join((bin, path)),
            "HOME": str(self._folder / "work"),
            "TMPDIR": str(self._folder / "tmp"),
            "HOSTNAME": self._pod["metadata"]["name"],
            # What a pod knows by its host's name.
            "POD_NAME": self._pod["metadata"]["name"],
            **self._base,
        }
        if (account := self._folder / "account").is_file():
            env["KUBECONFIG"] = str(account)
        real = self.real(container)
        for source in container.get("envFrom") or []:
            env |= {
                source.get("prefix", "") + key: real(value)
                for key, value in self._variables_from(source).items()
            }
        for variable in container.get("env") or []:
            if "valueFrom" not in variable:
                value: str | None = expand(variable.get("value", ""), env)
            else:
                value = self._value(variable["valueFrom"], container)
            if value is not None:
                env[variable["name"]] = real(value)
        return env

    def _variables_from(self, source: Object) -> dict[str, str]:
        for field, kind in (("secretRef", SECRETS), ("configMapRef", CONFIG_MAPS)):
            if ref := source.get(field):
                try:
                    data = self._data(kind, ref.get("name", ""))
                except Missing:
                    if ref.get("optional"):
                        return {}
                    raise
                return {
                    key: value.decode()
                    for key, value in data.items()
                    if re.fullmatch(r"[-._a-zA-Z][-._a-zA-Z0-9]*", key)
                }
        return {}

    def _value(self, source: Object, container: Object) -> str | None:
        for field, kind in (("secretKeyRef", SECRETS), ("configMapKeyRef", CONFIG_MAPS)):
            if ref := source.get(field):
                try:
                    data = self._data(kind, ref.get("name", ""))
                    if ref["key"] not in data:
                        where = f"{self._pod['metadata']['namespace']}/{ref['name']}"
                        raise Missing(f"couldn't find key {ref['key']} in {kind.name} {where}")
                except Missing:
                    if ref.get("optional"):
                        return None
                    raise
                return data[ref["key"]].decode()
        return self._said(source, container)

    def _said(self, source: Object, container: Object | None = None) -> str:
        """What the downward API says."""
        if ref := source.get("resourceFieldRef"):
            which, _, name = ref["resource"].partition(".")
            containers = {c["name"]: c for c in self._pod["spec"]["containers"]}
            chosen = containers.get(ref.get("containerName", ""), container) or {}
            amount = (chosen.get("resources", {}).get(which) or {}).get(name, "0")
            return str(
                math.ceil(quantities.parse(amount) / quantities.parse(ref.get("divisor", 1)))
            )
        path = source["fieldRef"]["fieldPath"]
        if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
            return str((self._pod["metadata"].get(match[1]) or {}).get(match[2], ""))
        if path in ("metadata.labels", "metadata.annotations"):
            pairs = self._pod["metadata"].get(path.partition(".")[2]) or {}
            return "\n".join(f'{key}="{value}"' for key, value in sorted(pairs.items()))
        if path in ("status.podIP", "status.podIPs", "status.hostIP"):
            return self._address
        value: Any = self._pod
        for key in path.split("."):
            value = value.get(key, "") if isinstance(value, dict) else ""
        return str(value)

    def command(self, container: Object, env: Mapping[str, str]) -> list[str]:
        """What is run; OSError if nothing is said, as no image says anything here."""
        real = self.real(container)
        words = [*(container.get("command") or []), *(container.get("args") or [])]
        words = [real(expand(word, env)) for word in words]
        if not words:
            raise FileNotFoundError("no command specified")
        if _PYTHON.fullmatch(words[0]):
            words[0] = self._pythons.get(container.get("image", ""), sys.executable)
        return words


def expand(text: str, env: Mapping[str, str]) -> str:
    """``$(NAME)`` replaced by a variable's value, where there is one; ``$$`` is a ``$``.

    Examples
    --------
    >>> expand("$(A)-$(B)-$$(A)", {"A": "1"})
    '1-$(B)-$(A)'
    """
    return _REFERENCE.sub(
        lambda match: "$" if match[1] is None else env.get(match[1], match[0]), text
    )


def _put(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whoever reads it meanwhile finds what was there, or all that is new.
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.chmod(mode | 0o400)
    fresh.replace(path)
