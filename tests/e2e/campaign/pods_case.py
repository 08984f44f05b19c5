"""What a case on Kubernetes is, made from one integer: other faults, and the same calls."""

from __future__ import annotations

import random

from tests.e2e.campaign.case import Fault
from tests.e2e.campaign.substrate_case import Substrate, some_faults

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


def _mishaps(rng: random.Random, theme: str) -> tuple[list[Fault], dict[str, object]]:
    faults: list[Fault] = []
    if theme in ("pods", "mix"):
        faults += some_faults(rng, POD_FAULTS, 1, 3)
    if theme == "watchdog" or (theme == "mix" and rng.random() < 0.5):
        faults += some_faults(rng, KEEPER_FAULTS, 1, 2)
    return faults, {}


make_pods_case = Substrate("pods", _THEMES, API_FAULTS, KILLS, _mishaps).case
