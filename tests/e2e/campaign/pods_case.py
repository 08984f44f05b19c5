"""What a case on Kubernetes is, made from one integer: other faults, and the same calls."""

from __future__ import annotations

import random

from tests.e2e.campaign.case import DRIVER_PHASES, PHASES, Case, Fault, moment, pools_of, rounds_of

#: What is done to the API server for a while: nobody listens; each answer comes late; requests are
#: answered with 429, 500, 503; answers are cut off when what was asked is done; watches are cut;
#: or are told that they are too old.
API_FAULTS = ("api-down", "api-slow", "api-errors", "api-lost", "api-cut", "api-old")
#: What is done to runners' pods.
POD_FAULTS = ("pod-kill", "pod-delete", "pod-force", "pod-oom", "pod-evict", "pod-preempt")
#: What is done to the watchdog: its Job is deleted, its process killed, its pod deleted or evicted.
KEEPER_FAULTS = ("watchdog-delete", "watchdog-kill", "watchdog-pod", "watchdog-evict")
#: What else happens when a driver is killed.
KILLS = ("", "", "", "api-down", "api-slow", "pod", "watchdog", "paused")
_THEMES = ("driver", "api", "driver", "pods", "driver", "api", "watchdog", "boots", "driver", "mix")
#: Seconds: what is here is over soon, whatever has been cut.
_GRACE = 3.0


def make_pods_case(seed: int) -> Case:
    """The case of a seed; those of consecutive seeds go through all themes and phases."""
    rng = random.Random(f"pods {seed}")
    turn, place = divmod(seed, len(_THEMES))
    theme = _THEMES[place]
    pools = pools_of(rng, theme)
    faults: list[Fault] = []
    more: dict[str, object] = {}
    if theme == "driver":
        which = turn * _THEMES.count("driver") + _THEMES[:place].count("driver")
        more["kill_at"] = DRIVER_PHASES[which % len(DRIVER_PHASES)]
        more["kill_after"] = rng.uniform(0, 0.7) if rng.random() < 0.7 else rng.uniform(0, 0.02)
        more["kill_with"] = rng.choice(KILLS)
    if theme in ("api", "mix"):
        # Of each kind in turn, at each phase in turn.
        which = 2 * turn + (place > 1)
        phase = PHASES[which // len(API_FAULTS) % len(PHASES)]
        first = API_FAULTS[which % len(API_FAULTS)]
        faults.append(Fault(first, phase, moment(rng), 1, rng.uniform(0.3, 4)))
        faults += [_fault(rng, API_FAULTS) for _ in range(rng.randint(0, 1))]
    if theme in ("pods", "mix"):
        faults += [_fault(rng, POD_FAULTS) for _ in range(rng.randint(1, 3))]
    if theme == "watchdog" or (theme == "mix" and rng.random() < 0.5):
        faults += [_fault(rng, KEEPER_FAULTS) for _ in range(rng.randint(1, 2))]
    if theme == "boots":
        more["boots"] = tuple(rng.choices(["raise", "exit", "kill", "slow", "ok"], k=3))
        more["all_boots"] = rng.choice(["", "", "raise"])
        more["boot_attempts"] = rng.choice([1, 2, 3, 3])
        waits = not more["all_boots"] and rng.random() < 0.4
        more["on_boot_failure"] = "wait" if waits else "fail"
    rng.shuffle(faults)
    return Case(
        seed,
        theme,
        pools,
        rounds_of(rng, pools)[:2],
        tuple(faults),
        boot_timeout=60.0,
        grace=_GRACE,
        **more,  # type: ignore[arg-type]
    )


def _fault(rng: random.Random, ways: tuple[str, ...]) -> Fault:
    seconds = rng.uniform(0.2, 4)
    return Fault(rng.choice(ways), rng.choice(PHASES), moment(rng), rng.choice([1, 1, 2]), seconds)
