"""What tests of a cluster or a backend need: a watch for leaks, a proxy that
fails, the backends' conformance suite.

Needs pytest: ``pip install 'dask-flame[test]'``.
"""

from dask_flame.testing.leaks import Leaks, marked_processes, nothing_left
from dask_flame.testing.proxy import Proxy

__all__ = ["Leaks", "Proxy", "marked_processes", "nothing_left"]
