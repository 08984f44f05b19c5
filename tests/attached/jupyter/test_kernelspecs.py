"""A Jupyter server lists the applications that run now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from dask_flame.attached.client.choice import Choice, choices, choose
from dask_flame.attached.jupyter.kernelspecs import kernel_name, list_applications_in
from dask_flame.errors import AttachError
from tests.support import exposed as support
from tests.support.exposed import exposed
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def environment(tmp_path: Path) -> Iterator[None]:
    with support.own_sockets(tmp_path / "sockets"), support.installed(tmp_path / "site"):
        yield


class Environments(KernelSpecManager):  # type: ignore[misc]
    """Adds kernels of its own, as nb_conda_kernels does."""

    def find_kernel_specs(self) -> dict[str, str]:
        return {"theirs": "nowhere"}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        if kernel_name == "theirs":
            return KernelSpec(display_name="Theirs")
        raise NoSuchKernel(kernel_name)


def titles(manager: Any) -> list[str]:
    return [one["spec"]["display_name"] for one in manager.get_all_specs().values()]


def test_applications_are_listed_while_they_run(tmp_path: Path) -> None:
    manager = Environments()
    list_applications_in(manager)
    list_applications_in(manager)  # as after the reload of an extension
    assert isinstance(manager, Environments)
    assert titles(manager) == ["Theirs"]
    with exposed(tmp_path, "shop") as first:
        assert titles(manager) == ["Theirs", "shop (attached)"]
        (name,) = set(manager.find_kernel_specs()) - {"theirs"}
        assert manager.get_kernel_spec(name).interrupt_mode == "message"
        with exposed(tmp_path, "shop") as second:
            pids = sorted((first.pid, second.pid))
            each = [f"shop: process {pid} (attached)" for pid in pids]
            assert titles(manager) == ["Theirs", "shop: any of 2 processes (attached)", *each]
            assert choose("shop").pid == pids[0]
            assert choose("shop", second.pid).pid == second.pid
            with pytest.raises(AttachError, match="has no instance 1"):
                choose("shop", 1)
        wait_for(lambda: titles(manager) == ["Theirs", "shop (attached)"])
    assert titles(manager) == ["Theirs"]
    with pytest.raises(NoSuchKernel):
        manager.get_kernel_spec(name)


def test_names_do_not_collide() -> None:
    both = {Choice("1-shop", 0, ""), Choice("shop", 1, ""), Choice("shop", 0, "")}
    assert len({kernel_name(choice) for choice in both}) == 3


def test_an_allow_list_holds_for_applications_too(tmp_path: Path) -> None:
    manager = KernelSpecManager(allowed_kernelspecs={"python3"})
    list_applications_in(manager)
    with exposed(tmp_path, "shop"):
        assert list(manager.get_all_specs()) == ["python3"]
        allowed = kernel_name(*choices())
        manager.allowed_kernelspecs = {allowed}
        assert list(manager.get_all_specs()) == [allowed]


def test_the_list_of_a_gateway_is_left_alone() -> None:
    class Gateway(KernelSpecManager):  # type: ignore[misc]
        async def get_all_specs(self) -> dict[str, Any]:
            return {}

    manager = Gateway()
    list_applications_in(manager)
    assert type(manager) is Gateway
