"""Tools to test a cluster or a backend: leak detection, a proxy, a conformance suite (tests).

Requires pytest: ``pip install 'dask-flame[test]'``.
"""

from dask_flame.testing.leaks import Leaks, marked_processes, nothing_left
from dask_flame.testing.proxy import Proxy

__all__ = ["Leaks", "Proxy", "marked_processes", "nothing_left"]
