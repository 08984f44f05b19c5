"""What a case on Fly is, made from one integer: other faults, and the same calls."""

from __future__ import annotations

import random

from tests.e2e.campaign.case import Fault
from tests.e2e.campaign.substrate_case import Substrate, some_faults

#: What is done to the API for a while: nobody listens; each answer comes late; requests are
#: answered with 500, 503, 504; all with 429; answers are lost when what was asked is done; they
#: never come; the region has no room; the clock is wrong.
API_FAULTS = (
    "api-down", "api-slow", "api-errors", "api-storm", "api-lost", "api-hang", "api-full",
    "api-skew",
)  # fmt: skip
#: What is done to runners' machines.
MACHINE_FAULTS = ("machine-kill", "machine-oom", "machine-destroy", "machine-stop")
#: What else happens when a driver is killed.
KILLS = ("", "", "api-down", "api-slow", "api-lost", "stuck", "watchdog", "paused")
_THEMES = (
    "driver",
    "api",
    "driver",
    "machines",
    "driver",
    "api",
    "stuck",
    "boots",
    "driver",
    "mix",
)
#: Seconds after which a machine that is stuck is given up.
_STUCK_FOR = 15.0


def _mishaps(rng: random.Random, theme: str) -> tuple[list[Fault], dict[str, object]]:
    if theme in ("machines", "mix"):
        return some_faults(rng, MACHINE_FAULTS, 1, 3), {}
    if theme == "stuck":
        return [Fault("stuck", "booting", 0.0, 1)], {"boot_timeout": _STUCK_FOR}
    return [], {}


make_fly_case = Substrate("fly", _THEMES, API_FAULTS, KILLS, _mishaps).case
