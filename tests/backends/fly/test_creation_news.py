"""What is said while Fly limits the creation of machines."""

from __future__ import annotations

import pytest

from dask_flame.backends.fly.creation_news import CreationNews

pytestmark = pytest.mark.unit


class Said:
    def __init__(self, rate: float = 1.0) -> None:
        self.now = 0.0
        self.current: dict[str, str] = {}
        self.all: list[str] = []
        self.news = CreationNews(self.trouble, rate=rate, burst=3, clock=lambda: self.now)

    def trouble(self, name: str, why: str) -> None:
        self.current[name] = why
        if why not in ("", *self.all[-1:]):
            self.all.append(why)


def test_a_wave_says_how_far_it_has_come_every_few_seconds() -> None:
    said = Said()
    names = [f"r-{number}" for number in range(64)]
    for name in names:
        said.news.joined(name)
    for number, name in enumerate(names):
        said.now = max(0.0, number - 2.0)
        said.news.created(name)
        said.news.left(name)
        assert not said.current.get(name)
    assert said.all[0] == "creating 1/64, limited by Fly to one a second"
    assert "creating 23/64, limited by Fly to one a second" in said.all
    assert 8 < len(said.all) < 16
    assert not any(said.current.values())
    assert not said.news.waiting


def test_few_machines_say_nothing() -> None:
    said = Said()
    for name in "abc":
        said.news.joined(name)
    for name in "abc":
        said.news.created(name)
    assert not said.all


def test_a_refusal_is_no_creation_and_ends_the_trouble() -> None:
    said = Said(rate=5)
    for name in "abcdef":
        said.news.joined(name)
    said.news.left("a")
    assert set(said.all) == {"creating 0/6, limited by Fly to 5 a second"}
    for name in "bcdef":
        said.news.left(name)
    assert not any(said.current.values())


def test_the_next_wave_counts_anew() -> None:
    said = Said()
    for wave in range(2):
        for number in range(5):
            said.news.joined(f"{wave}-{number}")
        said.now += 10
        for number in range(5):
            said.news.created(f"{wave}-{number}")
    assert set(said.all) == {"creating 1/5, limited by Fly to one a second"}
