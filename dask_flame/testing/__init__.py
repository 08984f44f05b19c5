"""What tests of a cluster or a backend need: a watch for leaks, the backends' conformance suite.

Needs pytest: ``pip install 'dask-flame[test]'``.
"""

from dask_flame.testing.leaks import Leaks, marked_processes, nothing_left

__all__ = ["Leaks", "marked_processes", "nothing_left"]
