"""What a driver, and a module that names FlameCluster, import."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

#: Needed by few, or late; each would take longer to import than ten modules of ours.
_HEAVY = {
    "IPython", "aiohttp", "asyncssh", "bokeh", "cryptography", "difflib", "httpx", "ipywidgets",
    "kr8s", "pandas", "pathspec", "pytest", "torch",
}  # fmt: skip
_CODE = """
import json, sys
import distributed
before = {name.partition(".")[0] for name in sys.modules}
from dask_flame import FlameCluster
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} - before)))
"""


@pytest.mark.process
def test_the_import_of_a_cluster_brings_no_heavy_module() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _CODE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    new = set(json.loads(ran.stdout))
    assert "dask_flame" in new
    assert not new & _HEAVY
