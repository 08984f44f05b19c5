"""Tools to test a cluster or a backend: leak detection, a proxy, a conformance suite (tests).

Requires pytest: ``pip install 'dask-flame[test]'``.
"""

import sys

if "pytest" in sys.modules:
    import pytest

    # A failure of the conformance suite shows the values, as in a test module.
    pytest.register_assert_rewrite("dask_flame.testing.conformance")

from dask_flame.testing.leaks import Leaks, marked_processes, nothing_left
from dask_flame.testing.proxy import Proxy

__all__ = ["Leaks", "Proxy", "marked_processes", "nothing_left"]
