"""The contract between a cluster and the backend that boots its runners (driver).

A backend knows one substrate, and nothing of Dask. It starts runners from a :class:`RunnerSpec`,
ends them by name, and reports when a runner has ended, and why. It makes no decisions. Other
packages add backends through the entry point group ``dask_flame.backends``.
:mod:`dask_flame.testing.conformance` tests the statements about the methods of :class:`Backend`.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from dask_flame.backends.scheduler_placement import SchedulerPlacement
from dask_flame.backends.specs import BackendContext, Ended, MostRunners, RunnerSpec
from dask_flame.comm.addresses import HOST, SCHEME, new_socket_in
from dask_flame.core.backend_options import BackendOptions
from dask_flame.core.option_checks import GRACE
from dask_flame.core.options import Check
from dask_flame.errors import BackendError

if TYPE_CHECKING:
    from dask_flame.backends.inspector import Inspector


class Backend(SchedulerPlacement, ABC):
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

    **Attributes.** The cluster reads and calls only the public names of this class, and sets none.
    A subclass may use any others. One with an ``__init__`` of its own calls ``super().__init__``.

    Parameters
    ----------
    context : BackendContext
        What the cluster gives it. It is kept as ``self.context``.
    """

    #: The name for ``backend=``, as in the entry point. Errors and ``dask flame`` show it.
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

    def expect(self, specs: Sequence[RunnerSpec]) -> None:
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

    def most_runners(self, spec: RunnerSpec) -> MostRunners | None:
        """Return how many runners like this one the substrate holds, if nobody else has any.

        This is optional, for a substrate of a known size. A pool of which the user has not written
        ``max`` then has this bound; otherwise it is the number of the driver's cores. It is asked
        after :meth:`start`, and after each :meth:`most_changed`.

        Parameters
        ----------
        spec : RunnerSpec
            A runner of the pool, as for :meth:`expect`.

        Returns
        -------
        MostRunners or None
            None if it is not known, or has no limit.
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
            trouble has ended. The same text again is ignored, so it may be said at each poll.
        """
        self.context.trouble(name, why)

    def queued(self, name: str) -> None:
        """Report that a runner waits its turn; for a backend to call, on the event loop.

        This is optional. It is for a substrate with a queue, where it is usual to wait, maybe for
        hours, and where to ask again would be to queue up again; and for one of a known size whose
        room others have taken: not for one that may never have room. A queued runner's
        ``boot_timeout`` does not run, and it costs nothing. It counts as requested, and is ended if
        it is no longer needed. What it waits for is said by :meth:`trouble`.

        Call this as soon as the substrate has accepted the request, and :meth:`started` when the
        turn has come, which the backend must get to know. A runner that registers, or has ended, is
        not queued any more.

        Parameters
        ----------
        name : str
            The name of a requested runner.
        """
        self.context.queued(name, True)

    def started(self, name: str) -> None:
        """Report that a queued runner's turn has come; for a backend to call, on the event loop.

        The runner's ``boot_timeout`` begins.

        Parameters
        ----------
        name : str
            The name of a runner that was reported as :meth:`queued`.
        """
        self.context.queued(name, False)

    def most_changed(self) -> None:
        """Report that :meth:`most_runners` has changed; for a backend to call, on the event loop.

        Report the ends of runners that are lost with what held them before.
        """
        self.context.most_changed()

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
            that the user has given; see ``dask_flame.backends.inspector.check_where``.

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
    def scratch(self) -> str | None:
        """A folder on the driver's machine that is removed with the backend; None if none."""
        return None

    @property
    def folder(self) -> str | None:
        """A folder for files that must last as long as the driver; None for Dask's default.

        By default, it is :attr:`scratch`.
        """
        return self.scratch

    def forked(self) -> None:
        """Release resources that would block the driver, in a child forked from the driver.

        This may be called at any time, in a process in which the event loop does not run.
        """
