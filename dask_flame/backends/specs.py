"""The values that a cluster and its backend exchange (driver)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dask_flame.core.connection import ConnectionInfo
from dask_flame.core.launch_config import LaunchConfig, Packages, SetupConfig
from dask_flame.core.pem import inline
from dask_flame.core.redaction import secret
from dask_flame.packages.installed import environment


def _no_packages() -> Packages:
    return {}


@dataclass(frozen=True, kw_only=True)
class RunnerSpec:
    """The description of one runner: its scheduler, its resources and its environment.

    :func:`dask_flame.backends.runner_command` returns the command for it.

    Attributes
    ----------
    name : str
        The runner's name. A cluster uses no name twice.
    scheduler : str
        Address of the scheduler.
    concurrency : int
        Number of concurrent calls.
    boot_timeout : float
        Seconds after which a runner that cannot connect to its scheduler ends itself, from its own
        start.
    pool : str
        The runner's pool.
    shutdown_timeout : float
        Seconds that its calls may take to end when the runner is reclaimed.
    cpus : float or None
        CPUs of the runner, which numerical libraries in its `concurrency` calls share. None for no
        limit.
    gpus : int
        GPUs of the runner.
    resources : mapping of str to float
        Dask resources of its worker.
    memory : int or None
        Bytes; None for no limit.
    env : mapping of str to str
        Environment variables, which override those of the substrate. May hold secrets.
    secrets : mapping of str to str, or to a mapping
        Further variables, which override those of `env`, with secret values. A mapping in place of
        a value names a secret that the substrate holds (:attr:`Backend.holds_secrets`).
    preload : sequence of str
        Modules to import before the runner registers.
    setup : SetupConfig or None
        The function to call before the runner registers. May hold secrets.
    config : mapping
        Dask configuration.
    post_mortem : bool
        Whether it keeps the frames of failed calls.
    security : mapping of str to str
        Arguments of :class:`distributed.Security` for a worker. Holds a private key.
    flags : sequence of str
        Arguments for the Python interpreter, so that it behaves as the driver's.
    hash_seed : str
        Value of ``PYTHONHASHSEED``, unless the environment sets it; empty for a random one.
    cwd : str or None
        The driver's working directory, for a runner on the same machine; None if that folder was
        deleted; empty if the runner stays where it starts.
    files : mapping
        What a runner on another machine needs to fetch the driver's files (``files=``).
    options : mapping
        The pool's options for this backend, checked by its :attr:`Backend.Options`. Of an option
        that may be a list in order of preference, it has the one value chosen for this runner. May
        hold secrets.
    kind : str
        The values chosen for this runner, as text: ``"A100, spot"``. Empty if the pool has no
        options that may be lists.
    capacity_wait : float or None
        Seconds after which the substrate counts as having none of this kind if it has only said so
        since, without refusing the request. The backend then gives the boot up, with
        ``Ended(no_capacity=True)``. None: the pool has no other kind, so that the runner waits.
    last_kind : bool
        Whether it is the last of the pool's kinds. A substrate with a queue then ignores
        `capacity_wait`, and the runner keeps its place; see :meth:`Backend.queued`.
    packages : Packages
        Packages to compare and to install, see
        :class:`dask_flame.core.launch_config.Packages`. May hold credentials in URLs.
    """

    name: str
    scheduler: str
    concurrency: int
    boot_timeout: float
    pool: str = "default"
    shutdown_timeout: float = 30.0
    cpus: float | None = None
    gpus: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    memory: int | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict, repr=False)
    preload: Sequence[str] = ()
    setup: SetupConfig | None = field(default=None, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    post_mortem: bool = False
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)
    flags: Sequence[str] = ()
    hash_seed: str = ""
    cwd: str | None = ""
    files: Mapping[str, Any] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    kind: str = ""
    capacity_wait: float | None = None
    last_kind: bool = False
    packages: Packages = field(default_factory=_no_packages, repr=False)

    @property
    def variables(self) -> dict[str, str]:
        """The values of `env` and `secrets` together, without secrets that the substrate holds."""
        return {**self.env, **{n: v for n, v in self.secrets.items() if isinstance(v, str)}}

    @property
    def secret_names(self) -> list[str]:
        """The variables of `secrets`, and those of `env` whose names are those of secrets."""
        named = {name for name, value in self.env.items() if secret(name, value)}
        return sorted(named | self.secrets.keys())

    @property
    def secret_values(self) -> list[str]:
        """The values of the variables in `secret_names`, where they are known here."""
        variables = self.variables
        return [variables[name] for name in self.secret_names if name in variables]

    def launch_config(self, *, local: bool) -> LaunchConfig:
        """Return the configuration that a runner reads when it starts.

        A backend adds the values that only it knows: ``directory`` and ``host``.

        Parameters
        ----------
        local : bool
            Whether the runner is on the driver's machine. On another machine, it gets certificates
            and keys instead of the names of their files.
        """
        security = dict(self.security)
        return {
            "name": self.name,
            "scheduler": self.scheduler,
            "concurrency": self.concurrency,
            "boot_timeout": self.boot_timeout,
            "pool": self.pool,
            "shutdown_timeout": self.shutdown_timeout,
            "gpus": self.gpus,
            "resources": dict(self.resources),
            "memory": self.memory,
            "preload": list(self.preload),
            "setup": self.setup,
            "secrets": self.secret_names,
            "config": dict(self.config),
            "post_mortem": self.post_mortem,
            "security": security if local else inline(security),
            "path": [],
            "cwd": "",
            "files": dict(self.files),
            "packages": self._packages(local=local),
        }

    def _packages(self, *, local: bool) -> Packages:
        if not (local and self.packages):
            return self.packages
        return {**self.packages, "driver": environment()}


@dataclass(frozen=True, kw_only=True)
class SchedulerSpec:
    """The description of a scheduler outside the driver, see :mod:`dask_flame.remote`.

    Attributes
    ----------
    launch_config : mapping
        The configuration of its process, in types of JSON. Holds private keys. A backend may add
        ``address_variable``, the name of the variable with the address that runners connect to
        (``"DASK_FLAME_POD_IP"``), and ``also_at``, a list of further addresses to listen at (the
        loopback address).
    options : mapping
        The options of the first pool for this backend.
    timeout : float
        Seconds that its start may take.
    cpus : float
        CPUs of its pod, or machine.
    memory : int
        Memory of it, in bytes.
    template : mapping, path or None
        Template of its pod.
    service : str
        How Clients connect to it, in the substrate's terms; empty for :meth:`Backend.reach`.
    port : int
        The port that it listens on.
    connection : ConnectionInfo or None
        What other processes of the user need to connect. Holds private keys. The backend keeps it
        where only they can read it, and not where the scheduler or a runner can; see
        :meth:`Inspector.enter`. None: they cannot connect.
    """

    launch_config: Mapping[str, Any] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timeout: float = 120.0
    cpus: float = 1.0
    memory: int = 2**31
    template: Any = None
    service: str = ""
    port: int = 8786
    connection: ConnectionInfo | None = field(default=None, repr=False)


@dataclass(frozen=True)
class MostRunners:
    """How many runners of a pool a substrate holds, if it has room for no other ones.

    Attributes
    ----------
    number : int
    why : str
        Where the number comes from, in a few words: ``"gpu1 holds 4, gpu2 holds 2"``.
    """

    number: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A report that a runner has ended.

    Attributes
    ----------
    name : str
        The runner's name.
    why : str
        The reason, in the substrate's terms: ``"exit code 1"``, ``"killed by SIGKILL"``, …
    output : str
        The end of its output.
    no_room : bool
        Whether the substrate refused it because of lack of space. If the pool has other runners,
        this is not a failure, and the boot is tried again when one has ended.
    final : bool
        Whether another boot would fail for the same reason. Calls that wait for it fail at once.
    no_capacity : bool
        Whether the substrate has none of this runner's kind at present (its GPU, region, …); `why`
        is the substrate's own statement. The cluster asks for the pool's next kind, and tries this
        one again later. If the pool has no other kind to try, this is as `no_room`.
    """

    name: str
    why: str
    output: str = ""
    no_room: bool = False
    final: bool = False
    no_capacity: bool = False


def _unheard(*_: object) -> None:
    """Ignore a report of a backend."""


def _nobody() -> Callable[..., None]:
    """Return a listener that ignores all reports.

    As a factory, so that no default is an attribute of the class, whose text would be shown.
    """
    return _unheard


@dataclass(frozen=True, kw_only=True)
class BackendContext:
    """The arguments that a cluster gives its backend.

    Attributes
    ----------
    cluster : str
        The cluster's name. The backend labels the objects that it creates with it, so that ``dask
        flame sweep`` can find them. Two clusters may have the same name.
    ended : callable
        Called with an :class:`Ended`; see :meth:`Backend.ended`.
    progress : callable
        Called with a runner's name and a step; see :meth:`Backend.progress`.
    trouble : callable
        Called with a runner's name and a reason; see :meth:`Backend.trouble`.
    queued : callable
        Called with a runner's name, and whether it is queued or its turn has come; see
        :meth:`Backend.queued` and :meth:`Backend.started`.
    stopped : callable
        Called with a reason; see :meth:`Backend.stopped`.
    most_changed : callable
        Called without arguments; see :meth:`Backend.most_changed`.
    scheduler : {"auto", "driver", "pod"}
        The user's choice of a place for the scheduler.
    places : mapping of str to str
        The user's choice of a place for the runners: values of the options in
        :attr:`Backend.places`.
    disconnect_grace : float or None
        Seconds that the cluster outlives a lost driver; None if the user has not set it.
    adopts : str
        The id of a running cluster of which this process becomes the driver, in place of one that
        is gone; see :meth:`Backend.join_scheduler`. Empty for a new cluster.
    replaced : callable
        Called with a reason; see :meth:`Backend.replaced`.
    """

    cluster: str
    ended: Callable[[Ended], None]
    progress: Callable[[str, str], None] = field(default_factory=_nobody)
    trouble: Callable[[str, str], None] = field(default_factory=_nobody)
    queued: Callable[[str, bool], None] = field(default_factory=_nobody)
    stopped: Callable[[str], None] = field(default_factory=_nobody)
    most_changed: Callable[[], None] = field(default_factory=_nobody)
    scheduler: str = "auto"
    places: Mapping[str, str] = field(default_factory=dict)
    disconnect_grace: float | None = None
    adopts: str = ""
    replaced: Callable[[str], None] = field(default_factory=_nobody)
