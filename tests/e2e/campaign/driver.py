"""A case in a process of its own, to be killed (driver): ``driver.py SEED FOLDER [pods]``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.e2e.campaign.case import make_case
from tests.e2e.campaign.judge import judge
from tests.e2e.campaign.play import play
from tests.e2e.campaign.pods import Pods
from tests.e2e.campaign.pods_case import make_pods_case


def main(seed: str, folder: str, where: str = "") -> None:
    """Play a case, print each phase when it comes into it, then what is wrong."""
    said: set[str] = set()

    def tell(phase: str) -> None:
        if phase not in said:
            said.add(phase)
            print(phase, flush=True)

    case = make_pods_case(int(seed)) if where else make_case(int(seed))
    played = play(case, Path(folder), tell, Pods() if where else None)
    wrong = judge(case, played)
    print("over", *wrong, sep="\n", flush=True)
    if wrong:
        print(*played.events, sep="\n", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(*sys.argv[1:])
