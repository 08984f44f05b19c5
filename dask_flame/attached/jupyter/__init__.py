"""Attached applications as kernels of Jupyter (Jupyter server).

The server extension adds running applications to the list of kernels. It is enabled by a file of
the wheel, ``etc/jupyter/jupyter_server_config.d/dask-flame.json``.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    try:
        from dask_flame.attached.jupyter.kernelspecs import list_applications_in
    except ModuleNotFoundError as missing:
        server.log.info(
            "Running applications are not listed: %s; pip install 'dask-flame[notebook]'", missing
        )
        return
    list_applications_in(server.kernel_spec_manager)
