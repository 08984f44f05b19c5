"""The runners of a cluster, as its user sees them (driver)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from dask_flame.core.option_checks import shown
from dask_flame.errors import FlameError
from dask_flame.scaling.fleet import Phase
from dask_flame.scaling.runner_index import RunnerState

if TYPE_CHECKING:
    from dask_flame.attached.looking.memory import Memory
    from dask_flame.attached.looking.modules import Modules, Versions
    from dask_flame.attached.looking.processes import Processes
    from dask_flame.attached.looking.values import Stacks
    from dask_flame.driver.attached_runners import AttachedRunner

T = TypeVar("T")
#: Looks at a runner: its name, what to look at, and options; in the caller's way to wait.
Look = Callable[[str, str, dict[str, Any]], Any]


class Runner:
    """One runner: its state, and what its process does.

    It has the attributes of :class:`~dask_flame.scaling.runner_index.RunnerState`: ``name``,
    ``phase``, ``busy``, ``why`` and others.

    Its methods look inside its process, beside its calls. They take no slot, are no calls, and do
    not keep an idle runner. With an asynchronous cluster they return awaitables.

    Parameters
    ----------
    state : RunnerState
    look : callable

    Examples
    --------
    >>> for name, runner in cluster.runners.items():
    ...     stacks = runner.stacks()
    """

    if TYPE_CHECKING:
        name: str
        phase: Phase
        asked: float
        since: float
        busy: int
        refusals: int
        idle_since: float
        may_end: bool
        why: str
        worked: bool
        paused: bool
        kind: str

    def __init__(self, state: RunnerState, look: Look) -> None:
        self._state = state
        self._look = look

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._state, name)

    def __eq__(self, other: object) -> bool:
        # Each look at `cluster.runners` makes new ones.
        return isinstance(other, Runner) and other._state is self._state

    def __hash__(self) -> int:
        return hash(self._state)

    def __repr__(self) -> str:
        state = self._state
        busy = f", {state.busy} busy" if state.busy else ""
        kind = f", {state.kind}" if state.kind else ""
        return f"Runner({state.name}, {state.phase.value}{busy}{kind})"

    def stacks(self) -> Stacks:
        """Return what its threads and asyncio tasks execute, those of calls first.

        If it does not answer because a call holds its interpreter, a local runner is read by
        py-spy, if that is installed (``pip install py-spy``) and may; the result says if not.

        Raises
        ------
        FlameError
            There is no such runner any more, or it does not answer and is on another machine.
        """
        found: Stacks = self._look(self.name, "stacks", {})
        return found

    def memory(self, *, limit: float = 1.0) -> Memory:
        """Return what its memory is used for.

        Parameters
        ----------
        limit : float, default 1.0
            Seconds after which no more objects are counted; 10 at most.

        Raises
        ------
        FlameError
            There is no such runner any more, or it does not answer.
        """
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit <= 10:
            raise FlameError(f"limit={shown(limit)} is not between 0 and 10 s; write limit=1")
        found: Memory = self._look(self.name, "memory", {"limit": float(limit)})
        return found

    def modules(self) -> Modules:
        """Return the modules that it has loaded, and whether their files have changed since."""
        found: Modules = self._look(self.name, "modules", {})
        return found

    def versions(self) -> Versions:
        """Return the versions of its Python and of the packages that it has loaded."""
        found: Versions = self._look(self.name, "versions", {})
        return found

    def processes(self) -> Processes:
        """Return its process and those that its calls have started."""
        found: Processes = self._look(self.name, "processes", {})
        return found

    def attach(self) -> AttachedRunner:
        """Attach to it, to run cells inside its process, beside its calls.

        ``%%flame on=runner-3`` does so, too. Not with an asynchronous cluster.

        Raises
        ------
        AttachError
            It has ended, or cannot be reached.

        Examples
        --------
        >>> with cluster.runners["runner-1"].attach() as runner:  # doctest: +SKIP
        ...     runner.run("len(cache)")
        """
        attached: AttachedRunner = self._look(self.name, "attach", {})
        return attached


class Runners(Mapping[str, Runner]):
    """The current runners by name, including booting and ending ones.

    Parameters
    ----------
    states : mapping of str to RunnerState
    look : callable
    """

    def __init__(self, states: Mapping[str, RunnerState], look: Look) -> None:
        self._states = states
        self._look = look

    def __getitem__(self, name: str) -> Runner:
        try:
            return Runner(self._states[name], self._look)
        except KeyError:
            there = ", ".join(self._states) or "none"
            raise KeyError(f"there is no runner {name}; there are: {there}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name!r}: {runner!r}' for name, runner in self.items())}}}"


async def opened(what: str, answer: Awaitable[dict[str, Any]]) -> Any:
    """Return what a scheduler has answered, or raise why there is nothing."""
    from dask_flame.attached.looking import looks

    told = await answer
    if "failed" in told:
        raise FlameError(told["failed"])
    return looks.opened(what, told["found"])
