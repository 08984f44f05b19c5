"""The declared policy of a kind of runner: what a user asks for, checked at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from dask.system import CPU_COUNT

from dask_flame.backends.kubernetes.options import POD_OPTIONS, PodOptions, names_of
from dask_flame.core import config, option_checks
from dask_flame.core.keyword_only import by_name
from dask_flame.core.option_checks import (
    EXAMPLES,
    Duration,
    function,
    number,
    one_of,
    plain,
    seconds,
    shown,
    size,
    whole,
    wrong,
    yes_or_no,
)
from dask_flame.core.text import exact_memory
from dask_flame.errors import PoolError

OnChange = Callable[[str, int], object]


@dataclass(frozen=True, init=False)
class Pool:
    """How many runners of one kind there may be, for how long, and what each is given.

    Parameters
    ----------
    min : int, default 0
        Runners kept at all times.
    max : int, default: the machine's cores
        The most runners at a time, booting ones counted; 10,000 or fewer. With 0, calls wait until
        it is raised.
    concurrency : int, default 1
        Calls at a time on one runner: its slots.
    idle_timeout : duration, default "60s"
        A runner that has had no call for this long ends.
    min_idle_timeout : duration, optional
        The same for the last ``min`` runners; by default they stay.
    boot_timeout : duration, default "2m"
        Longest time from the boot request to the runner's registration.
    shutdown_timeout : duration, default "30s"
        Longest time from being told to end to being ended by force. What is registered with
        :mod:`atexit` and ``weakref.finalize`` runs in it, and open files are flushed. Threads
        that are not daemons, and processes, that calls have left running are waited for up to
        five seconds of it, at most half.
    spare : int, default 0
        Free runners kept ahead of demand while there is any demand.
    single_use : bool, default False
        A runner takes no further call once one has ended on it, and ends.
    idle_check : callable, optional
        Asked on a runner that has been idle for its timeout, with no argument: where it returns
        False, the runner stays, and its idle time begins anew.
    boot_attempts : int, default 3
        Waves of boots that may fail in a row before the calls that wait for them fail.
    on_boot_failure : {"fail", "wait"}, default "fail"
        Whether calls that wait fail when boots keep failing, or wait on while boots are tried.
    on_grow, on_shrink : callable, optional
        Called in the driver, in a thread of its own, with the pool's name and the number of its
        runners (booting ones counted, ending ones not) when runners are asked for, or told to end.
    cpus : float or str, optional
        CPUs of one runner: what a pod requests and is limited to, which may be a fraction, such as
        0.5 or ``"500m"``; and, in whole numbers, at least one, the threads that numerical libraries
        may use (OMP_NUM_THREADS and its like). By default what dask sets for its own workers: one
        thread, and no limit.
    memory : size, optional
        Memory of one runner, such as ``"4 GiB"``; 64 MiB or more. Dask spills and pauses a
        runner's worker by it; a paused runner gets no calls, is replaced, and ends once it has had
        no call for two seconds. A runner whose processes use more is ended, and its calls run again
        elsewhere, up to Dask's ``allowed-failures``: local ones on Linux within about 0.2 s, unless
        Dask's ``distributed.worker.memory.terminate`` is False (its fraction is not used); in
        Kubernetes by the kernel. By default it is not limited.
    gpus : int, default 0
        GPUs of one runner. It has them as Dask's resource ``GPU`` as well.
    price : float, optional
        What one runner costs an hour, for ``cluster.cost()`` and the page ``/pools``; by default
        ``flame.pool.price``, and not known.
    resources : mapping of str to float, optional
        Dask resources of one runner, for calls that ask for them by ``resources=``.
    env : mapping of str to str, optional
        Environment variables for the runner, over those of the driver.
    preload : sequence of str, optional
        Modules that are imported before a runner registers. Local runners are forked from a process
        that has imported them, on Linux, if that starts no threads or processes, opens no files or
        sockets and initialises no GPU.
    image, gpu_kind, gpu_resource, shm_size, node_selector, tolerations, spot, priority_class, \
runtime_class, service_account, image_pull_secrets, volumes, secrets, labels, annotations, \
pod_template : optional
        For ``backend="kubernetes"``: see :class:`dask_flame.backends.kubernetes.options.PodOptions`.
    pod : PodOptions, optional
        Such options together.

    Durations are numbers of seconds, or what :func:`dask.utils.parse_timedelta` reads; sizes are
    what :func:`dask.utils.parse_bytes` reads. Once made, a pool holds seconds and bytes.

    Raises
    ------
    PoolError
        Naming the field, the value, and a line that works.

    Examples
    --------
    >>> Pool(max=8, idle_timeout="2m").idle_timeout
    120.0
    """

    min: int
    max: int
    concurrency: int
    idle_timeout: float
    min_idle_timeout: float | None
    boot_timeout: float
    shutdown_timeout: float
    spare: int
    single_use: bool
    idle_check: Callable[[], object] | None
    boot_attempts: int
    on_boot_failure: str
    on_grow: OnChange | None
    on_shrink: OnChange | None
    cpus: float | None
    memory: int | None
    gpus: int
    price: float | None
    resources: Mapping[str, float] = field(hash=False)
    env: Mapping[str, str] = field(hash=False)
    preload: tuple[str, ...]
    pod: PodOptions = field(hash=False)

    @by_name("Pool", "min", "max", "concurrency", "idle_timeout")
    def __init__(
        self,
        *,
        min: int | None = None,
        max: int | None = None,
        concurrency: int | None = None,
        idle_timeout: Duration | None = None,
        min_idle_timeout: Duration | None = None,
        boot_timeout: Duration | None = None,
        shutdown_timeout: Duration | None = None,
        spare: int | None = None,
        single_use: bool | None = None,
        idle_check: Callable[[], object] | None = None,
        boot_attempts: int | None = None,
        on_boot_failure: str | None = None,
        on_grow: OnChange | None = None,
        on_shrink: OnChange | None = None,
        cpus: float | str | None = None,
        memory: str | int | None = None,
        gpus: int | None = None,
        price: float | None = None,
        resources: Mapping[str, float] | None = None,
        env: Mapping[str, str] | None = None,
        preload: Sequence[str] = (),
        **unknown: Any,
    ) -> None:
        given = locals()
        together = unknown.pop("pod", None)
        if not isinstance(together, PodOptions | None):
            raise PoolError(
                f"pod is a {type(together).__name__}; "
                f"write pod=PodOptions(image={EXAMPLES['image']})"
            )
        refuse_unknown(unknown)
        object.__setattr__(
            self, "pod", PodOptions(**(together.given if together else {}) | unknown)
        )

        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name in (*_WHOLE, *_DURATIONS, *_WORDS, "single_use"):
            put(name, self._checked(name, given[name]))
        put("cpus", None if cpus is None else option_checks.cpus("cpus", cpus))
        put("memory", None if memory is None else size("memory", memory))
        put("gpus", 0 if gpus is None else whole("gpus", gpus, 0))
        put("price", number("price", price) if price is not None else _configured_price())
        put("resources", _resources(resources))
        for name in ("idle_check", "on_grow", "on_shrink"):
            put(name, None if given[name] is None else function(name, given[name]))
        put("env", _environment(env))
        put("preload", _modules(preload))
        if self.min > self.max:
            raise PoolError(
                f"min={self.min} is more than max={self.max}; write "
                f"min={self.max}, max={self.min} if they were swapped, or max={self.min}"
            )

    def _checked(self, name: str, value: Any) -> Any:
        """An option that has a setting, which counts where it is not given."""
        setting = f"pool.{name.replace('_', '-')}"
        if value is None:
            name, option, value = f"flame.{setting}", name, config.get(setting)
        else:
            option = name
        if option in _DURATIONS:
            zero = option != "boot_timeout"
            may_be_none = option == "min_idle_timeout"
            return None if value is None and may_be_none else seconds(name, value, zero=zero)
        if option in _WORDS:
            return one_of(name, value, _WORDS[option])
        if option == "single_use":
            return yes_or_no(name, value)
        if option == "max" and value is None:
            return _at_least(CPU_COUNT, self.min)
        return whole(name, value, _WHOLE[option], beside=_BESIDE.get(option, ""))

    def __repr__(self) -> str:
        own = {f.name: repr(getattr(self, f.name)) for f in fields(self) if f.name != "pod"}
        memory = exact_memory(self.memory or 0) or self.memory
        shown = own | {"memory": repr(memory), "env": names_of(self.env)} | self.pod.shown
        return f"Pool({', '.join(f'{name}={value}' for name, value in shown.items())})"

    @property
    def offers(self) -> Mapping[str, float]:
        """The Dask resources that a runner of this pool has."""
        return {**({"GPU": float(self.gpus)} if self.gpus else {}), **self.resources}

    @property
    def abridged(self) -> Pool:
        """The same policy without what only its runners are told, and without callbacks."""
        return self.replace(**dict.fromkeys((*_FOR_RUNNERS, *self.pod.given)))

    def replace(self, **changes: Any) -> Pool:
        """The same policy with these options changed; they are checked as in ``Pool(...)``."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "pod"}
        return Pool(**own | self.pod.given | changes)


_FOR_RUNNERS = ("env", "preload", "on_grow", "on_shrink")
_WHOLE = {"min": 0, "max": 0, "concurrency": 1, "spare": 0, "boot_attempts": 1}
_BESIDE = {"max": "1 or more, or 0 to let calls wait"}
_DURATIONS = ("idle_timeout", "min_idle_timeout", "boot_timeout", "shutdown_timeout")
_WORDS = {"on_boot_failure": ("fail", "wait")}


_OTHER_NAMES = {  # what those that are used to another tool write
    **dict.fromkeys(
        ("n_workers", "max_workers", "num_workers", "n_runners", "max_runners", "n_jobs"), "max"
    ),
    **dict.fromkeys(("min_workers", "min_runners"), "min"),
    "workers": "max",
    "maximum": "max",
    "minimum": "min",
    "threads_per_worker": "concurrency",
    "nthreads": "concurrency",
    "max_concurrency": "concurrency",
    "memory_limit": "memory",
    "idle_shutdown_after": "idle_timeout",
    "min_idle_shutdown_after": "min_idle_timeout",
    "on_grow_start": "on_grow",
    "n_gpus": "gpus",
    "num_gpus": "gpus",
    "cores": "concurrency",
    "threads": "concurrency",
    "worker_dashboard_address": "dashboard_address",
    "diagnostics_port": "dashboard_address",
}
_LEAVE_OUT = {  # ... and that has no other name here
    **dict.fromkeys(
        ("processes", "nanny", "worker_class"), "runners are processes that hold one worker each"
    ),
    **dict.fromkeys(
        ("ip", "host", "interface", "protocol", "port", "scheduler_port", "scheduler_kwargs"),
        "the backend says where the scheduler listens",
    ),
    **dict.fromkeys(("local_directory",), 'it is dask.config.set({"temporary-directory": "…"})'),
}


def refuse_unknown(options: Mapping[str, Any], *, others: Iterable[str] = ()) -> None:
    """Refuse options that no pool takes, with the right one where it can be guessed.

    Parameters
    ----------
    options : mapping
        The values of unknown ones may be secrets: only what :func:`_own_value` lets through is
        shown.
    others : iterable of str
        Further names that would have been right.

    Raises
    ------
    PoolError
    """
    known = {f.name for f in fields(Pool)} - {"pod"} | POD_OPTIONS
    for name, value in options.items():
        if name in known:
            continue
        guess = _OTHER_NAMES.get(name) or next(
            iter(difflib.get_close_matches(name, [*known, *others], n=1)), None
        )
        if name in _LEAVE_OUT:
            hint = f"leave it out: {_LEAVE_OUT[name]}"
        elif guess is None:
            hint = "there are " + ", ".join(sorted({*known, *others}))
        else:
            hint = f"did you mean {guess}={_own_value(guess, value)}?"
        raise PoolError(f"unknown option {name}; {hint}")


#: Options whose values are numbers, durations and sizes, and hold no secrets.
_AMOUNTS: Mapping[str, Callable[[str, Any], object]] = {
    **{name: partial(whole, least=least) for name, least in _WHOLE.items()},
    "max": partial(whole, least=1),
    "cpus": partial(whole, least=1),
    "gpus": partial(whole, least=0),
    **dict.fromkeys((*_DURATIONS, "disconnect_grace", "max_lifetime"), seconds),
    **dict.fromkeys(("memory", "home_limit"), size),
    "price": number,
}


def _own_value(name: str, value: Any) -> str:
    """What the user has given under another name, if this option would take it; else an example."""
    try:
        _AMOUNTS[name](name, value)
    except (KeyError, PoolError):
        return EXAMPLES.get(name, "…")
    # Written as text, as both quotes of the examples do.
    return f'"{value}"' if isinstance(value, str) else shown(plain(value))


def _at_least(value: int, minimum: int) -> int:
    return value if value > minimum else minimum


def _environment(env: Any) -> Mapping[str, str]:
    if env is None:
        env = {}
    if not isinstance(env, Mapping) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in env.items()
    ):
        # The values may be secrets: the error must not show them.
        raise PoolError(f"env is not a mapping of str to str; write env={EXAMPLES['env']}")
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise PoolError(
                f"env has a variable that no process can be given, {name!r}: names are not empty "
                f"and have no '=', and nothing has a NUL; write env={EXAMPLES['env']}"
            )
    return dict(env)


def _configured_price() -> float | None:
    price = config.get("pool.price")
    return None if price is None else number("flame.pool.price", price)


def _resources(resources: Any) -> Mapping[str, float]:
    if resources is None:
        return {}
    names = resources if isinstance(resources, Mapping) else [None]
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise wrong("resources", resources, "a mapping of names to amounts above zero")
    try:
        return {str(name): number("resources", amount) for name, amount in resources.items()}
    except PoolError:
        raise wrong("resources", resources, "a mapping of names to amounts above zero") from None


def _modules(preload: Any) -> tuple[str, ...]:
    if preload is None:
        return ()
    if (
        isinstance(preload, str)
        or not isinstance(preload, Sequence)
        or not all(isinstance(m, str) and all(map(str.isidentifier, m.split("."))) for m in preload)
    ):
        raise wrong("preload", preload, "a list of module names")
    return tuple(map(str, preload))
