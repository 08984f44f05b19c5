"""The error in the last output of a runner that cannot boot."""

from __future__ import annotations

import pytest

from dask_flame.driver.journal_writer import cause_in

pytestmark = pytest.mark.unit

TRACEBACK = """Traceback (most recent call last):
  File "train.py", line 3, in load
    open_model()
FileNotFoundError: no model.pt
"""


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("", ""),
        ("loading\nError: so says a library, and goes on\n", ""),
        (f"loading\n{TRACEBACK}", ": FileNotFoundError: no model.pt"),
        (f"{TRACEBACK}or so\nsetup=load has failed: no\n", ": setup=load has failed: no"),
        ("setup=exit has failed: SystemExit: 3\n", ": setup=exit has failed: SystemExit: 3"),
        (f"KeyError: 1\n\nDuring it:\n\n{TRACEBACK}", ": FileNotFoundError: no model.pt"),
        (TRACEBACK.replace("model", "\x07model"), ": FileNotFoundError: no model.pt"),
        (f"{TRACEBACK[:-1]}{'x' * 999}", f": FileNotFoundError: no model.pt{'x' * 470}"),
        ("Traceback (most recent call last):\n  File", ""),
    ],
)
def test_the_cause_is_found(output: str, cause: str) -> None:
    assert cause_in(output) == cause
