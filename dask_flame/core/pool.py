"""The options of a pool of runners, checked when the pool is created."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from dask.system import CPU_COUNT

from dask_flame.core import backend_options, option_checks
from dask_flame.core.keyword_only import by_name
from dask_flame.core.kinds import Kind, Price, check_price, check_priced, kinds_of, price_of
from dask_flame.core.option_checks import (
    EXAMPLES,
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
from dask_flame.core.options import Check, Declared, Option, option
from dask_flame.core.ranges import RUNNERS
from dask_flame.core.setup_function import setup_function
from dask_flame.core.variables import Secret, check_present, checked_env, checked_secrets
from dask_flame.errors import PoolError

OnChange = Callable[[str, int], object]
Duration = str | float | timedelta


def _resources(name: str, resources: Any) -> Mapping[str, float]:
    keys = resources if isinstance(resources, Mapping) else [None]
    if not all(isinstance(key, str) and key.strip() for key in keys):
        raise wrong(name, resources, "a mapping of names to amounts above zero")
    try:
        return {str(key): number(name, amount) for key, amount in resources.items()}
    except PoolError:
        raise wrong(name, resources, "a mapping of names to amounts above zero") from None


def _modules(name: str, preload: Any) -> tuple[str, ...]:
    if (
        isinstance(preload, str)
        or not isinstance(preload, Sequence)
        or not all(isinstance(m, str) and all(map(str.isidentifier, m.split("."))) for m in preload)
    ):
        raise wrong(name, preload, "a list of module names")
    return tuple(map(str, preload))


def _count(least: int, example: str, *, beside: str = "", **more: Any) -> Any:
    # An error does not suggest a 0 that was given under another name if 1 or more is usual.
    amount = partial(whole, least=max(least, int(bool(beside))))
    return option(partial(whole, least=least, beside=beside), example, amount=amount, **more)


def _duration(example: str, *, zero: bool = True, **more: Any) -> Any:
    check = partial(seconds, zero=zero)
    return option(check, example, section="pool", amount=seconds, **more)


#: The value of `idle_timeout` with which a pool finds it itself.
AUTO = "auto"


def _idle_timeout(name: str, value: Any) -> float | str:
    if isinstance(value, str) and not any(map(str.isdigit, value)):
        if value == AUTO:
            return AUTO
        raise wrong(name, value, 'a duration such as 60, "60s" or "2m", or "auto"')
    return seconds(name, value)


def _idle_bounds(name: str, value: Any) -> tuple[float, float]:
    try:
        if not isinstance(value, list | tuple):
            raise TypeError
        least, most = (seconds(name, each) for each in value)
    except (PoolError, TypeError, ValueError):
        raise wrong(name, value, "a pair of durations, the least and the most") from None
    if least > most or not most:
        raise wrong(
            name,
            value,
            "a pair of durations of which the second is above 0 and not below the first",
        )
    return least, most


def _callback() -> Any:
    return option(function, "lambda pool, count: print(pool, count)", for_runners=True)


#: Where the default of ``max`` comes from.
_OWN_CORES = "the driver's cores"
#: Options with variables whose values may be the driver's.
_VARIABLES = ("env", "secrets")


def _is_options(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


@dataclass(frozen=True, init=False, repr=False)
class Pool(Declared):
    """The bounds, timeouts and resources of one kind of runner.

    Parameters
    ----------
    min : int, default 0 (``flame.pool.min``)
        Runners kept at all times.
    max : int, optional (``flame.pool.max``)
        Maximum number of runners, including booting ones; 10,000 or fewer. With 0, calls wait until
        it is raised. By default, as many as the hosts hold with ``backend="ssh"``, and otherwise
        the number of the driver's cores.
    concurrency : int, default 1 (``flame.pool.concurrency``)
        Concurrent calls on one runner: its slots.
    idle_timeout : duration or "auto", default "60s" (``flame.pool.idle-timeout``)
        A runner that has had no call for this long ends. With ``"auto"``, it is kept for as long as
        its next boot would take, as boots so far did: then boots and idle time never cost more than
        twice what they would cost if the next call were known (the break-even rule of ski rental:
        Karlin, Manasse, Rudolph and Sleator, "Competitive snoopy caching", Algorithmica 3, 1988).
        What has been saved against this bound so far lets the pool come closer to the cheapest time
        for the gaps between calls that it has seen; the bound still holds.
    idle_bounds : pair of durations, default ("2s", "15m") (``flame.pool.idle-bounds``)
        The least and the most of ``idle_timeout="auto"``. They come before its bound on the cost.
    min_idle_timeout : duration, optional (``flame.pool.min-idle-timeout``)
        The same for the last ``min`` runners; by default they stay.
    boot_timeout : duration, default "2m" (``flame.pool.boot-timeout``)
        Maximum time from the boot request to the runner's registration. Where a substrate has a
        queue (Slurm), it begins when the runner's turn has come.
    shutdown_timeout : duration, default "30s" (``flame.pool.shutdown-timeout``)
        Maximum time from the request to end until the runner is ended by force. In this time,
        functions registered with :mod:`atexit` and ``weakref.finalize`` run, and open files are
        flushed. Non-daemon threads, and processes, that calls have left running may use up to five
        seconds of it, and at most half.
    spare : int, default 0 (``flame.pool.spare``)
        Free runners kept in addition to the demand while there is any demand.
    single_use : bool, default False (``flame.pool.single-use``)
        A runner takes no further call once one has ended on it, and ends.
    idle_check : callable, optional
        Called without arguments on a runner that has been idle for its timeout. If it returns
        False, the runner stays, and its idle time starts again.
    boot_attempts : int, default 3 (``flame.pool.boot-attempts``)
        Waves of boots that may fail in a row before the calls that wait for them fail.
    on_boot_failure : {"fail", "wait"}, default "fail" (``flame.pool.on-boot-failure``)
        Whether waiting calls fail when boots keep failing, or wait while more boots are tried.
    on_grow, on_shrink : callable, optional
        Called in the driver, in a separate thread, with the pool's name and the number of its
        runners (including booting ones, without ending ones) when runners are requested or asked
        to end.
    cpus : float or str, optional
        CPUs of one runner, which may be a fraction such as 0.5 or ``"500m"``. This is the request
        and the limit of a pod. Numerical libraries may use ``cpus // concurrency`` threads in each
        call, and one at least (OMP_NUM_THREADS and similar variables). By default, as for Dask's
        own workers: one thread, and no limit.
    memory : size, optional
        Memory of one runner, such as ``"4 GiB"``; 64 MiB or more; unlimited by default. Dask spills
        and pauses a runner's worker based on it. A paused runner gets no calls, is replaced, and
        ends once it has had no call for two seconds. A runner whose processes use more is ended,
        and its calls run again on other runners, up to Dask's ``allowed-failures``. Local runners
        on Linux are ended within about 0.2 s, unless Dask's
        ``distributed.worker.memory.terminate`` is False (its fraction is not used); in Kubernetes
        the kernel ends them.
    gpus : int, default 0
        GPUs of one runner. It also has them as Dask's resource ``GPU``.
    price : float, or mapping of str to float, optional (``flame.pool.price``)
        Price of one runner per hour, for ``cluster.cost()`` and the page ``/pools``; by default
        ``flame.pool.price``, which is unset. A mapping has the prices of several kinds of runner,
        by the names in ``cluster.runners`` or parts of them:
        ``{"H100": 4.0, "H100, spot": 1.6, "A100": 2.2}``.
    resources : mapping of str to float, optional
        Dask resources of one runner, for calls with ``resources=``.
    env : mapping of str to str or None, optional
        Environment variables for the runner, which override those of the driver. None means the
        value that the driver has when the runner boots, which is kept secret as those of `secrets`
        are.
    secrets : sequence of str, or mapping of str to str or None, optional
        Environment variables for the runner with secret values: names, whose values are the
        driver's when the runner boots; or names with values, where None means the driver's. They
        are shown in no repr, event, log, error or manifest. On Kubernetes they are kept in a Secret
        of the cluster, and ``{"name": …, "key": …}`` in place of a value names another Secret.
    preload : sequence of str, optional
        Modules to import before a runner registers. On Linux, local runners are forked from a
        process that has imported them, provided that the import starts no threads or processes,
        opens no files or sockets and initializes no GPU.
    setup : callable, optional
        Called without arguments once on each new runner, before its first call, for instance to
        load a model; :func:`dask_flame.setup_result` returns its result in calls. Its failure is a
        failure of the boot, and ``boot_timeout`` includes its time. If it is a generator function,
        it yields the result, and continues after the ``yield`` when the runner ends by itself,
        within ``shutdown_timeout``. It may be asynchronous: then it runs on the event loop of the
        runner's ``async def`` calls. It is pickled again for each boot.
    post_mortem : bool, default False (``flame.pool.post-mortem``)
        Keep the frames of failed calls on their runner, for :func:`dask_flame.post_mortem`: those
        of its last five, with everything that their variables refer to. It ends when idle as usual.
    **options
        Options of certain backends: see
        :class:`dask_flame.backends.kubernetes.KubernetesOptions` for ``backend="kubernetes"``.
    options : mapping of str to object, optional
        The same options in a mapping.

    Durations are numbers of seconds, or strings that :func:`dask.utils.parse_timedelta` accepts;
    sizes are numbers of bytes, or strings that :func:`dask.utils.parse_bytes` accepts. The
    attributes of a pool are in seconds and bytes. The names in parentheses are those of the
    defaults in Dask's configuration.

    Raises
    ------
    PoolError
        An option is wrong; the message has its name, its value and a line that works.

    Notes
    -----
    docs/pools.md explains these options; docs/zero.md when a runner is idle (``idle_timeout``,
    ``min_idle_timeout``, ``idle_check``, ``spare``); docs/gpus.md ``gpus``; docs/local.md
    ``preload`` on this machine; docs/inspect.md ``post_mortem``; docs/kubernetes.md ``cpus``,
    ``memory`` and ``secrets`` of pods.

    Examples
    --------
    >>> Pool(max=8, idle_timeout="2m").idle_timeout
    120.0
    """

    #: Where ``max`` comes from if the user has not named it; empty if they have. It is no option.
    max_from = ""

    min: int = _count(0, "2", section="pool")
    max: int = _count(
        0, "8", beside="1 or more, or 0 to let calls wait", section="pool", nullable=True
    )
    concurrency: int = _count(1, "1", section="pool", fixed=True)
    idle_timeout: float | str = option(_idle_timeout, '"60s"', section="pool", amount=seconds)
    idle_bounds: tuple[float, float] = option(_idle_bounds, '("2s", "15m")', section="pool")
    min_idle_timeout: float | None = _duration('"10m"', nullable=True)
    boot_timeout: float = _duration('"2m"', zero=False)
    shutdown_timeout: float = _duration('"30s"')
    spare: int = _count(0, "1", section="pool")
    single_use: bool = option(yes_or_no, "True", section="pool", fixed=True)
    idle_check: Callable[[], object] | None = option(function, "lambda: True")
    boot_attempts: int = _count(1, "3", section="pool")
    on_boot_failure: str = option(partial(one_of, words=("fail", "wait")), '"wait"', section="pool")
    on_grow: OnChange | None = _callback()
    on_shrink: OnChange | None = _callback()
    cpus: float | None = option(option_checks.cpus, "2", amount=partial(whole, least=1))
    memory: int | None = option(size, '"4 GiB"', in_bytes=True, amount=size)
    gpus: int = _count(0, "1", default=0, fixed=True)
    price: Price = option(
        check_price, "2.5", section="pool", nullable=True, amount=number, hash=False
    )
    resources: Mapping[str, float] = option(
        _resources, '{"GPU": 1}', default={}, fixed=True, hash=False
    )
    env: Mapping[str, str | None] = option(
        checked_env,
        '{"TOKENIZERS_PARALLELISM": "false"}',
        default={},
        secret=True,
        for_runners=True,
        hash=False,
    )
    secrets: Mapping[str, Secret] = option(
        checked_secrets,
        '{"HF_TOKEN": "hf_…"}',
        default={},
        secret=True,
        for_runners=True,
        hash=False,
    )
    preload: tuple[str, ...] = option(_modules, '["numpy"]', default=(), for_runners=True)
    post_mortem: bool = option(yes_or_no, "True", section="pool", for_runners=True)
    setup: Callable[[], object] | None = option(
        setup_function, 'lambda: load_model("model.pt")', for_runners=True, hash=False
    )
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    if TYPE_CHECKING:
        # For type checkers and editors. A test compares the names with the fields.
        def __init__(
            self,
            *,
            min: int | None = None,
            max: int | None = None,
            concurrency: int | None = None,
            idle_timeout: Duration | None = None,
            idle_bounds: tuple[Duration, Duration] | None = None,
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
            price: float | Mapping[str, float] | None = None,
            resources: Mapping[str, float] | None = None,
            env: Mapping[str, str | None] | None = None,
            secrets: Sequence[str] | Mapping[str, Secret] | None = None,
            preload: Sequence[str] | None = None,
            post_mortem: bool | None = None,
            setup: Callable[[], object] | None = None,
            **options: Any,
        ) -> None: ...
    else:

        @by_name("Pool", "min", "max", "concurrency", "idle_timeout")
        def __init__(self, **options: Any) -> None:
            self._fill(options)
            for name in _VARIABLES:
                check_present(name, getattr(self, name))

    def _fill(self, options: dict[str, Any]) -> None:
        """Set the checked options; variables that the driver no longer has are not noticed."""
        together = options.pop("options", None)
        if together is not None and not _is_options(together):
            example = 'options={"image": "ghcr.io/me/runner:1.0"}'
            raise PoolError(
                f"options is not a mapping of names of options to values; write {example}"
            )
        options = {**(together or {}), **options}
        own = self.declared()
        given = {name: options.pop(name, None) for name in own}
        refuse_unknown(options)
        values = {name: known.taken(name, given[name]) for name, known in own.items()}
        if values["max"] is None:
            values["max"] = max(CPU_COUNT, values["min"])
            object.__setattr__(self, "max_from", _OWN_CORES)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "options", backend_options.checked(options))
        check_priced(self.price, self.kinds)
        if self.min > self.max:
            raise PoolError(
                f"min={self.min} is more than max={self.max}; write "
                f"min={self.max}, max={self.min} if they were swapped, or max={self.min}"
            )

    def __repr__(self) -> str:
        own = {n: known.shown(getattr(self, n)) for n, known in self.declared().items()}
        shown = own | backend_options.shown(self.options)
        return f"Pool({', '.join(f'{name}={value}' for name, value in shown.items())})"

    @property
    def offers(self) -> Mapping[str, float]:
        """The Dask resources of a runner of this pool."""
        return {**({"GPU": float(self.gpus)} if self.gpus else {}), **self.resources}

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of runner that it may have, in order of preference; one at least."""
        return kinds_of(self.options)

    def price_of(self, kind: str) -> float | None:
        """Return the price of a runner of this kind per hour; None if it is unknown."""
        return price_of(self.price, kind)

    @property
    def abridged(self) -> Pool:
        """A copy without callbacks, and without options that the scheduler does not use."""
        names = [name for name, known in self.declared().items() if known.for_runners]
        options = {name: self.options[name] for name in self.kinds[0].options}
        return self.replace(**dict.fromkeys(names), options=options)

    def replace(self, **changes: Any) -> Pool:
        """Return a copy with these options changed; they are checked as in ``Pool(...)``."""
        copy = object.__new__(Pool)
        copy._fill({f.name: getattr(self, f.name) for f in fields(self)} | changes)
        if "max" not in changes:
            object.__setattr__(copy, "max_from", self.max_from)
        for name in _VARIABLES:
            if name in changes:
                check_present(name, getattr(copy, name))
        return copy

    def with_defaults(self, options: Mapping[str, Any]) -> Pool:
        """Return a copy with those options of a backend that were not given for this pool."""
        missing = {name: value for name, value in options.items() if name not in self.options}
        return self.replace(options={**self.options, **missing}) if missing else self

    def holding(self, number: int, why: str) -> Pool:
        """Return a copy whose ``max`` is what there is room for, if the user has not named it.

        Parameters
        ----------
        number : int
            The number of runners. Nothing is below ``min``, and at least one runner may be
            requested, so that calls are told for what they wait.
        why : str
            Where the number comes from.
        """
        if not self.max_from:
            return self
        copy = self.replace(max=min(max(number, self.min, 1), RUNNERS))
        object.__setattr__(copy, "max_from", why)
        return copy

    def said(self, names: Iterable[str]) -> dict[str, str]:
        """Return the text of these options for an event, without options that may hold secrets."""
        known = {name: known_option(name) for name in names}
        return {
            name: o.said(getattr(self, name, self.options.get(name)))
            for name, o in known.items()
            if not o.secret
        }


def known_option(name: str) -> Option:
    """Return the declaration of an option of a pool or of a backend.

    Raises
    ------
    KeyError
        No option has this name.
    """
    found = Pool.declared().get(name) or backend_options.declared(name)
    if found is None:
        raise KeyError(name)
    return found


_OTHER_NAMES = {  # names in other libraries, and the option with the same meaning
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
    "queue": "partition",
    "walltime": "time",
    "project": "account",
    "shared_temp_directory": "folder",
    "remote_python": "python",
}
_LEAVE_OUT = {  # names in other libraries without a counterpart, and the reason
    **dict.fromkeys(
        ("processes", "nanny", "worker_class"), "runners are processes that hold one worker each"
    ),
    **dict.fromkeys(
        ("ip", "host", "interface", "protocol", "port", "scheduler_port", "scheduler_kwargs"),
        "the backend says where the scheduler listens",
    ),
    **dict.fromkeys(("local_directory",), 'it is dask.config.set({"temporary-directory": "…"})'),
    "budget": 'it is of the whole cluster: cluster.budget = "20 USD"',
    "connect_options": "users, ports and keys are those of ~/.ssh/config",
    **dict.fromkeys(
        ("worker_options", "scheduler_options"), "what they hold are options of FlameCluster itself"
    ),
    "death_timeout": "runners end by themselves when their driver has; see disconnect_grace",
    "log_directory": "cluster.get_logs() has the output of runners",
}


def why_left_out(name: str) -> str:
    """Return what stands for an option of other libraries that has no counterpart, or ""."""
    return _LEAVE_OUT.get(name, "")


def refuse_unknown(options: Mapping[str, Any], *, others: Iterable[str] = ()) -> None:
    """Raise for unknown options, and suggest the right one if it can be guessed.

    Parameters
    ----------
    options : mapping
        The values of unknown options may be secrets: they are only shown if :func:`_own_value`
        accepts them.
    others : iterable of str, default ()
        Further valid names.

    Raises
    ------
    PoolError
    """
    own = Pool.declared()
    for name, value in options.items():
        if name in own or backend_options.declared(name) is not None:
            continue
        import difflib  # for errors only

        known = {*own, *backend_options.option_names()}
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


#: Options of a cluster whose values are durations or sizes, and never secrets.
_AMOUNTS: Mapping[str, Check] = {
    **dict.fromkeys(("disconnect_grace", "max_lifetime"), seconds),
    "home_limit": size,
}


def _example(name: str) -> str:
    known = backend_options.declared(name)
    return EXAMPLES.get(name, "…") if known is None else known.example


def _own_value(name: str, value: Any) -> str:
    """Return the user's value if it is valid for the suggested option, else an example."""
    own = Pool.declared()
    check = own[name].amount if name in own else _AMOUNTS.get(name)
    try:
        if check is None:
            return _example(name)
        check(name, value)
    except PoolError:
        return _example(name)
        # Write text with double quotes, as the examples do.
    return f'"{value}"' if isinstance(value, str) else shown(plain(value))
