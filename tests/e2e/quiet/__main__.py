"""Play all ways to end x all that is held, and print what speaks.

``python -m tests.e2e.quiet [--holds a,b] [--ends c,d] [--python "-W default"]``. The exit code is 1
if anything has been said.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.quiet.play import ENDS, HOLDS, Played, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.quiet", description=__doc__)
    parser.add_argument("--holds", default=",".join(HOLDS))
    parser.add_argument("--ends", default=",".join(ENDS))
    parser.add_argument("--python", default="", help="options of Python, such as '-W default'")
    parser.add_argument("--at-once", type=int, default=2)
    chosen = parser.parse_args()
    cases = [(h, e) for e in chosen.ends.split(",") for h in chosen.holds.split(",")]

    def one(case: tuple[str, str]) -> Played:
        played = play(*case, options=chosen.python.split())
        if played.wrong:
            print(f"\n=== {played.hold} x {played.end}: {played.wrong}", flush=True)
        return played

    with ThreadPoolExecutor(chosen.at_once) as pool:
        everything = list(pool.map(one, cases))
    wrong = [played for played in everything if played.wrong]
    print(f"\n{len(everything)} cases, {len(wrong)} of which speak")
    for name, number in Counter(p.hold for p in wrong).most_common():
        print(f"{number:5} {name}")
    for name, number in Counter(p.end for p in wrong).most_common():
        print(f"{number:5} {name}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
