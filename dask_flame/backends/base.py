"""The contract between a cluster and the backend that boots its runners (driver).

A backend knows one substrate, and nothing of Dask. It starts runners from a :class:`RunnerSpec`,
ends them by name, and reports when a runner has ended, and why. It makes no decisions. Other
packages add backends through the entry point group ``dask_flame.backends``.
:mod:`dask_flame.testing.conformance` tests the statements about the methods of :class:`Backend`.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dask_flame.comm.addresses import HOST, SCHEME, new_socket_in
from dask_flame.core.backend_options import BackendOptions
from dask_flame.core.connection import ConnectionInfo
from dask_flame.core.launch_config import LaunchConfig, Packages, SetupConfig
from dask_flame.core.option_checks import GRACE
from dask_flame.core.options import Check
from dask_flame.core.redaction import secret
from dask_flame.errors import BackendError
from dask_flame.packages.installed import environment

if TYPE_CHECKING:
    from dask_flame.backends.inspector import Inspector


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
        Seconds after which a runner that cannot connect to its scheduler ends itself.
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
            "security": security if local else _inline(security),
            "path": [],
            "cwd": "",
            "files": dict(self.files),
            "packages": self._packages(local=local),
        }

    def _packages(self, *, local: bool) -> Packages:
        if not (local and self.packages):
            return self.packages
        return {**self.packages, "driver": environment()}


def _inline(security: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the names of files with their content: certificates and keys."""
    return {
        key: Path(value).read_text()
        if isinstance(value, str) and "-----BEGIN" not in value
        else value
        for key, value in security.items()
    }


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


def _unheard(*_: str) -> None:
    """Ignore a report of a backend."""


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
    stopped : callable
        Called with a reason; see :meth:`Backend.stopped`.
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
    progress: Callable[[str, str], None] = _unheard
    trouble: Callable[[str, str], None] = _unheard
    stopped: Callable[[str], None] = _unheard
    scheduler: str = "auto"
    places: Mapping[str, str] = field(default_factory=dict)
    disconnect_grace: float | None = None
    adopts: str = ""
    replaced: Callable[[str], None] = _unheard


class Backend(ABC):
    """Boot and end runners on one substrate.

    A backend is created, started once, and closed. Every method is called on one event loop, unless
    it says otherwise. Methods may be called while others are running, and may be cancelled.

    **Starting a runner.** For each :class:`RunnerSpec`, a backend starts one process that runs
    ``dask_flame.runner``. :func:`dask_flame.backends.runner_command` returns the command, the
    environment and the configuration for a process on the driver's machine;
    :func:`dask_flame.backends.runner_command_from_file` does so for another machine. The
    configuration holds private keys, so it must not be passed as an argument or a variable. The
    runner reads it, imports the modules of ``preload``, calls the function of ``setup``, connects
    to ``scheduler`` and registers under its name. The backend need not know when that happens.

    **Secrets.** The values of :attr:`RunnerSpec.secrets` reach the runner as environment variables,
    by the substrate's means for secrets if it has any, and are in no argument, label, log message,
    error or manifest. The two functions have them in their environment.

    **Ending a runner.** A runner ends by itself when the scheduler asks it to or is lost, at a
    SIGTERM, and, if it reads its configuration from its standard input, when that closes. A backend
    must also be able to end it by force, with all processes that it has started.

    **A runner's exit.** The exit code is 0 when the runner was asked to end, or when the scheduler
    was lost. It is 1 when the runner could not start, in which case its output ends with the
    traceback, or when the driver was lost. Other codes come from the calls that it ran, or from the
    operating system. A backend reports every exit by :meth:`ended`, as text, and makes no decision
    from it: the cluster knows whether the exit was expected, and runs lost calls again.

    **After the driver's death**, for whatever reason, none of the backend's objects are left.

    Parameters
    ----------
    context : BackendContext
    """

    #: The name for ``backend=``.
    name: ClassVar[str]
    #: The options that it adds to those of a pool. The module of the backend's entry point has the
    #: same class as ``Options``.
    Options: ClassVar[type[BackendOptions]] = BackendOptions
    #: Whether runners are on other machines, so that all connections must be TLS.
    remote: ClassVar[bool] = False
    #: Whether a pool's ``secrets`` may name secrets that the substrate holds, by
    #: ``{"name": …, "key": …}`` in place of a value.
    holds_secrets: ClassVar[bool] = False
    #: Whether the file system of a remote runner ends with it, as that of a container does. Then
    #: the driver's files (``files=``) replace others of it; otherwise nothing is ever overwritten.
    disposable: ClassVar[bool] = False
    #: Places where the scheduler can run: in the ``"driver"``, or in a ``"pod"`` near the runners.
    scheduler_places: ClassVar[frozenset[str]] = frozenset({"driver"})
    #: What is called ``"pod"`` there, for messages.
    scheduler_place_word: ClassVar[str] = "pod"
    #: Whether :meth:`reach` leads to any port of the loopback address of the scheduler's process.
    #: If not, it is called for the scheduler's own port alone, and the dashboard is reached through
    #: the scheduler's connection.
    reaches_loopback: ClassVar[bool] = True
    #: Whether a process can become the driver of a cluster whose driver is gone, see
    #: :meth:`join_scheduler`.
    adopts: ClassVar[bool] = False
    #: Whether it shows the output of runners; otherwise the output is sent to the scheduler.
    shows_output: ClassVar[bool] = False
    #: The options of a cluster that determine the place of its runners, of ``namespace`` and
    #: ``context``, with the check of each; :meth:`inspector` takes them as well. Their settings are
    #: ``flame.<name>.<option>``.
    places: ClassVar[Mapping[str, Check]] = {}

    def __init__(self, context: BackendContext) -> None:
        self.context = context

    @abstractmethod
    async def start(self) -> None:
        """Prepare to boot runners. A cluster calls this once, before other methods but `expect`.

        After :meth:`close`, which may be called earlier or while this runs, it raises.

        Raises
        ------
        BackendError
            If the backend cannot work here, or is closed; nothing is left behind.
        """

    def expect(self, specs: Sequence[RunnerSpec]) -> None:  # noqa: B027
        """Prepare for runners that are likely to be requested.

        This is called before :meth:`start`, with one runner for each pool, and again whenever the
        options of a pool have changed. Names and the scheduler's address are empty. By default,
        it does nothing. A backend that keeps :attr:`RunnerSpec.capacity_wait` also applies the new
        one to runners of that pool that wait for capacity already.

        Raises
        ------
        BackendError
            If such a runner would be impossible.
        """

    @abstractmethod
    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        """Request runners. Return when the requests are accepted, not when runners have started.

        - No runners: do nothing.
        - A new name: the request is accepted. From now on :meth:`list` includes it, until the
          runner has ended. A cluster never uses a name twice.
        - The name of a running runner: raise BackendError. Then none of the runners is booted, and
          the running one is not affected.
        - The substrate refuses a request: the request counts as accepted, and `ended` is called
          with the refusal, before or after the return.
        - The substrate has none of a runner's kind at present: the same, with ``no_capacity``. If
          it says so only by letting the request wait, :attr:`RunnerSpec.capacity_wait` applies.
        - The substrate is unreachable: the same for each runner, or raise BackendError. After an
          exception, `ended` is not called for these runners.
        - After :meth:`close`: `ended` is called for each runner, or BackendError is raised.
        - Cancelled: each runner was either accepted or never existed.

        Raises
        ------
        BackendError
        """

    def check_new(self, specs: Sequence[RunnerSpec], living: Collection[str]) -> None:
        """Raise if names of runners are in use; for :meth:`boot` of a subclass.

        Raises
        ------
        BackendError
        """
        taken = set(living)
        for spec in specs:
            if spec.name in taken:
                raise BackendError(f"there is a runner {spec.name!r} already")
            taken.add(spec.name)

    @abstractmethod
    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        """End runners. Return when they have ended, and `ended` has been called for each.

        - An unknown name, or a runner that has ended: it is ignored.
        - A booting runner: its boot is given up.
        - A runner that another call is ending: both calls return when it has ended. The shorter
          grace applies.
        - After :meth:`close`: return at once.
        - The substrate is unreachable: raise BackendError. The cluster tries again.

        Parameters
        ----------
        names : collection of str
        grace : float, default 0
            Seconds that a runner may take to end by itself before it is ended by force.

        Raises
        ------
        BackendError
        """

    @abstractmethod
    async def list(self) -> set[str]:
        """Return the names of the runners that exist on the substrate.

        The cluster considers runners that are not included as lost.

        - Before :meth:`start`, and after :meth:`close`: none.
        - A runner that is booting or being ended: it is included.
        - A runner whose `ended` has been called: it is not included.
        - The substrate is unreachable: raise BackendError, and do not guess.

        Raises
        ------
        BackendError
        """

    @abstractmethod
    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        """Return the end of the output of these runners, as far as it is known.

        - A runner that has ended: its output, for as long as the backend keeps it.
        - An unknown name, or a runner without output: it may be left out.
        - Before :meth:`start`: nothing. After :meth:`close`: the output that is still known.
        - The substrate is unreachable: the output that is known without it.
        """

    def recent_output(self, runner: str, call: str) -> Sequence[str]:
        """Return the last lines of a call, if this backend shows the output of runners.

        Parameters
        ----------
        runner : str
            Name of the runner.
        call : str
            Name of the call, as in the lines that are shown.
        """
        return []

    @abstractmethod
    async def close(self) -> None:
        """End everything that this backend created, and call `ended` for each runner.

        This may be called at any time: before :meth:`start`, while that or :meth:`boot` is running,
        several times, and concurrently. Each call returns when everything has ended. It does not
        raise if the substrate is unreachable: then the substrate itself ends the rest by its own
        rules.
        """

    def ended(self, what: Ended) -> None:
        """Report that a runner has ended; for a backend to call, on the event loop.

        Call this exactly once for each runner whose boot was accepted, whatever the cause. By then,
        the runner's process must have ended, and its last output must be known.
        """
        self.context.ended(what)

    def progress(self, name: str, step: str) -> None:
        """Report the progress of a boot; for a backend to call, on the event loop.

        This is optional. It shows users which step of a boot is slow; the step counts from the
        moment of the call. Report each step once for a runner, between the start of its
        :meth:`boot` and its `ended`.

        Parameters
        ----------
        name : str
            The name of a requested runner.
        step : str
            The runner's state in the substrate's terms, up to 40 characters: ``"up"``,
            ``"scheduled"``, ``"image pulled"``, ``"container started"``. Use few steps, and always
            the same ones. ``"accepted"``, ``"setting up"``, ``"setup"``, ``"registered"`` and
            ``"first call"`` are ignored, because the cluster records them itself.
        """
        self.context.progress(name, step)

    def trouble(self, name: str, why: str) -> None:
        """Report a delay of a runner's boot; for a backend to call, on the event loop.

        This is not a failure: the boot continues. Users see it at once, and again in the error of
        waiting calls if the boot fails or takes too long.

        Parameters
        ----------
        name : str
            The name of a requested runner. Empty if the trouble does not concern one runner, and
            delays no boot.
        why : str
            The reason in the substrate's terms, with the same text for many runners. Empty when the
            trouble has ended.
        """
        self.context.trouble(name, why)

    def stopped(self, why: str) -> None:
        """Report that this cluster was stopped; for a backend to call, on the event loop.

        The cluster then ends its runners and never boots others. Waiting and later calls fail with
        this reason. Call this if a user or an administrator wants it, not if runners are lost.

        Parameters
        ----------
        why : str
            Who has stopped it, or how: ``"the cluster was stopped with `dask flame stop`"``.
        """
        self.context.stopped(why)

    @classmethod
    def inspector(cls, **where: str) -> Inspector:
        """Return an inspector, which ``dask flame`` uses to list and end this user's clusters.

        This is optional. With it, ``dask flame --backend`` accepts the backend's name. It is called
        without an instance, in a process that has no cluster.

        Parameters
        ----------
        **where : str
            The places to inspect: the options ``namespace``, ``context``, ``app`` and ``hosts``
            that the user has given; see :func:`dask_flame.backends.inspector.check_where`.

        Raises
        ------
        BackendError
            If the backend has no inspector, or does not know such an option.
        """
        raise BackendError(
            f"backend={cls.name!r} cannot be asked by the command line for its clusters"
        )

    def manifest(self, spec: RunnerSpec) -> Sequence[Mapping[str, Any]]:
        """Return the objects that would be sent to the substrate for a runner, without sending.

        This is optional; :meth:`dask_flame.FlameCluster.manifest` uses it. It may be called from
        any thread, between :meth:`start` and :meth:`close`. The code that boots runners must also
        create these objects, so that they are the same.

        Parameters
        ----------
        spec : RunnerSpec
            A runner that may be requested next.

        Returns
        -------
        sequence of mapping
            The runner's own object and all others for it, in the order in which they are sent.
            YAML's safe dumper must be able to write them. They must not contain secrets: the values
            of ``env``, ``secrets``, ``config`` and ``security``; see
            :mod:`dask_flame.backends.redact`.

        Raises
        ------
        BackendError
            If the backend does not implement this, or such a runner would be impossible.
        PoolError
            If an option is wrong.
        """
        raise BackendError(f"backend={self.name!r} does not show what it sends")

    @property
    def listening(self) -> dict[str, Any]:
        """Arguments of the scheduler, so that it listens where runners can connect.

        Known when :meth:`start` has returned. By default, runners are on the driver's machine, and
        the scheduler listens on a Unix socket in :attr:`folder`, or, without a folder, in Linux's
        abstract namespace. Only processes of the same user can connect. With TLS, it listens on the
        loopback address.
        """
        if not self.folder and sys.platform != "linux":
            return {"host": HOST}
        return {"host": new_socket_in(self.folder or ""), "protocol": SCHEME}

    @property
    def disconnect_grace(self) -> float:
        """Seconds that the cluster outlives a lost driver; known when :meth:`start` has returned.

        A backend may choose it if the user has not.
        """
        given = self.context.disconnect_grace
        return GRACE if given is None else given

    @property
    def apart(self) -> bool:
        """Whether :meth:`start_scheduler` starts the scheduler near the runners, not in the driver.

        Known when :meth:`start` has returned.
        """
        return False

    async def start_scheduler(self, spec: SchedulerSpec, over: Callable[[str], None]) -> str:
        """Start a process for the scheduler near the runners. Return when it has started.

        This is called once, after :meth:`start`, and only if :attr:`apart` is true. When that
        process ends, everything that the backend created must end with it.

        Parameters
        ----------
        spec : SchedulerSpec
        over : callable
            Call this on the event loop, with the reason, when the process has ended, unless
            :meth:`close` has ended it.

        Returns
        -------
        str
            Host and port of the scheduler for Clients; empty if they use :meth:`reach`.

        Raises
        ------
        BackendError
            If it cannot start. The message has the substrate's reason and the setting to change.
        """
        raise NotImplementedError

    async def join_scheduler(
        self, spec: SchedulerSpec, over: Callable[[str], None], *, driver: str
    ) -> str:
        """Take over a scheduler, and all runners, that an earlier driver has started.

        This is called in place of :meth:`start_scheduler` if :attr:`BackendContext.adopts` is set.
        From now on, :meth:`list` includes all runners that exist, and `ended` is called for those
        that end. An earlier driver that still lives must learn of it, if possible, before this one
        changes anything: it then calls :meth:`replaced`.

        If this fails, or the backend is closed before :meth:`scheduler_connected` was called,
        everything stays as it is for another driver.

        Parameters
        ----------
        spec : SchedulerSpec
            As far as it is known: without a launch configuration.
        over : callable
            See :meth:`start_scheduler`.
        driver : str
            A unique id of this driver.

        Returns
        -------
        str
            See :meth:`start_scheduler`.

        Raises
        ------
        BackendError
        """
        raise NotImplementedError

    def leave(self) -> None:  # noqa: B027
        """Leave everything that exists to another driver: from now on, end and delete nothing."""

    async def look_for_successor(self) -> None:  # noqa: B027
        """Call :meth:`leave` if another process has become the driver.

        This is called before a close without a connection to the scheduler. It does not raise.
        """

    def replaced(self, why: str) -> None:
        """Report that another process has become the driver; for a backend to call."""
        self.leave()
        self.context.replaced(why)

    async def announce(self, connection: ConnectionInfo) -> None:  # noqa: B027
        """Make known how to connect to a scheduler in this process; see :meth:`Inspector.enter`.

        This is optional, and called once when the scheduler has started in the driver's process.
        What it keeps must only be readable by the user, and must end with the driver.

        Parameters
        ----------
        connection : ConnectionInfo
        """

    def scheduler_connected(self) -> None:
        """Handle the first connection of the driver to the scheduler of :meth:`start_scheduler`.

        From now on that process ends by itself when it has lost its driver. Before that, the
        backend must end it when the driver's process has ended. By default, this does nothing.
        """
        return

    async def reach(self, port: int, *, at: int = 0) -> int:
        """Forward a port of this machine's loopback address to the scheduler's process.

        This is called after :meth:`start_scheduler`, perhaps several times; see
        :attr:`reaches_loopback`.

        Parameters
        ----------
        port : int
            The scheduler's port.
        at : int, default 0
            The port of this machine to use if it is free. If it is not, or for 0: any.

        Returns
        -------
        int
            The port of this machine. It is forwarded to the scheduler until :meth:`close`.
        """
        raise NotImplementedError

    @property
    def out_of_reach(self) -> str:
        """The reason why the last connection through :meth:`reach` failed; empty if it did not."""
        return ""

    @property
    def scratch(self) -> str | None:
        """A folder on the driver's machine that is removed with the backend; None if none."""
        return None

    @property
    def folder(self) -> str | None:
        """A folder for files that must last as long as the driver; None for Dask's default.

        By default, it is :attr:`scratch`.
        """
        return self.scratch

    def forked(self) -> None:  # noqa: B027
        """Release resources that would block the driver, in a child forked from the driver.

        This may be called at any time, in a process in which the event loop does not run.
        """
