"""Runners as Kubernetes pods (driver)."""

from __future__ import annotations

from dask_flame.backends.kubernetes.backend import KubernetesBackend as KubernetesBackend

__all__ = ["KubernetesBackend"]
