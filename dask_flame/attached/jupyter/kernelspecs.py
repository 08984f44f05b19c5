"""List running applications among the kernels of a Jupyter server, which starts one for each.

Jupyter has no public way to add kernels that come and go: its list is that of folders on disk. The
manager of the list is therefore given a subclass of its own class. What is configured there, for
instance that of nb_conda_kernels, remains.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from dask_flame.attached.client.choice import Choice, choices

#: Entry point of the provisioner.
PROVISIONER = "dask-flame-attach"
_PREFIX = "dask-flame-"
_FOLDER = str(Path(__file__).parent)


def kernel_name(choice: Choice) -> str:
    """Return the name of the kernel for an application, or for one of its instances."""
    which = f"process-{choice.instance}-" if choice.instance else "application-"
    return f"{_PREFIX}{which}{choice.application}"


def kernel_spec(choice: Choice) -> KernelSpec:
    """Return the specification of the kernel that attaches to an application."""
    which = {"application": choice.application, "chosen": choice.instance}
    return KernelSpec(
        argv=[
            *(sys.executable, "-m", "dask_flame.attached.jupyter", "-f", "{connection_file}"),
            *(f"--AttachKernel.{name}={value}" for name, value in which.items()),
        ],
        display_name=f"{choice.title} (attached)",
        language="python",
        # Its own process runs no cell, so a signal would not reach one.
        interrupt_mode="message",
        resource_dir=_FOLDER,
        metadata={
            "debugger": False,
            **_encryption(),
            "kernel_provisioner": {"provisioner_name": PROVISIONER, "config": which},
        },
    )


def _encryption() -> dict[str, Any]:
    """Return what ipykernel says of the encryption that it can."""
    name = "supported_encryption"
    said = get_kernel_dict().get("metadata", {})
    return {name: said[name]} if name in said else {}


class _WithApplications(KernelSpecManager):
    """Adds running applications to the list of any other manager."""

    def find_kernel_specs(self) -> dict[str, str]:
        return {**super().find_kernel_specs(), **dict.fromkeys(self._applications(), _FOLDER)}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        choice = self._applications().get(kernel_name)
        return super().get_kernel_spec(kernel_name) if choice is None else kernel_spec(choice)

    def get_all_specs(self) -> dict[str, Any]:
        listed: dict[str, Any] = super().get_all_specs()
        for name, choice in self._applications().items():
            listed[name] = {"resource_dir": _FOLDER, "spec": kernel_spec(choice).to_dict()}
        return listed

    def _applications(self) -> dict[str, Choice]:
        """Return what can be attached to, by the names of the kernels."""
        named = {kernel_name(choice): choice for choice in choices()}
        if allowed := self.allowed_kernelspecs:
            return {name: named[name] for name in named if name in allowed}
        return named


def list_applications_in(manager: KernelSpecManager) -> None:
    """Add the applications that run at any time to the list of a manager."""
    kind = type(manager)
    # The list of a gateway is one of another machine, which starts the kernels too.
    if inspect.iscoroutinefunction(kind.get_all_specs) or issubclass(kind, _WithApplications):
        return
    manager.__class__ = type(kind.__name__, (_WithApplications, kind), {})
