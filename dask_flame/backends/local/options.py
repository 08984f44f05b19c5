"""The options of a pool of local runners (driver)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dask_flame.backends.options import BackendOptions, Option
from dask_flame.core.option_checks import yes_or_no


@dataclass(frozen=True, init=False, repr=False)
class LocalOptions(BackendOptions):
    """Options of a pool whose runners are processes on this machine: none of their own."""

    backend: ClassVar[str] = "local"
    settings: ClassVar[Mapping[str, Option]] = {"fork": Option(check=yes_or_no, example="False")}


#: The name under which pools look up this class.
Options = LocalOptions
