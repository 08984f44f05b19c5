"""The options of a pool of local runners (driver)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dask_flame.backends.options import BackendOptions, Option, secrets_option
from dask_flame.core.option_checks import yes_or_no


@dataclass(frozen=True, init=False, repr=False)
class LocalOptions(BackendOptions):
    """Options of a pool whose runners are processes on this machine.

    Parameters
    ----------
    secrets : mapping of str to str, optional
        Environment variables with hidden values.
    """

    backend: ClassVar[str] = "local"
    settings: ClassVar[Mapping[str, Option]] = {"fork": Option(check=yes_or_no, example="False")}

    secrets: Mapping[str, str] | None = secrets_option()


#: The name under which pools look up this class.
Options = LocalOptions
