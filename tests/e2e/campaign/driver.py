"""A case in a process of its own, to be killed (driver): ``driver.py SEED FOLDER [WHERE]``.

Without WHERE, it is played on this machine; ``pods`` and ``machines`` are on Kubernetes and Fly.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.e2e.campaign.case import Case, make_case
from tests.e2e.campaign.judge import judge
from tests.e2e.campaign.play import Local, play


def main(seed: str, folder: str, where: str = "") -> None:
    """Play a case, print each phase when it comes into it, then what is wrong."""
    said: set[str] = set()

    def tell(phase: str) -> None:
        if phase not in said:
            said.add(phase)
            print(phase, flush=True)

    case, place = _case(int(seed), where)
    played = play(case, Path(folder), tell, place)
    wrong = judge(case, played)
    print("over", *wrong, sep="\n", flush=True)
    if wrong:
        print(*played.events, sep="\n", flush=True)
    sys.exit(bool(wrong))


def _case(seed: int, where: str) -> tuple[Case, Local]:
    # Each needs packages that the others do not.
    if where == "pods":
        from tests.e2e.campaign.pods import Pods
        from tests.e2e.campaign.pods_case import make_pods_case

        return make_pods_case(seed), Pods()
    if where == "machines":
        from tests.e2e.campaign.fly_case import make_fly_case
        from tests.e2e.campaign.machines import Machines

        return make_fly_case(seed), Machines()
    return make_case(seed), Local()


if __name__ == "__main__":
    main(*sys.argv[1:])
