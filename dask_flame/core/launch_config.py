"""The configuration that a runner starts with, as JSON carries it (driver, runner)."""

from __future__ import annotations

from typing import Any, TypedDict


class SetupConfig(TypedDict):
    """The function of ``Pool(setup=…)``. It may hold secrets.

    Attributes
    ----------
    function : str
        The pickled function in base64.
    name : str
        Its name, for messages.
    python : str
        The version of Python that has pickled it.
    """

    function: str
    name: str
    python: str


class Wanted(TypedDict, total=False):
    """A package that a runner installs.

    Attributes
    ----------
    line : str
        The requirement for the installer, or the path of an archive. May hold credentials.
    name : str
        Canonical name.
    version : str
        The only version that satisfies it; empty if others may.
    digest : str
        SHA-256 of the archive, if `line` is the path of one of the driver's files.
    data : str
        That archive in Base64, for a runner on another machine.
    """

    line: str
    name: str
    version: str
    digest: str
    data: str


class Packages(TypedDict, total=False):
    """The packages of a runner.

    Attributes
    ----------
    check : bool
        Whether the runner tells its packages when it registers.
    driver : list of str or None
        The driver's :func:`~dask_flame.packages.installed.environment`, for a runner on the same
        machine. A runner for which it is the same tells nothing.
    install : list of Wanted
        Packages to install before it registers, unless they are there.
    exact : bool
        Whether `install` has all versions, so that nothing else is installed with them.
    """

    check: bool
    driver: list[str] | None
    install: list[Wanted]
    exact: bool


class LaunchConfig(TypedDict, total=False):
    """All that a runner reads when it starts. It holds secrets: private keys, and Dask's settings.

    Attributes
    ----------
    name : str
        The runner's name, which its worker bears.
    scheduler : str
        Address to register at.
    host : str or None
        Where the runner listens; None: at the address by which it reaches the scheduler.
    directory : str
        The runner's own folder, for temporary files and what its worker spills.
    concurrency : int
        Calls at a time.
    boot_timeout : float
        Seconds after which a runner that finds no scheduler ends itself.
    pool : str
    shutdown_timeout : float
        Seconds that it may take to end.
    gpus : int
    resources : mapping of str to float
    memory : int or None
        Bytes; None for no limit.
    preload : list of str
        Modules to import before it registers.
    setup : SetupConfig or None
        The function to call before it registers.
    secrets : list of str
        Names of environment variables whose values are hidden in its log.
    variables : mapping of str to str
        Environment variables with secret values, for a runner from a file on a substrate that has
        no other place for them.
    config : mapping
        Dask configuration.
    post_mortem : bool
        Whether it keeps the frames of failed calls.
    security : mapping
        What :class:`distributed.Security` takes for a worker.
    path : list of str
        Folders to import from before the usual ones.
    cwd : str or None
        Working directory; None, or a folder that is not there: `directory`; empty: where it starts.
    files : mapping
        The driver's files that the runner puts in place before it registers; see
        :mod:`dask_flame.files`. Empty for none.
    packages : Packages
    """

    name: str
    scheduler: str
    host: str | None
    directory: str
    concurrency: int
    boot_timeout: float
    pool: str
    shutdown_timeout: float
    gpus: int
    resources: dict[str, float]
    memory: int | None
    preload: list[str]
    setup: SetupConfig | None
    secrets: list[str]
    variables: dict[str, str]
    config: dict[str, Any]
    post_mortem: bool
    security: dict[str, Any]
    path: list[str]
    cwd: str | None
    files: dict[str, Any]
    packages: Packages
