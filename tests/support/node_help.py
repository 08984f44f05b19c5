"""JavaScript of the pages in Node.js, for the parts that need no browser."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.examples import examples
from tests.support.paths import ROOT

NODE = os.environ.get("NODE", "node")
STATIC = ROOT / "dask_flame/dashboard/static"

#: For tests of hypothesis that use the process of a fixture for all examples.
several = settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

#: Runs a program for each line of JSON, and answers with a line of JSON.
_LOOP = """
const vm = require("vm");
const special = (_, v) => typeof v === "number" && !Number.isFinite(v) ? {special: String(v)} : v;
require("readline").createInterface({input: process.stdin}).on("line", (line) => {
  let answer;
  try {
    answer = {value: vm.runInThisContext(JSON.parse(line)) ?? null};
  } catch (error) {
    answer = {error: String(error?.stack ?? error)};
  }
  console.log(JSON.stringify(answer, special));
});
"""


class Node:
    """A process of Node.js with some of the pages' scripts in one scope, as the pages have them.

    Parameters
    ----------
    *scripts : str
        Names of files without ``.js``.
    """

    def __init__(self, *scripts: str) -> None:
        self._process = subprocess.Popen(
            [NODE, "-e", _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            source = "\n".join((STATIC / f"{script}.js").read_text("utf-8") for script in scripts)
            self._do(f"{source}\nnull")
        except BaseException:
            self.close()
            raise

    def __call__(self, function: str, *arguments: Any) -> Any:
        """Call a function, which is given as JavaScript, and return its value."""
        # Python writes NaN and infinities as JavaScript does.
        return self._do(f"({function})(...{json.dumps(arguments)})")

    def _do(self, program: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(program) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline(), object_hook=_number)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(timeout=20)


def _number(decoded: dict[str, Any]) -> Any:
    special = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    return special[decoded["special"]] if set(decoded) == {"special"} else decoded


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    if shutil.which(NODE) is None:
        pytest.skip(f"no {NODE} on the path; name one: NODE=/path/to/node pytest")
    made = Node("calls", "columns", "filter", "groups", "scales")
    yield made
    made.close()
