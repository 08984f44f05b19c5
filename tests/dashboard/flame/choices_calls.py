"""What test_choices.py calls on runners, without the imports of its tests (runner)."""

from __future__ import annotations

from distributed import Event

from dask_flame import report


def fails(reports: bool) -> None:
    if reports:
        report(loss=1.0)
    raise ValueError("too large")


def many() -> None:
    for step in range(20_000):
        report(step=step, loss=1 / (step + 1))


def three(i: int) -> None:
    for step in range(4):
        report(step=step, loss=1 + i + step, accuracy=1 / (1 + i + step), speed=i)


def dies(i: int) -> None:
    report(step=0, loss=0.1 if i == 0 else 1.0 + i)
    if i == 0:
        raise ValueError("too good to be true")


def held(i: int) -> None:
    report(step=0, loss=1.0 + i)
    Event("go").wait(60)
