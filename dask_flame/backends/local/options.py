"""The options of a pool of local runners (driver)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dask_flame.backends.options import BackendOptions, Option, secrets_option
from dask_flame.core.option_checks import yes_or_no


@dataclass(frozen=True, init=False, repr=False)
class LocalOptions(BackendOptions):
    """Options of a pool whose runners are processes of this machine.

    Parameters
    ----------
    secrets : mapping of str to str, optional
        Environment variables whose values are shown nowhere.
    """

    backend: ClassVar[str] = "local"
    settings: ClassVar[Mapping[str, Option]] = {"fork": Option(check=yes_or_no, example="False")}

    secrets: Mapping[str, str] | None = secrets_option()


#: The name by which a pool finds them.
Options = LocalOptions
