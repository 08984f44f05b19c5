"""What a case is: made from one integer, and told in words."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

#: The moments of a cluster's life at which something can be done to it.
PHASES = ("booting", "registering", "running", "idle", "leaving")
#: Those at which a driver is killed.
DRIVER_PHASES = ("starting", "waiting", *PHASES, "resting", "closing")
#: What is done to connections. Those of LINK_PAUSES end none.
LINK_PAUSES = ("hold", "delay")
LINK_FAULTS = (*LINK_PAUSES, "cut", "cut-after", "blink", "lose", "half-close", "half-close-there")


@dataclass(frozen=True)
class PoolPlan:
    """The options of one pool."""

    name: str
    min: int
    max: int
    concurrency: int
    idle_timeout: float
    single_use: bool = False


@dataclass(frozen=True)
class CallPlan:
    """One call: what it does, and what is done with it."""

    id: int
    pool: str | None
    seconds: float
    size: int  # bytes of its result
    inputs: tuple[int, ...] = ()
    rerun: bool = True
    raises: bool = False
    cancel_after: float | None = None
    timeout: float | None = None
    nested: bool = False  # it calls on a runner itself
    child: bool = False  # it leaves a process behind, in a session of its own

    @property
    def overruns(self) -> bool:
        return self.timeout is not None and self.timeout < self.seconds

    @property
    def fails(self) -> bool:
        """Whether it is not to have a result, whatever happens."""
        return self.raises or self.overruns or self.cancel_after is not None

    def __str__(self) -> str:
        words = [f"#{self.id} {self.seconds:.2f} s"]
        words += [f"in {self.pool}"] if self.pool else []
        words += [f"of {', '.join(f'#{i}' for i in self.inputs)}"] if self.inputs else []
        words += [f"{self.size} bytes"] if self.size > 1000 else []
        words += ["rerun=False"] if not self.rerun else []
        words += ["raises"] if self.raises else []
        words += [f"timeout={self.timeout:g} s"] if self.timeout else []
        words += ["calls another"] if self.nested else []
        words += ["leaves a process"] if self.child else []
        words += [f"cancelled after {self.cancel_after:.2f} s"] if self.cancel_after else []
        return " ".join(words)


@dataclass(frozen=True)
class Round:
    """Calls submitted together; then a wait for nothing, their ends, or the pools' rest."""

    calls: tuple[CallPlan, ...]
    then: str  # "on", "done", "rest"
    pause: float


@dataclass(frozen=True)
class Fault:
    """Something that is done to a running case.

    ``phase`` is waited for, then ``delay`` seconds; then it is done to ``count`` runners, those in
    that phase first.
    """

    what: str
    phase: str
    delay: float
    count: int = 1
    seconds: float | None = None

    def __str__(self) -> str:
        by_number = self.what in ("kill", "term", "freeze") or self.what.startswith("pod-")
        who = f" {self.count} runners" if by_number else ""
        who += " of the links" if self.what in LINK_FAULTS else ""
        long = "" if self.what != "freeze" else " for ever"
        if self.seconds is not None:
            long = f" for {self.seconds:.2f} s"
        return f"{self.what}{who}{long}, {self.delay * 1000:.0f} ms after {self.phase}"


@dataclass(frozen=True)
class Unsteady:
    """How often, and how, the backend's methods fail before they work.

    A failure is ``before`` anything was done, ``after`` all was, ``half`` way, or the work is
    only ``slow``.
    """

    boot: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    list: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """All that one seed stands for."""

    seed: int
    theme: str
    pools: tuple[PoolPlan, ...]
    rounds: tuple[Round, ...]
    faults: tuple[Fault, ...] = ()
    boots: tuple[str, ...] = ()  # what the first boots do: see campaign.boots
    all_boots: str = ""  # what all others do
    boot_timeout: float = 60.0
    boot_attempts: int = 3
    on_boot_failure: str = "fail"
    unsteady: Unsteady = field(default_factory=Unsteady)
    worker_ttl: float | None = None
    home_memory: int | None = None  # bytes of results in memory; the others rest on disk
    allowed_failures: int = 20
    proxy: str = ""  # what goes through one: the "client", or the "runners"
    grace: float = 60.0
    kill_at: str = ""  # the phase in which the driver is killed
    kill_after: float = 0.0  # ... and how long after its beginning
    # ... "supervisor": its supervisor as well; "several": that and all runners but one;
    # "frozen": while its runners are frozen; "paused": it is only stopped for a while
    kill_with: str = ""

    @property
    def calls(self) -> dict[int, CallPlan]:
        return {call.id: call for r in self.rounds for call in r.calls}

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.theme}"]
        lines += [f"  {pool}" for pool in self.pools]
        for r in self.rounds:
            then = {"on": "go on", "done": "wait for all", "rest": "wait until the pools rest"}
            lines.append(f"  submit {'; '.join(map(str, r.calls))}")
            lines.append(f"  pause {r.pause:.2f} s, then {then[r.then]}")
        lines += [f"  fault: {fault}" for fault in self.faults]
        lines += [f"  boots: {', '.join(self.boots)}, then {self.all_boots or 'ok'}"] * bool(
            self.boots or self.all_boots
        )
        if self.boots or self.all_boots:
            lines.append(
                f"  boot_timeout={self.boot_timeout:g}, boot_attempts={self.boot_attempts}, "
                f"on_boot_failure={self.on_boot_failure}"
            )
        lines += [f"  backend: {self.unsteady}"] * (self.unsteady != Unsteady())
        lines += [f"  worker-ttl: {self.worker_ttl} s"] * bool(self.worker_ttl)
        lines += [f"  home.memory: {self.home_memory} bytes"] * bool(self.home_memory)
        lines += [f"  allowed-failures: {self.allowed_failures}"] * (self.allowed_failures != 20)
        lines += [f"  through a proxy: {self.proxy}"] * bool(self.proxy)
        if self.kill_at:
            what = _KILLS[self.kill_with]
            lines.append(f"  {what} {self.kill_after * 1000:.0f} ms after {self.kill_at}")
        return "\n".join(lines)


_KILLS = {
    "": "the driver is killed",
    "supervisor": "the driver and the supervisor are killed",
    "several": "the driver, the supervisor and all runners but one are killed at one instant",
    "frozen": "all runners are frozen and the driver is killed",
    "paused": "the driver is stopped for a while",
    "api-down": "the API server goes down for a while and the driver is killed",
    "api-slow": "the API server is slow all the time and the driver is killed",
    "pod": "the driver is killed and its pod deleted",
    "watchdog": "the driver and the watchdog are killed",
}

THEMES = (
    *("driver", "kill", "boots", "link", "backend", "freeze"),
    *("driver", "kill", "links", "supervisor", "mix", "template"),
)


def make_case(seed: int) -> Case:
    """The case of a seed; those of consecutive seeds go through all themes and phases."""
    rng = random.Random(seed)
    turn, place = divmod(seed, len(THEMES))
    theme = THEMES[place]
    pools = pools_of(rng, theme)
    rounds = rounds_of(rng, pools)
    case = {
        "seed": seed,
        "theme": theme,
        "pools": pools,
        "rounds": rounds,
        "faults": (),
    }
    if theme == "driver":
        ways = ("", "", "", "supervisor", "frozen", "paused", "several", "several")
        case |= driver_killed(rng, THEMES, turn, place, ways)
        if case["kill_with"] == "several":
            case["rounds"] = tuple(map(_with_children, rounds))
    else:
        case |= _MISHAPS[theme](rng)
    return Case(**case)  # type: ignore[arg-type]


def driver_killed(
    rng: random.Random, themes: tuple[str, ...], turn: int, place: int, ways: tuple[str, ...]
) -> dict[str, object]:
    """When and how a driver is killed, in each phase in turn.

    Parameters
    ----------
    rng : random.Random
    themes : tuple of str
        Those that cases go through.
    turn, place : int
        How often they have gone through all, and the place of this case's theme.
    ways : tuple of str
        What ``kill_with`` is one of.
    """
    which = turn * themes.count("driver") + themes[:place].count("driver")
    return {
        "kill_at": DRIVER_PHASES[which % len(DRIVER_PHASES)],
        "kill_after": rng.uniform(0, 0.7) if rng.random() < 0.7 else rng.uniform(0, 0.02),
        "kill_with": rng.choice(ways),
    }


def pools_of(rng: random.Random, theme: str) -> tuple[PoolPlan, ...]:
    """One or two small pools."""
    names = ["default"] if rng.random() < 0.65 else ["a", "b"]
    pools = []
    for name in names:
        most = rng.randint(1, 3 if len(names) == 1 else 2)
        pools.append(
            PoolPlan(
                name,
                min=rng.choice([0, 0, 0, 1, most]) if most > 1 else rng.choice([0, 0, 1]),
                max=most,
                concurrency=rng.choice([1, 1, 2, 3]),
                idle_timeout=rng.choice([0.1, 0.3, 0.8]),
                single_use=theme in ("kill", "mix") and rng.random() < 0.1,
            )
        )
    return tuple(pools)


def rounds_of(rng: random.Random, pools: tuple[PoolPlan, ...]) -> tuple[Round, ...]:
    """Two to four rounds of calls to these pools."""
    rounds = []
    count = 0
    usable: list[int] = []  # calls whose results later ones may take
    for _ in range(rng.randint(2, 4)):
        calls = []
        for _ in range(rng.randint(1, 7)):
            count += 1
            kind = rng.random()
            overruns = 0.8 < kind < 0.86
            call = CallPlan(
                id=count,
                pool=rng.choice([None, *(p.name for p in pools)]) if len(pools) > 1 else None,
                seconds=60.0 if overruns else rng.choice([0.0, 0.05, rng.uniform(0.1, 1.0)]),
                size=rng.choice([0, 0, 1000, 100_000, 8_000_000]),
                inputs=tuple(rng.sample(usable, min(len(usable), rng.choice([0, 0, 1, 2, 4])))),
                rerun=not 0.6 < kind < 0.72,
                raises=0.72 < kind < 0.8,
                cancel_after=rng.uniform(0, 1.0) if kind > 0.92 else None,
                timeout=rng.choice([0.05, 0.4]) if overruns else None,
                nested=0.86 < kind < 0.95,
            )
            calls.append(call)
            if not call.fails:
                usable.append(call.id)
        then = rng.choices(["on", "done", "rest"], [3, 2, 3])[0]
        rounds.append(Round(tuple(calls), then, rng.choice([0.0, rng.uniform(0, 0.6)])))
    return tuple(rounds)


def _with_children(part: Round) -> Round:
    return replace(part, calls=tuple(replace(call, child=True) for call in part.calls))


def moment(rng: random.Random) -> float:
    """Seconds after the beginning of a phase."""
    return rng.choice([0.0, rng.uniform(0, 0.03), rng.uniform(0, 0.4)])


def _strike(rng: random.Random, what: str, *, seconds: float | None = None) -> Fault:
    return Fault(what, rng.choice(PHASES), moment(rng), rng.choice([1, 1, 1, 2, 5]), seconds)


def _kills(rng: random.Random) -> dict[str, object]:
    allowed = rng.choice([20, 20, 0, 1])
    faults = [
        _strike(rng, rng.choice(["kill", "kill", "kill", "term"])) for _ in range(rng.randint(1, 4))
    ]
    if rng.random() < 0.3:
        faults.append(Fault("shrink", rng.choice(PHASES), moment(rng), 1, rng.uniform(0, 0.5)))
    return {"faults": tuple(faults), "allowed_failures": allowed}


def _freezes(rng: random.Random) -> dict[str, object]:
    for_ever = rng.random() < 0.5
    long = [rng.uniform(0.1, 1.5) for _ in range(rng.randint(1, 3))]
    if not for_ever:
        return {"faults": tuple(_strike(rng, "freeze", seconds=s) for s in long)}
    phase = rng.choice(PHASES[1:])
    seconds = rng.choice([None, rng.uniform(3, 12)])
    last = Fault("freeze", phase, moment(rng), rng.choice([1, 1, 2]), seconds)
    return {"faults": (last,), "worker_ttl": 3.0, "boot_timeout": 10.0}


def _boots(rng: random.Random) -> dict[str, object]:
    hang = ["hang"] if rng.random() < 0.4 else []
    boots = rng.choices(["raise", "exit", "kill", "slow", "ok", *hang * 2], k=rng.randint(1, 4))
    always = rng.choice(["", "", "", "raise", "exit", *hang])
    waits = not always and rng.random() < 0.4
    return {
        "boots": tuple(boots),
        "all_boots": always,
        # Boots that only take long on a busy machine are taken for what they are: late ones.
        "boot_timeout": 6.0 if hang else 60.0,
        "boot_attempts": rng.choice([1, 2, 3, 3]),
        "on_boot_failure": "wait" if waits else "fail",
    }


def _backend(rng: random.Random) -> dict[str, object]:
    def some(ways: list[str], most: int) -> tuple[str, ...]:
        return tuple(rng.choices(ways, k=rng.randint(0, most)))

    unsteady = Unsteady(
        some(["before", "after", "half", "slow", "ok"], 3),
        some(["before", "after", "slow", "ok"], 4),
        some(["before", "slow", "ok"], 3),
    )
    return {"unsteady": unsteady}


def _supervisor(rng: random.Random) -> dict[str, object]:
    on_disk = rng.random() < 0.5
    faults = [
        Fault("supervisor", rng.choice(PHASES), moment(rng)) for _ in range(rng.randint(1, 2))
    ]
    if on_disk:
        # Where it is killed while no runner is there, nothing is lost.
        faults[0] = Fault("supervisor", "resting", moment(rng))
    return {"faults": tuple(faults), "home_memory": 2**16 if on_disk else None}


def _templates(rng: random.Random) -> dict[str, object]:
    """What runners are forked from: no call knows of its end."""
    return {
        "faults": tuple(
            Fault(
                "template",
                rng.choice(PHASES),
                moment(rng),
                1,
                rng.choice([None, rng.uniform(0.05, 2.5)]),
            )
            for _ in range(rng.randint(1, 4))
        )
    }


def _link(rng: random.Random) -> dict[str, object]:
    """The driver's link: whatever happens to it, no call knows of it."""
    faults = tuple(_broken(rng, LINK_FAULTS) for _ in range(rng.randint(1, 4)))
    return {"proxy": "client", "faults": faults}


def _links(rng: random.Random) -> dict[str, object]:
    """The runners' links: one that only pauses loses nothing."""
    ways = rng.choice([LINK_PAUSES, LINK_FAULTS[2:]])
    faults = tuple(_broken(rng, ways) for _ in range(rng.randint(1, 2)))
    return {"proxy": "runners", "faults": faults}


def _broken(rng: random.Random, ways: tuple[str, ...]) -> Fault:
    return Fault(rng.choice(ways), rng.choice(PHASES), moment(rng), 1, rng.uniform(0.05, 2.5))


def _mix(rng: random.Random) -> dict[str, object]:
    mixed: dict[str, object] = {}
    faults: list[Fault] = []
    parts = [_kills, _freezes, _boots, _backend, _supervisor, _templates, _link, _links]
    for part in rng.sample(parts, k=rng.randint(2, 3)):
        mishaps = part(rng)
        faults += mishaps.pop("faults", ())  # type: ignore[arg-type]
        mixed |= mishaps
    rng.shuffle(faults)
    return {**mixed, "faults": tuple(faults)}


_MISHAPS = {
    "kill": _kills,
    "freeze": _freezes,
    "boots": _boots,
    "backend": _backend,
    "supervisor": _supervisor,
    "template": _templates,
    "link": _link,
    "links": _links,
    "mix": _mix,
}
