"""The tables of ``dask flame``."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from dask_flame.cli.tables import of_calls
from dask_flame.reports import CallReports, Series


@pytest.mark.unit
def test_json_has_no_numbers_that_json_has_not() -> None:
    series = {
        "loss": Series([0, 1], [1.0, math.nan], [0.0, 1.0]),
        "up": Series([0], [math.inf], [0.0]),
    }
    diverged = CallReports(
        "a", "r0", "running", 1, 0.0, None, series, parameters={"rate": math.nan}
    )
    run: Any = SimpleNamespace(calls={"a": diverged})
    (item,) = json.loads(json.dumps(of_calls(run).items, allow_nan=False))
    assert item["last"] == {"loss": "nan", "up": "inf"}
    assert item["parameters"] == {"rate": "nan"}
