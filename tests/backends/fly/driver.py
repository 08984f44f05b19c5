"""A driver that boots runners on the fake Fly, and waits to be killed: ``python -m … NAMES``."""

from __future__ import annotations

import asyncio
import sys

from tests.backends.fly.stage import SLEEPS, spec, started


async def main(names: list[str], reserve: int) -> None:
    options = {"image": SLEEPS, "reserve": reserve or None}
    async with started(spec("", options=options)) as (backend, said):
        await backend.boot([spec(name, options=options) for name in names])
        told = 0
        while True:
            for name, step in said.steps[told:]:
                print(step, name, flush=True)
            told = len(said.steps)
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[2:], int(sys.argv[1])))
