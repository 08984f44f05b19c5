"""The contract between a cluster and what boots its runners (driver).

A backend knows one substrate and nothing of Dask: it starts runners from a :class:`RunnerSpec`,
ends them by name, and says when one has ended and why. It decides nothing. A third party adds one
through the entry point group ``dask_flame.backends``; :mod:`dask_flame.testing.conformance` holds
the tests that every backend has to pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from dask_flame.errors import BackendError

if TYPE_CHECKING:
    from dask_flame.backends.inspector import Inspector


@dataclass(frozen=True, kw_only=True)
class RunnerSpec:
    """What one runner is told: whom to serve, and with what.

    Attributes
    ----------
    name : str
        Unique in its cluster for the cluster's whole life.
    scheduler : str
        Address to register at.
    concurrency : int
        Calls at a time.
    boot_timeout : float
        Seconds after which a runner that finds no scheduler ends itself.
    pool : str
        The pool that it belongs to.
    shutdown_timeout : float
        Seconds that it may take to see its calls out when it is being taken away.
    cpus : float or None
        CPUs that it is given, or else threads for numerical libraries: one at least.
    gpus : int
        GPUs that it needs.
    resources : mapping of str to float
        Dask resources that its worker has.
    memory : int or None
        Bytes; None for no limit.
    env : mapping of str to str
        Environment variables over the substrate's own. May hold secrets.
    preload : sequence of str
        Modules to import first.
    config : mapping
        Dask configuration.
    security : mapping of str to str
        What :class:`distributed.Security` takes for a worker. Holds a private key.
    flags : sequence of str
        Arguments of its Python interpreter, as those of the driver's.
    hash_seed : str
        Its ``PYTHONHASHSEED``, where its environment does not say another; empty: a random one.
    cwd : str or None
        The driver's working directory now, for runners on the same machine; None: it is gone;
        empty: whatever they start in.
    pod : mapping
        Options of :class:`dask_flame.backends.kubernetes.options.PodOptions` that the pool gives. May hold
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
    pod: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def orders(self) -> dict[str, Any]:
        """What :mod:`dask_flame.runner` is told on every substrate, as JSON takes it.

        Beside it a runner needs its own ``name``, ``directory`` and ``host``.
        """
        return {
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
            "security": dict(self.security),
        }


@dataclass(frozen=True, kw_only=True)
class SchedulerSpec:
    """What a scheduler apart from its driver is told, see :mod:`dask_flame.remote`.

    Attributes
    ----------
    orders : mapping
        As JSON takes it. Holds private keys.
    options : mapping
        Options of :class:`dask_flame.backends.kubernetes.options.PodOptions` of the first pool.
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


class Backend(ABC):
    """Boots and ends runners on one substrate.

    All methods are called on one event loop. After :meth:`close`, and after the driver's death by
    whatever cause, nothing that a backend made is left.

    Parameters
    ----------
    owner : str
        The cluster's name: what this backend makes is labelled with it.
    ended : callable
        To be called on the event loop, with an :class:`Ended`, exactly once for each runner whose
        :meth:`boot` was accepted, when it is gone, whatever made it go.
    """

    #: What a user calls it.
    name: ClassVar[str]
    #: Those options of :class:`dask_flame.backends.kubernetes.options.PodOptions` that it knows what to do
    #: with.
    takes: ClassVar[frozenset[str]] = frozenset()
    #: Whether runners are on other machines, so that all connections must be TLS.
    remote: ClassVar[bool] = False
    #: Where the scheduler can be: in the ``"driver"``, or in a ``"pod"`` by the runners.
    seats: ClassVar[frozenset[str]] = frozenset({"driver"})
    #: Whether it shows what runners print; otherwise the scheduler is told of it.
    shows: ClassVar[bool] = False
    #: Where it is to be, one of these or ``"auto"``; set by whoever has made the backend.
    seat: str = "auto"
    #: Options of a cluster by which it is told where its runners are to be, of those that
    #: :meth:`overseer` takes: ``namespace`` and ``context``. ``flame.<name>.<option>`` in Dask's
    #: configuration says them as well.
    places: ClassVar[frozenset[str]] = frozenset()
    #: Those that were given; set by whoever has made the backend.
    where: Mapping[str, str] = MappingProxyType({})
    #: Seconds that the fleet outlives a driver that is gone; set by whoever has made the backend.
    #: Where nobody has said it (`grace_given`), :meth:`start` may set another, which then holds.
    grace: float = 10.0
    grace_given: bool = True
    #: Set by whoever has made the backend and wants to know how boots fare; see :meth:`progress`.
    on_step: Callable[[str, str], None] | None = None

    #: Set by whoever wants to know what holds boots up; see :meth:`trouble`.
    on_trouble: Callable[[str, str], None] | None = None
    #: Set by whoever wants to know that the cluster is to be no more; see :meth:`stopped`.
    on_stop: Callable[[str], None] | None = None

    def __init__(self, owner: str, ended: Callable[[Ended], None]) -> None:
        self.owner = owner
        self.ended = ended

    @abstractmethod
    async def start(self) -> None:
        """Make ready to boot.

        Raises
        ------
        BackendError
            If it cannot work here; nothing is left behind.
        """

    def expect(self, specs: Sequence[RunnerSpec]) -> None:  # noqa: B027
        """Hear what runners are likely to be asked for, to make ready for them.

        Called before :meth:`start`, with one for each pool, and when a pool's policy has changed.
        Names and the scheduler's address are empty. Nothing has to come of it.
        """

    @abstractmethod
    async def boot(self, specs: Sequence[RunnerSpec]) -> None:
        """Ask for runners; returns when all requests are accepted, not when runners are up.

        A request that the substrate refuses is reported through ``ended`` with the refusal.
        """

    @abstractmethod
    async def end(self, names: Collection[str], *, grace: float = 0) -> None:
        """End runners; returns when they are gone.

        Parameters
        ----------
        names : collection of str
            Unknown and already ended ones are passed over.
        grace : float
            Seconds that a runner may take to end by itself before it is ended by force.
        """

    @abstractmethod
    async def list(self) -> set[str]:
        """Names of the runners that exist, by the substrate's own account."""

    @abstractmethod
    async def logs(self, names: Collection[str]) -> Mapping[str, str]:
        """The end of what these runners have printed, so far as it is known."""

    @abstractmethod
    async def close(self) -> None:
        """End everything that this backend made. May be called more than once, at any moment."""

    def progress(self, name: str, step: str) -> None:
        """Say how far a boot has come; for a backend to call, on the event loop.

        It is not asked of a backend, but a slow boot then shows where it is slow: the moment of the
        call is what is noted. Each step is said once for a runner, between the beginning of its
        :meth:`boot` and its ``ended``.

        Parameters
        ----------
        name : str
            A runner that was asked for.
        step : str
            What the runner now is, in the substrate's words, up to 40 characters: ``"up"``,
            ``"scheduled"``, ``"image pulled"``, ``"container started"``. A backend has a handful of
            them, always the same. What the cluster sees by itself (``"accepted"``,
            ``"registered"``, ``"first call"``) is not for a backend to say, and passed over.
        """
        if self.on_step is not None:
            self.on_step(name, step)

    def trouble(self, name: str, why: str) -> None:
        """Say what holds a runner's boot up for now; for a backend to call, on the event loop.

        It is no failure: the boot goes on. Users see it at once, and again in the error of what
        waited, if the boot fails or takes too long.

        Parameters
        ----------
        name : str
            A runner that was asked for. Empty: what is wrong is not a runner's, and holds no boot
            up.
        why : str
            In the substrate's own words, as when there is no room for it; what is the same for many
            runners in the same words. Empty: nothing any more.
        """
        if self.on_trouble is not None:
            self.on_trouble(name, why)

    def stopped(self, why: str) -> None:
        """Say that somebody has stopped this cluster; for a backend to call, on the event loop.

        Its runners end then and no others boot, for good; calls that wait, and later ones, fail
        with this. A backend calls it when it learns that this is wanted, not when runners are
        merely lost.

        Parameters
        ----------
        why : str
            Who has, or how: ``"the cluster was stopped with `dask flame stop`"``.
        """
        if self.on_stop is not None:
            self.on_stop(why)

    @classmethod
    def overseer(cls, **where: str) -> Inspector:
        """Who sees and ends this user's clusters from outside, for ``dask flame``.

        It is not asked of a backend; one that has it can be named there by ``--backend``.

        Parameters
        ----------
        **where : str
            Which of several places to look in, of those options that were given: ``namespace`` and
            ``context``.

        Raises
        ------
        BackendError
            If the backend has none, or no use for such an option.
        """
        raise BackendError(
            f"backend={cls.name!r} cannot be asked by the command line for its clusters"
        )

    def manifest(self, spec: RunnerSpec) -> Sequence[Mapping[str, Any]]:
        """What would be sent to the substrate for a runner; nothing is.

        It is not asked of a backend, but without it :meth:`dask_flame.FlameCluster.manifest` has
        nothing to show. It may be called from any thread, after :meth:`start`, and must be made by
        what makes that which is sent.

        Parameters
        ----------
        spec : RunnerSpec
            A runner that may be asked for next.

        Returns
        -------
        sequence of mapping
            The objects: the runner's own, and all that is there for its sake, in the order in which
            they are sent. Made of what YAML's safe dumper takes, and without secrets: of ``env``,
            ``config``, ``security`` and ``pod["secrets"]`` no value is shown; see
            :mod:`dask_flame.backends.redact`.

        Raises
        ------
        BackendError
            If the backend does not show what it sends, or there could be no such runner.
        PoolError
            If an option is wrong.
        """
        raise BackendError(f"backend={self.name!r} does not show what it sends")

    @property
    def listening(self) -> dict[str, Any]:
        """Where the scheduler listens, so that runners reach it: what its constructor takes."""
        return {"host": "127.0.0.1"}

    @property
    def apart(self) -> bool:
        """Whether the scheduler is to be by the runners; known when :meth:`start` has returned."""
        return False

    async def lodge(self, spec: SchedulerSpec, over: Callable[[str], None]) -> str:
        """Start a process for the scheduler by the runners; returns when it has started.

        All that the backend makes is to go when that process ends.

        Parameters
        ----------
        spec : SchedulerSpec
        over : callable
            To be called on the event loop with the reason when it has ended, unless :meth:`close`
            has ended it.

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
        """The process that :meth:`lodge` has started has answered: it looks after itself now.

        Until then its backend sees to it that it goes when this driver's process does. By default
        nothing is to be done.
        """
        return

    async def reach(self, port: int, *, at: int = 0) -> int:
        """Lead a port of this machine's loopback address to one of the scheduler's process.

        Parameters
        ----------
        port : int
            The scheduler's.
        at : int
            This machine's, if it is free; by default, and else, any.

        Returns
        -------
        int
            This machine's port. What connects to it reaches the scheduler, until :meth:`close`.
        """
        raise NotImplementedError

    @property
    def out_of_reach(self) -> str:
        """Why the last connection by way of :meth:`reach` could not be made; empty if it was.

        It is not asked of a backend.
        """
        return ""

    @property
    def scratch(self) -> str | None:
        """A folder on the driver's machine that goes when the backend goes, if there is one."""
        return None

    @property
    def folder(self) -> str | None:
        """The driver's own, for what must last as long as the driver does; None: Dask's default.

        Where the backend has none of this kind, it is :attr:`scratch`.
        """
        return self.scratch

    def forked(self) -> None:  # noqa: B027
        """In a child that was forked from the driver: let go of what would hold up the driver."""
