"""The Kubernetes backend: runners as pods (driver)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_flame._lazy import attach

if TYPE_CHECKING:
    from dask_flame.backends.kubernetes.backend import KubernetesBackend as KubernetesBackend
    from dask_flame.backends.kubernetes.options import KubernetesOptions as KubernetesOptions
    from dask_flame.backends.kubernetes.options import Options as Options

__all__ = ["KubernetesBackend", "KubernetesOptions", "Options"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "KubernetesBackend": "dask_flame.backends.kubernetes.backend",
        "KubernetesOptions": "dask_flame.backends.kubernetes.options",
        "Options": "dask_flame.backends.kubernetes.options",
    },
)
