"""The contract between a cluster and the back end that boots its runners (driver).

A back end knows one substrate and nothing of Dask: it starts runners from a :class:`RunnerSpec`,
ends them by name, and says when one has ended and why. It decides nothing. A third party adds one
through the entry point group ``dask_flame.backends``. :mod:`dask_flame.testing.conformance` tests
each statement that :class:`Backend` makes of its methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dask_flame.core.backend_options import BackendOptions
from dask_flame.core.launch_config import LaunchConfig
from dask_flame.core.option_checks import GRACE
from dask_flame.core.options import Check
from dask_flame.errors import BackendError

if TYPE_CHECKING:
    from dask_flame.backends.inspector import Inspector


@dataclass(frozen=True, kw_only=True)
class RunnerSpec:
    """The description of one runner: its scheduler, its resources and its environment.

    :func:`dask_flame.backends.runner_command` makes a command of it.

    Attributes
    ----------
    name : str
        The runner's name. A cluster uses no name twice.
    scheduler : str
        Address to register at.
    concurrency : int
        Calls at a time.
    boot_timeout : float
        Seconds after which a runner that finds no scheduler ends itself.
    pool : str
        The pool that it belongs to.
    shutdown_timeout : float
        Seconds that its calls may take to end when the runner is taken away.
    cpus : float or None
        CPUs of the runner. Where the substrate gives none, numerical libraries use as many threads,
        at least one.
    gpus : int
        GPUs that it needs.
    resources : mapping of str to float
        Dask resources that its worker has.
    memory : int or None
        Bytes; None for no limit.
    env : mapping of str to str
        Environment variables, over those of the substrate. May hold secrets.
    preload : sequence of str
        Modules to import before the runner registers.
    config : mapping
        Dask configuration.
    security : mapping of str to str
        What :class:`distributed.Security` takes for a worker. Holds a private key.
    flags : sequence of str
        Arguments for the Python interpreter, with which it behaves as the driver's.
    hash_seed : str
        Value of ``PYTHONHASHSEED``, where the environment has no other; empty: a random one.
    cwd : str or None
        The driver's working directory, for a runner on the same machine; None: that folder was
        deleted; empty: the runner stays where it starts.
    options : mapping
        The pool's options for this back end, checked by its :attr:`Backend.Options`. May hold
        secrets.
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
    preload: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)
    flags: Sequence[str] = ()
    hash_seed: str = ""
    cwd: str | None = ""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def launch_config(self, *, local: bool) -> LaunchConfig:
        """Return the configuration that a runner reads when it starts.

        A back end adds what it alone knows: ``directory`` and ``host``.

        Parameters
        ----------
        local : bool
            Whether the runner is on the driver's machine. Elsewhere it gets certificates and keys
            themselves in place of the names of files.
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
            "config": dict(self.config),
            "security": security if local else _inline(security),
            "path": [],
            "cwd": "",
        }


def _inline(security: Mapping[str, Any]) -> dict[str, Any]:
    """Return certificates and keys themselves, where files of the driver's are named."""
    return {
        key: Path(value).read_text()
        if isinstance(value, str) and "-----BEGIN" not in value
        else value
        for key, value in security.items()
    }


@dataclass(frozen=True, kw_only=True)
class SchedulerSpec:
    """What a scheduler apart from its driver is told, see :mod:`dask_flame.remote`.

    Attributes
    ----------
    orders : mapping
        As JSON takes it. Holds private keys.
    options : mapping
        The options of the first pool for this back end.
    timeout : float
        Seconds that its start may take.
    cpus, memory : float, int
        Of its pod.
    template : mapping, path or None
        What its pod is laid over.
    service : str
        By what Clients reach it, in the substrate's words; empty: by :meth:`Backend.reach`.
    port : int
        At which it listens.
    """

    orders: Mapping[str, Any] = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timeout: float = 120.0
    cpus: float = 1.0
    memory: int = 2**31
    template: Any = None
    service: str = ""
    port: int = 8786


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A runner is gone from the substrate.

    Attributes
    ----------
    name : str
    why : str
        In the substrate's own words: ``"exit code 1"``, ``"killed by SIGKILL"``, …
    output : str
        The end of what it printed.
    no_room : bool
        Whether it was refused, before it was anything, as there is no room for it beside others:
        it is no failure where there are some, and is tried again when one has gone.
    final : bool
        Whether another boot would fail for the same reason: what waits for it fails at once.
    """

    name: str
    why: str
    output: str = ""
    no_room: bool = False
    final: bool = False


def _unheard(*_: str) -> None:
    """Ignore what a back end says."""


@dataclass(frozen=True, kw_only=True)
class BackendContext:
    """All that a cluster gives its back end.

    Attributes
    ----------
    cluster : str
        The cluster's name. What the back end makes on the substrate bears it, so that ``dask flame
        sweep`` can find it. Two clusters may have the same name.
    ended : callable
        Takes an :class:`Ended`; see :meth:`Backend.ended`.
    progress : callable
        Takes a runner's name and a step; see :meth:`Backend.progress`.
    trouble : callable
        Takes a runner's name and a reason; see :meth:`Backend.trouble`.
    stopped : callable
        Takes a reason; see :meth:`Backend.stopped`.
    scheduler : {"auto", "driver", "pod"}
        Where the user wants the scheduler.
    places : mapping of str to str
        Where the user wants the runners: values of the options in :attr:`Backend.places`.
    disconnect_grace : float or None
        Seconds that the fleet outlives a lost driver; None: the user has not said it.
    """

    cluster: str
    ended: Callable[[Ended], None]
    progress: Callable[[str, str], None] = _unheard
    trouble: Callable[[str, str], None] = _unheard
    stopped: Callable[[str], None] = _unheard
    scheduler: str = "auto"
    places: Mapping[str, str] = field(default_factory=dict)
    disconnect_grace: float | None = None


class Backend(ABC):
    """Boots and ends runners on one substrate.

    A back end is made, started once, and closed. Every method is called on one event loop, unless
    it says otherwise. Methods may be called while others are under way, and may be cancelled.

    **Starting a runner.** For each :class:`RunnerSpec`, a back end starts one process that runs
    ``dask_flame.runner``. :func:`dask_flame.backends.runner_command` returns the command, the
    environment and the configuration for a process of the driver's machine;
    :func:`dask_flame.backends.runner_command_from_file` does so for another machine. The
    configuration holds private keys, so it never is an argument or a variable. The runner reads it,
    imports the modules of ``preload``, connects to ``scheduler`` and registers under its name. The
    back end need not know when that happens.

    **Ending a runner.** A runner ends by itself when the scheduler tells it to or is gone, at a
    SIGTERM, and, where it has its configuration from its standard input, when that closes. A back
    end must also be able to end it by force, with all processes that it has started.

    **A runner's exit.** The code is 0 when the runner was told to end, or when the scheduler was
    gone; 1 when it could not start, and then the traceback is the last of its output, or when the
    driver was lost; anything else comes from the calls that it ran, or from the operating system. A
    back end reports every exit by :meth:`ended`, in words, and decides nothing from it: the cluster
    knows whether the exit was wanted, and runs lost calls again.

    **After the driver's death**, however it came about, nothing that the back end made is left.

    Parameters
    ----------
    context : BackendContext
    """

    #: The name by which a user chooses it.
    name: ClassVar[str]
    #: The options that it adds to those of a pool. The module of the back end's entry point offers
    #: the same class as ``Options``.
    Options: ClassVar[type[BackendOptions]] = BackendOptions
    #: Whether runners are on other machines, so that all connections must be TLS.
    remote: ClassVar[bool] = False
    #: Where the scheduler can be: in the ``"driver"``, or in a ``"pod"`` by the runners.
    seats: ClassVar[frozenset[str]] = frozenset({"driver"})
    #: Whether it shows what runners print; otherwise the scheduler is told of it.
    shows: ClassVar[bool] = False
    #: The options of a cluster that say where its runners are, of ``namespace`` and ``context``,
    #: with the check of each; :meth:`overseer` takes them as well. ``flame.<name>.<option>``
    #: configures them.
    places: ClassVar[Mapping[str, Check]] = {}

    def __init__(self, context: BackendContext) -> None:
        self.context = context

    @abstractmethod
    async def start(self) -> None:
        """Make ready to boot. A cluster calls it once, before any other method but `expect`.

        After :meth:`close`, which may come before it or while it runs, it raises, and nothing is
        left behind.

        Raises
        ------
        BackendError
            If the back end cannot work here, or is closed; nothing is left behind.
        """

    def expect(self, specs: Sequence[RunnerSpec]) -> None:  # noqa: B027
        """Hear of runners that are likely to be asked for, to make ready for them.

        It is called before :meth:`start`, with one runner for each pool, and again whenever a
        pool's policy has changed. Names and the scheduler's address are empty. By default nothing
        happens.

        Raises
        ------
        BackendError
            If there could be no such runner.
        """

    @abstractmethod
    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        """Ask for runners. Return when the requests are accepted, not when runners are up.

        - Of no runners: nothing happens.
        - A name that no runner has: the request is accepted. From now on :meth:`list` has it, until
          it has ended. No name is ever used twice by a cluster.
        - A name of a living runner: raise BackendError. None of the runners is booted then, and the
          living one is not touched.
        - The substrate refuses a request: the request counts as accepted, and `ended` is called
          with the refusal, before or after the return.
        - The substrate cannot be reached: the same for each runner, or raise BackendError. After
          an exception no `ended` follows for these runners.
        - After :meth:`close`: `ended` is called for each, or BackendError is raised.
        - Cancelled: each runner either was accepted, or was never there.

        Raises
        ------
        BackendError
        """

    def check_new(self, specs: Sequence[RunnerSpec], living: Collection[str]) -> None:
        """Refuse runners whose names are taken, for :meth:`boot` of a subclass.

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
        """End runners. Return when they are gone, and `ended` has been called for each.

        - An unknown name, or a runner that has ended: it is passed over.
        - A runner that boots: its boot is given up.
        - A runner that another call is ending: both calls return when it is gone. The shorter
          grace holds.
        - After :meth:`close`: nothing is left to end, so it returns at once.
        - The substrate cannot be reached: raise BackendError. The cluster asks again.

        Parameters
        ----------
        names : collection of str
        grace : float
            Seconds that a runner may take to end by itself before it is ended by force.

        Raises
        ------
        BackendError
        """

    @abstractmethod
    async def list(self) -> set[str]:
        """Return the names of the runners that exist, as the substrate has them.

        The cluster takes a runner that is not among them for lost.

        - Before :meth:`start`, and after :meth:`close`: none.
        - A runner that boots, or is being ended: it is among them.
        - A runner whose `ended` has been called: it is not.
        - The substrate cannot be reached: raise BackendError, and do not guess.

        Raises
        ------
        BackendError
        """

    @abstractmethod
    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        """Return the end of what these runners have printed, as far as it is known.

        - A runner that has ended: what it printed, for as long as the back end keeps it.
        - An unknown name, or a runner that has printed nothing: it may be left out.
        - Before :meth:`start`: nothing. After :meth:`close`: what is still known.
        - The substrate cannot be reached: what is known without it.
        """

    @abstractmethod
    async def close(self) -> None:
        """End everything that this back end made, and call `ended` for each runner.

        It may be called at any moment: before :meth:`start`, while that or :meth:`boot` is under
        way, several times, and several times at once. Each call returns when all is gone. It does
        not raise for a substrate that cannot be reached: then the substrate's own rule ends what is
        left.
        """

    def ended(self, what: Ended) -> None:
        """Say that a runner is gone; for a back end to call, on the event loop.

        It is called exactly once for each runner whose boot was accepted, whatever has ended it.
        The runner's process is gone then, and its last output is known.
        """
        self.context.ended(what)

    def progress(self, name: str, step: str) -> None:
        """Say how far a boot has come; for a back end to call, on the event loop.

        A back end need not call it. Without it, a slow boot does not show where it is slow: the
        moment of the call is what is noted. Each step is said once for a runner, between the
        beginning of its :meth:`boot` and its `ended`.

        Parameters
        ----------
        name : str
            A runner that was asked for.
        step : str
            The runner's state in the substrate's words, up to 40 characters: ``"up"``,
            ``"scheduled"``, ``"image pulled"``, ``"container started"``. A back end has a handful
            of them, always the same. ``"accepted"``, ``"registered"`` and ``"first call"`` are
            ignored: the cluster sees them by itself.
        """
        self.context.progress(name, step)

    def trouble(self, name: str, why: str) -> None:
        """Say what holds a runner's boot up for now; for a back end to call, on the event loop.

        This is no failure: the boot goes on. Users see it at once, and again in the error of the
        calls that waited, if the boot fails or takes too long.

        Parameters
        ----------
        name : str
            A runner that was asked for. Empty: the trouble is not one runner's, and holds no boot
            up.
        why : str
            In the substrate's own words, and in the same words for many runners. Empty: the
            trouble is over.
        """
        self.context.trouble(name, why)

    def stopped(self, why: str) -> None:
        """Say that somebody has stopped this cluster; for a back end to call, on the event loop.

        Its runners end then and no others boot, for good; calls that wait, and later ones, fail
        with this reason. A back end calls it when somebody wants that, not when runners are merely
        lost.

        Parameters
        ----------
        why : str
            Who has stopped it, or how: ``"the cluster was stopped with `dask flame stop`"``.
        """
        self.context.stopped(why)

    @classmethod
    def overseer(cls, **where: str) -> Inspector:
        """Return an inspector, by which ``dask flame`` sees and ends this user's clusters.

        A back end need not have one. With one, ``dask flame --backend`` takes its name. It is
        called without an instance, in a process that has no cluster.

        Parameters
        ----------
        **where : str
            The places to look in: those of the options ``namespace`` and ``context`` that the user
            has given.

        Raises
        ------
        BackendError
            If the back end has no inspector, or has no use for such an option.
        """
        raise BackendError(
            f"backend={cls.name!r} cannot be asked by the command line for its clusters"
        )

    def manifest(self, spec: RunnerSpec) -> Sequence[Mapping[str, Any]]:
        """Return the objects that would be sent to the substrate for a runner, and send nothing.

        A back end need not have it; without it :meth:`dask_flame.FlameCluster.manifest` has nothing
        to show. It may be called from any thread, between :meth:`start` and :meth:`close`. The code
        that boots runners must also make these objects, so that they are the same.

        Parameters
        ----------
        spec : RunnerSpec
            A runner that may be asked for next.

        Returns
        -------
        sequence of mapping
            The runner's own object and all others that are made for it, in the order in which they
            are sent. YAML's safe dumper can write them. They hold no secrets: no value of ``env``,
            ``config``, ``security`` and ``options["secrets"]`` is shown; see
            :mod:`dask_flame.backends.redact`.

        Raises
        ------
        BackendError
            If the back end shows nothing, or there could be no such runner.
        PoolError
            If an option is wrong.
        """
        raise BackendError(f"backend={self.name!r} does not show what it sends")

    @property
    def listening(self) -> dict[str, Any]:
        """Arguments with which the scheduler listens where runners reach it.

        Known when :meth:`start` has returned.
        """
        return {"host": "127.0.0.1"}

    @property
    def disconnect_grace(self) -> float:
        """Seconds that the fleet outlives a lost driver; known when :meth:`start` has returned.

        A back end may choose it where the user has not.
        """
        given = self.context.disconnect_grace
        return GRACE if given is None else given

    @property
    def apart(self) -> bool:
        """Whether the scheduler runs by the runners, started by :meth:`lodge`, not in the driver.

        Known when :meth:`start` has returned.
        """
        return False

    async def lodge(self, spec: SchedulerSpec, over: Callable[[str], None]) -> str:
        """Start a process for the scheduler by the runners. Return when it has started.

        It is called once, after :meth:`start`, and only where :attr:`apart` is true. When that
        process ends, all that the back end has made ends with it.

        Parameters
        ----------
        spec : SchedulerSpec
        over : callable
            Call it on the event loop, with the reason, when the process has ended, unless
            :meth:`close` has ended it.

        Returns
        -------
        str
            Host and port at which Clients reach the scheduler; empty: by :meth:`reach`.

        Raises
        ------
        BackendError
            If it cannot start, in the substrate's words and with the setting to change.
        """
        raise NotImplementedError

    def met(self) -> None:
        """Hear that the process that :meth:`lodge` has started is connected to its driver.

        From now on it ends by itself when it has lost its driver. Until then the back end must end
        it when the driver's process is gone. By default nothing happens.
        """
        return

    async def reach(self, port: int, *, at: int = 0) -> int:
        """Forward a port of this machine's loopback address to the scheduler's process.

        It is called after :meth:`lodge`, perhaps several times.

        Parameters
        ----------
        port : int
            The scheduler's port.
        at : int
            The port of this machine to use if it is free; 0, or where it is not free: any.

        Returns
        -------
        int
            This machine's port. A connection to it reaches the scheduler, until :meth:`close`.
        """
        raise NotImplementedError

    @property
    def out_of_reach(self) -> str:
        """The reason why the last connection through :meth:`reach` failed; empty if it did not."""
        return ""

    @property
    def scratch(self) -> str | None:
        """A folder on the driver's machine that ends with the back end; None: there is none."""
        return None

    @property
    def folder(self) -> str | None:
        """A folder for files that must last as long as the driver; None: Dask's default.

        By default it is :attr:`scratch`.
        """
        return self.scratch

    def forked(self) -> None:  # noqa: B027
        """Release, in a child that was forked from the driver, what would hold up the driver.

        It may be called at any time, in a process in which the event loop does not run.
        """
