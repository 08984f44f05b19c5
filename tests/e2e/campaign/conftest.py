"""What a campaign has done, in a few lines at its end."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

#: Cases that are played where nothing is said.
USUAL = {"local": 24, "kubernetes": 5, "outside": 5, "fly": 5}
#: By the end of the name of their tests.
_BACKENDS = {"pods": "kubernetes", "outside": "outside", "fly": "fly"}
_TALLY = pytest.StashKey[Counter[str]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" not in metafunc.fixturenames:
        return
    mine = _BACKENDS.get(metafunc.module.__name__.rpartition("_")[2], "local")
    number, first, backend = (
        metafunc.config.getoption(name)
        for name in ("campaign", "campaign_seed", "campaign_backend")
    )
    if backend is None and (number, first) != (None, None):
        backend = "local"
    if backend not in (None, mine):
        number = 0
    number = USUAL[mine] if number is None else number
    metafunc.parametrize("seed", range(first or 0, (first or 0) + number))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    # One of several processes that share the tests out hands its counts in.
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["campaign"] = dict(session.config.stash.get(_TALLY, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    counts = getattr(node, "workeroutput", {}).get("campaign", {})
    node.config.stash.setdefault(_TALLY, Counter()).update(counts)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Counter[str]:
    """Counts of the whole campaign, by what is counted."""
    return request.config.stash.setdefault(_TALLY, Counter())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    counts = config.stash.get(_TALLY, Counter())
    if counts:
        terminalreporter.section("campaign")
        terminalreporter.line(", ".join(f"{name}: {counts[name]}" for name in sorted(counts)))
