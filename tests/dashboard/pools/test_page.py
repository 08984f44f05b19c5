"""The page /pools, in a real browser, shows what runners there are and what they do."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from bokeh.document import Document
from distributed import Client, Event
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_flame import Pool, Reports, on
from dask_flame.charts.colors import BAD
from dask_flame.core.budget import checked_budget
from dask_flame.dashboard.bar_rows import BarRows, _label
from dask_flame.dashboard.pools.cards import heads, why
from dask_flame.dashboard.pools.demand import Demand
from dask_flame.dashboard.pools.machines import INSTALL, LEVELS, Gauges
from dask_flame.dashboard.pools.page import PoolsBoard
from dask_flame.dashboard.pools.rows import Counts, WorkersAsPool, count, total
from dask_flame.dashboard.pools.timeline import DARK, kind_words, row_of
from dask_flame.dashboard.time_range import FAR, TimeRange
from dask_flame.history import events as log
from dask_flame.history.boots import Boot
from dask_flame.history.state import PoolSummary, RunnerSummary, Snapshot
from dask_flame.history.timeline import RunnerTimeline
from dask_flame.scaling.budget import Spending
from tests.support.browser_help import Page, cluster_of, get, url
from tests.support.examples import examples
from tests.support.waiting import wait_for

EVIL = "<img src=x onerror=alert(1)>"


def pool_of(**more: Any) -> PoolSummary:
    return PoolSummary(**{"name": "default", "min": 0, "max": 8, "concurrency": 1, **more})


def runner(name: str, state: str = "ready", busy: int = 0) -> RunnerSummary:
    return RunnerSummary(name, state, time.time(), busy)


# Words and numbers


@pytest.mark.unit
def test_runners_are_counted() -> None:
    runners = [
        runner("a", "booting"),
        runner("b", "ready"),
        runner("c", "ready", 2),
        runner("d", "ending", 1),
        runner("e", "draining", 2),
    ]
    counts = count(runners)
    assert counts == Counts(booting=1, busy=1, idle=1, ending=1, draining=1)
    assert (counts.ready, counts.asked) == (2, 3)


samples = st.lists(
    st.tuples(st.integers(0, 20), *[st.integers(0, 9)] * 5), max_size=8, unique_by=lambda s: s[0]
).map(sorted)


@pytest.mark.unit
@given(st.lists(samples, max_size=3))
def test_histories_add_up_at_every_moment(histories: list[list[Any]]) -> None:
    summed = total(histories)
    assert [s[0] for s in summed] == sorted({s[0] for h in histories for s in h})

    def at(history: list[Any], now: float) -> tuple[int, ...]:
        return next((s[1:] for s in reversed(history) if s[0] <= now), (0, 0, 0, 0, 0))

    for now in range(21):
        parts = [at(history, now) for history in histories]
        assert at(summed, now) == tuple(map(sum, zip((0, 0, 0, 0, 0), *parts, strict=True)))


@pytest.mark.process
def test_workers_are_shown_as_a_pool() -> None:
    with cluster_of(2, plugins=[Reports()]) as client:

        async def state(pool: WorkersAsPool) -> Snapshot:
            return pool()

        pool = WorkersAsPool(client.cluster.scheduler, interval=0)
        shown = client.cluster.sync(state, pool)
        (workers,) = shown.pools
        assert (workers.max, workers.concurrency, workers.demand) == (None, 2, 0)
        assert count(workers.runners) == Counts(booting=0, busy=0, idle=2, ending=0)
        assert [s[1:] for s in workers.history] == [(0, 0, 2, 0, 2)]
        # As long as nothing changes, one sample is enough.
        assert len(client.cluster.sync(state, pool).pools[0].history) == 1


@pytest.mark.unit
@pytest.mark.parametrize(
    ("pool", "n", "boots", "said", "bad"),
    [
        (pool_of(), Counts(0, 0, 2, 0), [], "", False),
        (pool_of(waiting=3), Counts(2, 0, 0, 0), [], "3 calls wait: 2 runners booting", False),
        (
            pool_of(waiting=1),
            Counts(0, 8, 0, 0),
            [],
            "1 call waits: as many runners as may be (max=8) are there",
            False,
        ),
        (
            pool_of(max=0, waiting=1),
            Counts(0, 0, 0, 0),
            [],
            "1 call waits: max=0; cluster.resize('default', max=…) raises it",
            True,
        ),
        (
            pool_of(waiting=1),
            Counts(1, 0, 0, 0),
            [Boot("r", "default", 0.0, trouble="no quota")],
            "1 boot held up: no quota",
            True,
        ),
        (
            pool_of(),
            Counts(0, 0, 0, 0),
            [Boot("r", "default", 0.0, ended="exit code 1\nmore", failed=True)],
            "the last boot failed: exit code 1",
            True,
        ),
        (
            pool_of(suspended="the last client has gone"),
            Counts(0, 0, 0, 0),
            [],
            "No runner is to be there: the last client has gone",
            False,
        ),
        (pool_of(max=None, waiting=2), Counts(0, 1, 0, 0), [], "", False),
    ],
)
def test_why_nothing_happens(
    pool: PoolSummary, n: Counts, boots: list[Boot], said: str, bad: bool
) -> None:
    assert why(pool, n, boots) == (said, bad)


@pytest.mark.unit
def test_the_budget_is_above_the_pools() -> None:
    budget = checked_budget("budget", "20 USD")

    def text(spent: float, rate: float = 0.0) -> str:
        return heads(Snapshot(0.0, [pool_of()], budget=Spending(budget, spent, rate)))

    assert "Budget" not in heads(Snapshot(0.0, [pool_of()]))
    assert "Budget: 5.00 USD of 20 USD (25 %) spent \N{MIDDLE DOT} at the present rate" in (
        calm := text(5, 0.001)
    )
    assert "the rest lasts 4 h 10 min" in calm
    assert "--flame-bad" not in calm.partition("</div>")[0]
    assert "--flame-bad" in text(16).partition("</div>")[0]
    assert "(110 %) spent; no runner boots, and calls that wait fail" in text(22, 1)
    assert "width:100.00%" in text(22)


@pytest.mark.unit
def test_an_idle_timeout_that_the_pool_finds_says_why() -> None:
    pool = pool_of(idle_timeout=240.0, idle_why="as long as a <boot> takes")
    card = heads(Snapshot(0.0, [pool]))
    assert 'title="as long as a &lt;boot&gt; takes">idle for 4 min 00 s (auto)</span>' in card


# What is sent


happenings = st.lists(
    st.tuples(
        st.sampled_from(["asked", "accepted", "up", "registered", "idle", "busy", "ended"]),
        st.sampled_from("abc"),
        st.sampled_from([0.0, 0.5, 1.0, 30.0]),
    ),
    max_size=30,
)


class Play:
    """Plays happenings to a record, as a cluster does."""

    def __init__(self) -> None:
        self.lives = RunnerTimeline(kept=8, changes=12)
        self.now = 1e9
        self._steps: dict[str, list[tuple[str, float]]] = {}
        self._asked: dict[str, float] = {}

    def __call__(self, what: str, name: str, later: float) -> None:
        self.now += later
        if what == "asked":
            if name not in self._asked:
                self._asked[name] = self.now
                self._steps[name] = []
                self.lives.asked([name], "default", self.now, "why")
        elif what in ("accepted", "up", "registered"):
            steps = self._steps.get(name)
            if steps is not None and what not in dict(steps):
                steps.append((what, self.now - self._asked[name]))
                self.lives.stepped(name, tuple(steps))
        elif what == "ended":
            self.lives.ended(name, self.now, "lost", "gone")
            self._asked.pop(name, None)
            self._steps.pop(name, None)
        else:
            self.lives.seen(name, what, self.now, f"call at {self.now}")


@pytest.mark.unit
@given(happenings)
def test_a_row_only_grows_unless_it_says_so(happenings: list[tuple[str, str, float]]) -> None:
    play = Play()
    before: dict[int, Any] = {}
    for happening in happenings:
        play(*happening)
        for life in play.lives:
            row = row_of(life)
            assert row.bars[0].left == life.changes[0].at
            lefts = [bar.left for bar in row.bars]
            assert lefts == sorted(lefts)
            was = before.get(life.number)
            if was is not None and was.stamp == row.stamp:
                assert list(row.bars[: len(was.bars) - 1]) == list(was.bars[:-1])
            before[life.number] = row


def columns(rows: BarRows, now: float) -> list[tuple[Any, ...]]:
    """What is drawn, in the order of the rows; all that has no end ends at the same time."""
    data = dict(rows.source.data)
    data["right"] = [min(right, now * 1e3 + FAR / 3) for right in data["right"]]
    return sorted(zip(*(data[name] for name in sorted(data)), strict=True), key=repr)


# The figures below are made once, as to make one takes longer than all else.


@functools.cache
def bar_rows(name: str) -> BarRows:
    return BarRows(TimeRange(int), name=name, colors={color: color for color in DARK})


def blank_bar_rows(name: str) -> BarRows:
    rows = bar_rows(name)
    rows.draw([], 1e9)
    assert not rows.source.data["y"]
    return rows


@functools.cache
def demand(name: str) -> Demand:
    return Demand(TimeRange(int))


def blank_demand(name: str) -> Demand:
    made = demand(name)
    made.draw([], [], 2e9)  # those of other pools are forgotten
    made.source.data = {name: [0, 0] for name in made.source.data}
    return made


@pytest.mark.unit
@settings(deadline=None, max_examples=examples(20))
@given(st.lists(happenings.map(tuple), max_size=5))
def test_what_was_sent_bit_by_bit_is_what_there_is(
    stretches: list[tuple[tuple[str, str, float], ...]],
) -> None:
    play, bit_by_bit = Play(), blank_bar_rows("a")
    for happenings in stretches:
        for happening in happenings:
            play(*happening)
        bit_by_bit.draw([row_of(life) for life in play.lives], play.now)
    whole = blank_bar_rows("b")
    rows = [row_of(life) for life in play.lives]
    whole.draw(rows, play.now)
    bit_by_bit.draw(rows, play.now)
    assert columns(bit_by_bit, play.now) == columns(whole, play.now)


@pytest.mark.unit
@settings(deadline=None, max_examples=examples(15))
@given(st.lists(st.lists(st.tuples(*[st.integers(0, 9)] * 5), max_size=4), max_size=5))
def test_the_history_grows_bit_by_bit(stretches: list[list[tuple[int, ...]]]) -> None:
    def plot(name: str, histories: list[Any]) -> Demand:
        made = blank_demand(name)
        for history in histories:
            made.draw([pool_of(history=history, concurrency=2)], [], 2e9)
        return made

    history: list[Any] = []
    histories = []
    for stretch in stretches:
        history = [*history, *((1e9 + len(history) + i, *s) for i, s in enumerate(stretch))]
        histories.append(history)
    bit_by_bit, whole = plot("a", histories).source.data, plot("b", [history]).source.data
    assert {n: list(v) for n, v in bit_by_bit.items()} == {n: list(v) for n, v in whole.items()}
    if history:
        # In runners, and the last holds until now.
        assert whole["demand"][-1] == -(-history[-1][1] // 2)
        assert whole["x"][-1] == 2e12


@pytest.mark.unit
def test_while_nothing_happens_next_to_nothing_is_sent() -> None:
    lives, now = RunnerTimeline(), time.time()
    lives.asked([f"r-{n}" for n in range(64)], "default", now - 60, "")
    for n in range(64):
        lives.seen(f"r-{n}", "busy", now - 50, "call")
    runners = [runner(f"r-{n}", busy=1) for n in range(64)]
    history = [(now - 60 + i, 64, 0, 64, 64, 64) for i in range(60)]
    events = [log.Event(now - i, "boot", "why", pool="default") for i in (9, 8)]
    pool = pool_of(runners=runners, history=history, max=64)

    reports = Reports()
    scheduler = SimpleNamespace(workers={}, aliases={}, plugins={reports.name: reports})
    reports.pools = lambda: Snapshot(now, [pool], events, lives, [])
    parts = ("heads", "runners", "demand", "machines", "boots")
    board = PoolsBoard(scheduler, WorkersAsPool(scheduler), Gauges(scheduler), parts)
    board.update()
    document = Document()
    document.add_root(board.root)
    sent: list[Any] = []
    document.on_change(lambda event: sent.append(event))

    def kinds() -> list[str]:
        return sorted({f"{type(e.model).__name__}.{e.attr}" for e in sent if hasattr(e, "attr")})

    board.update()
    assert kinds() in ([], ["ColumnDataSource.data"])  # where the last sample ends
    assert len(sent) <= 1
    sent.clear()
    now += 1
    board.update()
    assert len(sent) <= 8  # the range's ends, what covers the future in three plots, and that
    assert "HBar.left" not in kinds()
    lives.seen("r-7", "idle", now)
    sent.clear()
    board.update()
    assert len(sent) <= 3  # one bar's end, another bar
    assert len(board._timeline.rows.source.data["y"]) == 2 * 64 + 1


# In a real browser


DATA = "(name) => Bokeh.documents[0].get_model_by_name(name).data"


def read(page: Page, name: str) -> dict[str, list[Any]]:
    """A source's columns, in the browser."""
    found: dict[str, list[Any]] = page.read(
        f"""() => {{
          const data = Bokeh.documents[0].get_model_by_name("{name}").data;
          const columns = data instanceof Map ? [...data] : Object.entries(data);
          return Object.fromEntries(columns.map(([name, values]) => [name, Array.from(values)]));
        }}"""
    )
    return found


def states(page: Page) -> dict[str, list[str]]:
    """What each runner did, as its row shows it, boots left out."""
    data = read(page, "pools-lives")
    rows: dict[str, list[str]] = {}
    for row, what, _ in sorted(
        zip(data["row"], data["what"], data["left"], strict=True), key=lambda bar: bar[2]
    ):
        rows.setdefault(row, []).append(what)
    return {
        row: [what for what in does if not what.startswith("booting")] for row, does in rows.items()
    }


@pytest.mark.process
def test_the_navigation_and_the_list_of_plots_name_it() -> None:
    with cluster_of(plugins=[Reports()]) as client:
        plots = json.loads(get(client, "/individual-plots.json")).values()
        assert {"/individual-flame-runners", "/individual-flame-pools"} <= set(plots)
        for page in ("/status", "/pools"):
            text = get(client, page)
            # Its tab is on the pages of the one entry "Flame".
            assert text.count(">Pools</a>") == (page == "/pools")
            assert text.count(">Flame</a>") == 1
            assert text.count(">Flame Runners</a>") == text.count(">Flame Pools</a>") == 1


@pytest.mark.browser
def test_the_workers_of_any_cluster_are_runners(
    client: Client, visit: Callable[[str], Page]
) -> None:
    page = visit(url(client, "/pools"))
    page.shows("workers", "2 idle", "2 runners in view", "No pool decides over these workers.")
    assert "Boots" not in page.text()
    go = Event("go", client=client)
    call = client.submit(_hold, key="call-1")
    page.shows("1 busy")
    wait_for(lambda: sorted(map(tuple, states(page).values())) == [("idle",), ("idle", "busy")])
    go.set()
    call.result()
    page.shows("2 idle")
    # The history of it is that of every page.
    page.reload()
    page.shows("2 runners in view")
    wait_for(lambda: ["idle", "busy", "idle"] in states(page).values())


def _hold() -> None:
    Event("go").wait("60s")


@pytest.mark.browser
def test_before_the_first_runner(flame: Any, visit: Callable[[str], Page]) -> None:
    cluster, _ = flame(
        pools={"cpu": Pool(max=2), "gpu": Pool(max=1, gpus=1)}, dashboard_address="127.0.0.1:0"
    )
    page = visit(cluster.dashboard_link.replace("/status", "/pools"))
    page.shows(
        "No runner yet: a call makes one boot, for example client.submit(function, argument)",
        "or one of another pool with dask_flame.on('gpu'): …",
        "0..2 runners · 1 call each · idle for 60 s",
        "0..1 runner · 1 call each · 1 GPU each",
        "Nothing was decided yet.",
    )
    assert not any(states(page).values())


@pytest.mark.browser
def test_the_budget_and_the_idle_timeout_that_a_pool_finds(
    flame: Any, visit: Callable[[str], Page]
) -> None:
    cluster, client = flame(
        max=1,
        price=3600,
        budget="900 USD",
        idle_timeout="auto",
        idle_bounds=(0, "10m"),
        dashboard_address="127.0.0.1:0",
    )
    page = visit(cluster.dashboard_link.replace("/status", "/pools"))
    page.shows("Budget: 0.00 USD of 900 USD (0 %) spent", "idle for 60 s (auto)")
    assert client.submit(int, pure=False).result() == 0
    page.shows("as long as a boot takes", "1 runner in view")
    wait_for(lambda: not cluster.runners)
    used = cluster.cost().budget.spent  # no more from now on
    cluster.budget = f"{used / 0.505:.6f} USD"
    page.shows("USD (50 %) spent")
    assert page.read(FILLED) == pytest.approx(50.5, abs=0.1)
    calm = page.read(COLOR)
    cluster.budget = f"{used / 0.905:.6f} USD"
    page.shows("USD (90 %) spent")
    assert page.read(COLOR) != calm
    cluster.budget = f"{used / 1.255:.6f} USD"
    page.shows(
        "USD (125 %) spent; no runner boots, and calls that wait fail, until cluster.budget = … "
        "raises it",
        'budget="',
    )
    assert page.read(FILLED) == 100
    cluster.budget = None
    wait_for(lambda: "Budget:" not in page.text())


#: In the browser, in the shadow of the page's heads: the width of the bar in percent, and the color
#: of the text.
_FOUND = """
  const search = (root) => root.querySelector('.flame-budget')
    ?? [...root.querySelectorAll('*')].reduce(
      (found, each) => found ?? (each.shadowRoot && search(each.shadowRoot)), null);
  const budget = search(document);
"""
FILLED = f"""() => {{
  {_FOUND}
  return parseFloat([...budget.querySelectorAll('div')].at(-1).style.width);
}}"""
COLOR = f"() => {{ {_FOUND} return getComputedStyle(budget).color; }}"


@pytest.mark.browser
def test_the_life_of_real_runners(flame: Any, visit: Callable[[str], Page]) -> None:
    cluster, client = flame(
        pools={
            "cpu": Pool(max=2, idle_timeout="1s"),
            "gpu": Pool(max=1, gpus=1, idle_timeout="60s"),
            "bad": Pool(max=1, preload=["no_such_module"], boot_attempts=1),
        },
        dashboard_address="127.0.0.1:0",
    )
    page = visit(cluster.dashboard_link.replace("/status", "/pools") + "?theme=dark")
    go = Event("go", client=client)
    held = [client.submit(_hold, key=f"hold-{n}", pure=False) for n in range(2)]
    page.shows("2 busy", "demand 2")
    wait_for(lambda: [states(page).get(f"cpu-{n}", [])[-1:] for n in (1, 2)] == [["busy"]] * 2)
    booting = read(page, "pools-lives")["what"]
    assert {"booting, until accepted", "booting, until up", "booting, until registered"} <= {
        *booting
    }
    wait_for(lambda: {"hold-0", "hold-1"} <= set(read(page, "pools-lives")["note"]))
    notes = read(page, "pools-lives")["note"]
    assert any(note.startswith("demand of ") for note in notes)

    go.set()
    client.gather(held)
    wait_for(lambda: states(page)["cpu-1"][-3:] == ["busy", "idle", "ending"])
    assert "no call for idle_timeout=1 s" in read(page, "pools-lives")["note"]
    assert read(page, "pools-ends")["row"] == []

    with on("bad"):
        failed = client.submit(int, pure=False)
    failed.exception()
    wait_for(lambda: read(page, "pools-ends")["row"] == ["bad-1"])
    assert read(page, "pools-ends")["how"] == ["failed"]
    page.shows("the last boot failed: exit code 1")

    with on("gpu"):
        pid = client.submit(os.getpid, pure=False).result()
        # Nothing measures GPUs here.
        page.shows("GPUs", f"Of GPUs nothing is known: {INSTALL} where the runners are.")
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: set(read(page, "pools-ends")["how"]) == {"failed", "lost"})
    why = dict(zip(read(page, "pools-ends")["row"], read(page, "pools-ends")["why"], strict=True))
    assert "SIGKILL" in why["gpu-1"]
    page.shows("4 runners in view", "lost gpu gpu-1: killed by SIGKILL")
    assert page.read("() => document.documentElement.dataset.flameTheme") == "dark"
    shown = states(page)
    page.reload()
    wait_for(lambda: states(page) == shown)

    # One pool alone.
    page.read("() => { Bokeh.documents[0].get_model_by_name('pools-pool').value = 'gpu' }")
    page.shows("1 runner in view")
    wait_for(lambda: set(states(page)) == {"gpu-1"})
    # And of its events those that are troubles.
    page.read("() => { Bokeh.documents[0].get_model_by_name('pools-events-group').active = 3 }")
    wait_for(lambda: "registered" not in page.read(EVENTS), what="only troubles")
    assert "lost" in page.read(EVENTS)


EVENTS = """() => Bokeh.documents[0].get_model_by_name("pools-events").text"""


@pytest.fixture
def shown(client: Client) -> Iterator[dict[str, Any]]:
    """A state that the page shows; to be changed by the test."""
    state: dict[str, Any] = {
        "pools": [pool_of()],
        "events": [],
        "boots": [],
        "lives": RunnerTimeline(),
    }
    plugin = client.cluster.scheduler.plugins["flame-reports"]
    plugin.pools = lambda: Snapshot(time.time(), **state)
    yield state
    plugin.pools = None


@pytest.mark.browser
def test_nothing_in_names_is_markup(
    client: Client, visit: Callable[[str], Page], shown: dict[str, Any]
) -> None:
    now = time.time()
    lives = shown["lives"]
    names = [f"r{n}{EVIL}" for n in range(3)]
    lives.asked(names, f"a{EVIL}", now - 50, f"demand {EVIL}")
    lives.stepped(names[0], ((f"step {EVIL}", 2.0),))
    lives.seen(names[1], "busy", now - 40, f"call {EVIL}")
    lives.ended(names[2], now - 30, "lost", f"exit code {EVIL}")
    runners = [
        runner(names[0], "booting"),
        runner(names[1], busy=2),
        runner("r3"),
        runner("r4", "draining", 1),
        runner("r5", "ending"),
    ]
    history = [(now - 90 + i, i // 9, 1, i // 30, i // 45, 3) for i in range(90)]
    boots = [boot(1, (f"step {EVIL}", 1.0), ended=f"no {EVIL}", failed=True)]
    shown |= {
        "pools": [
            pool_of(
                name=f"a{EVIL}",
                concurrency=2,
                demand=7,
                waiting=3,
                runners=runners,
                history=history,
                gpus=2,
                runner_seconds=11_520.0,
                busy_seconds=2_880.0,
            ),
            pool_of(name="empty"),
        ],
        "events": [
            log.Event(now + i, f"boot{i}", f"why{i} {EVIL}", pool=f"a{EVIL}") for i in range(3)
        ],
        "boots": [replace(b, pool=f"a{EVIL}") for b in boots],
    }
    page = visit(url(client, "/pools"))
    page.shows(
        f"a{EVIL}",
        "0..8 runners · 2 calls each · 2 GPUs each",
        "1 busy",
        "1 idle",
        "1 booting",
        "1 draining",
        "1 ending",
        "demand 7, 3 waiting",
        "3 h 12 min of runners · 6 h 24 min of GPUs · busy 25 %",
        f"3 calls wait: the last boot failed: no {EVIL}",
        f"why2 {EVIL}",
        "3 runners in view",
    )
    text = page.text()
    assert text.index("boot2") < text.index("boot1") < text.index("boot0")
    data = read(page, "pools-lives")
    assert {"busy", f"booting, until step {EVIL}"} <= set(data["what"])
    assert f"call {EVIL}" in data["note"]

    def pointed(word: str, where: str) -> bool:
        page.point(where, names[1] if where == ROW else names[2])
        return word in page.text()

    wait_for(lambda: pointed(f"runner: {names[1]}", ROW))
    assert f"call {EVIL}" in page.text()
    wait_for(lambda: pointed(f"exit code {EVIL}", END))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "kind", "label"),
    [
        ("gpu-1", "", "gpu-1"),
        ("gpu-1", "A100, spot", "gpu-1 A100, spot"),
        ("gpu-12", "A100-SXM4-40GB", "gpu-12 A100-SXM4…"),
        ("a-very-long-runner-1", "A100", "…ry-long-runner-1"),
    ],
)
def test_a_row_has_as_much_of_its_kind_as_there_is_space_for(
    name: str, kind: str, label: str
) -> None:
    assert _label(name, kind) == label
    assert len(label) <= 17


@pytest.mark.unit
@given(st.lists(st.sampled_from(["N-A1-4", "N-A1-8", "N-H1", "H1, spot", "H1, on demand", ""])))
def test_kinds_are_short_and_differ(kinds: list[str]) -> None:
    lives = RunnerTimeline()
    for number, kind in enumerate(kinds):
        lives.asked([f"r-{number}"], "gpu", 0.0, "", kinds={f"r-{number}": kind})
    words = kind_words(lives)
    if len(set(kinds)) < 2:
        assert words == {}
    else:
        assert {kind for _, kind in words} == set(kinds)
        assert len(set(words.values())) == len(set(kinds))
        assert all(kind.endswith(word) for (_, kind), word in words.items())
        for begin in ("N-", "H1, "):
            assert not all(word.startswith(begin) for word in words.values())


@pytest.mark.browser
def test_the_kinds_of_a_mixed_pool_are_told_apart(
    client: Client, visit: Callable[[str], Page], shown: dict[str, Any]
) -> None:
    now = time.time()
    lives = shown["lives"]
    evil = f"A100{EVIL}"
    kinds = {"gpu-1": "H100, spot", "gpu-2": evil, "gpu-3": evil, "cpu-1": "on demand"}
    for name, kind in kinds.items():
        lives.asked([name], name[:3], now - 50, "demand", kinds={name: kind})
        lives.seen(name, "busy", now - 40, "call")
    runners = [replace(runner(name), kind=kind) for name, kind in kinds.items()]
    shown["pools"] = [
        pool_of(
            name="gpu",
            runners=runners[:3],
            runner_seconds=10_800.0,
            kinds={"H100, spot": 3_600.0, evil: 7_200.0},
            price={"H100": 4.0, evil: 2.0},
        ),
        pool_of(name="cpu", runners=runners[3:], kinds={"on demand": 60.0}, runner_seconds=60.0),
    ]
    page = visit(url(client, "/pools"))
    page.shows(
        "3 h 00 min of runners · busy 0 % · $8.00 so far",
        "H100, spot: 1 runner now · 1 h 00 min · $4.00",
        f"{evil}: 2 runners now · 2 h 00 min · $4.00",
    )
    rows = set(read(page, "pools-lives")["row"])
    assert rows == {"gpu-1, H100, spot", f"gpu-2, {evil}", f"gpu-3, {evil}", "cpu-1"}
    assert "on demand" not in page.text()


FIND = """
  const doc = Bokeh.documents[0];
  const find = (view) => view.model === figure ? view
    : (view.child_views ?? []).map(find).find((found) => found);
  const figure = doc.get_model_by_name("pools-lives-bars");
  const view = [...Bokeh.index.roots].map(find).find((found) => found);
  const box = view.canvas_view.el.getBoundingClientRect();
  const { x_scale, y_scale } = view.frame;
  const at = (x, y) => [box.x + x_scale.compute(x), box.y + y_scale.compute(y)];
"""
ROW = f"""(name) => {{{FIND}
  const data = doc.get_model_by_name("pools-lives").data;
  const i = Array.from(data.row).lastIndexOf(name);
  return at(data.left[i] + 5000, data.y[i]);
}}"""
END = f"""(name) => {{{FIND}
  const data = doc.get_model_by_name("pools-ends").data;
  const i = Array.from(data.row).indexOf(name);
  return at(data.x[i], data.y[i]);
}}"""


@pytest.mark.browser
@pytest.mark.parametrize("number", [1, 64, 500])
def test_one_and_many_fit(
    client: Client, visit: Callable[[str], Page], shown: dict[str, Any], number: int
) -> None:
    now, lives = time.time(), shown["lives"]
    names = [f"runner-{n}" for n in range(1, number + 1)]
    lives.asked(names, "default", now - 120, "demand")
    for i, name in enumerate(names):
        lives.stepped(name, (("accepted", 1.0), ("registered", 2.0)))
        lives.seen(name, "idle", now - 118)
        for k in range(10):
            lives.seen(name, ("busy", "idle")[k % 2], now - 100 + 8 * k + i % 5, "call")
    shown["pools"] = [pool_of(max=number, runners=[runner(name) for name in names])]
    page = visit(url(client, "/pools"))
    page.shows(f"{number} runner{'s' * (number > 1)} in view")
    wait_for(lambda: len(states(page)) == number)
    figure = "Bokeh.documents[0].get_model_by_name('pools-lives-bars')"
    room = page.read(f"() => {figure}.height") - 26
    assert room >= number * 1.1
    assert room <= 640
    named = len(page.read(f"() => [...{figure}.left[0].ticker.ticks]"))
    assert named >= 1
    assert named * 13 <= room
    assert page.read("() => document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.browser
def test_the_stretch_of_time_follows_now_until_it_is_zoomed(
    client: Client, visit: Callable[[str], Page], shown: dict[str, Any]
) -> None:
    now, lives = time.time(), shown["lives"]
    lives.asked(["old", "new"], "default", now - 1000, "")
    lives.seen("new", "idle", now - 900)
    lives.ended("old", now - 700, "ended", "no call")
    page = visit(url(client, "/pools"))
    page.shows("1 runner in view", "following now")
    span = """() => {
      const range = Bokeh.documents[0].get_model_by_name("pools-lives-bars").x_range;
      return [range.start, range.end];
    }"""
    start, end = page.read(span)
    assert end - start == pytest.approx(600_000)
    wait_for(lambda: page.read(span)[1] > end)
    choose = "() => { Bokeh.documents[0].get_model_by_name('pools-window').active = %d }"
    page.read(choose % 3)
    page.shows("2 runners in view")
    # All of the cluster's time, however much has passed since the test began, and a fiftieth more.
    start, end = page.read(span)
    assert end >= now * 1e3
    assert end - start == pytest.approx((end - (now - 1000) * 1e3) * 1.02, rel=0.01)
    page.read(
        f"""() => {{
          const range = Bokeh.documents[0].get_model_by_name("pools-lives-bars").x_range;
          range.setv({{start: {(now - 990) * 1e3}, end: {(now - 950) * 1e3}}});
        }}"""
    )
    page.shows("follow now")
    stays = page.read(span)
    lives.seen("new", "busy", time.time(), "call")
    wait_for(lambda: "busy" in states(page)["new"])
    assert page.read(span) == stays
    page.read(choose % 0)
    page.shows("following now", "1 runner in view")
    start, end = page.read(span)
    assert end - start == pytest.approx(60_000)


@pytest.mark.browser
def test_what_workers_measure(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/pools"))
    wait_for(lambda: set(read(page, "pools-machines")["row"]))
    page.shows("CPU: nothing")
    assert "GPU" not in page.text()
    assert set(read(page, "pools-machines")["color"]) <= set(LEVELS)

    async def measure(part: int) -> None:
        # As distributed.system_monitor does where nvidia-ml-py is there. A heartbeat would take
        # it away again, so it is told with each look.
        for ws in client.cluster.scheduler.workers.values():
            gpu = {"gpu_utilization": part, "gpu_memory_used": 2**30, "gpu-memory-total": 2**32}
            ws.metrics.update(gpu)

    def measured(words: str, part: int) -> bool:
        client.cluster.sync(measure, part)
        return words in read(page, "pools-machines")["what"]

    wait_for(lambda: measured("GPU 3 %", 3))
    wait_for(lambda: measured("GPU 97 %", 97))
    assert read(page, "pools-machines")["color"][-1] == list(LEVELS)[-2]
    page.read("() => { Bokeh.documents[0].get_model_by_name('pools-metric').active = 3 }")
    wait_for(lambda: measured("GPU memory: 1.00 GiB of 4.00 GiB", 97))


@pytest.mark.browser
def test_plots_alone(client: Client, visit: Callable[[str], Page]) -> None:
    page = visit(url(client, "/individual-flame-runners"))
    page.shows("2 runners in view")
    assert "Demand" not in page.text()
    page = visit(url(client, "/individual-flame-pools"))
    page.shows("workers", "Demand and plan")
    assert "in view" not in page.text()


BARS = """() => {
  const data = Bokeh.documents[0].get_model_by_name("flame-boots").data;
  return Array.from(data.y, (y, i) => [data.runner[i], data.left[i], data.right[i]]);
}"""
BAR = """(i) => {
  const doc = Bokeh.documents[0];
  const figure = doc.get_model_by_name("flame-boot-bars");
  const data = doc.get_model_by_name("flame-boots").data;
  const find = (view) => view.model === figure ? view
    : (view.child_views ?? []).map(find).find((found) => found);
  const view = [...Bokeh.index.roots].map(find).find((found) => found);
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.x + view.frame.x_scale.compute((data.left[i] + data.right[i]) / 2),
          box.y + view.frame.y_scale.compute(data.y[i])];
}"""


def boot(n: int, *steps: tuple[str, float], ended: str = "", failed: bool = False) -> Boot:
    lasted = 3.0 if ended else 0.0
    return Boot(f"runner-{n}", "default", time.time(), steps, ended, failed, lasted)


@pytest.mark.browser
def test_boots_are_bars_of_their_phases(client: Client, visit: Callable[[str], Page]) -> None:
    evil = "<b onclick=alert(1)>"
    shown: list[Any] = []
    pool = pool_of(max=64, history=[(time.time(), 0, 0, 0, 0, 0)])
    now = time.time()
    plugin = client.cluster.scheduler.plugins["flame-reports"]
    plugin.pools = lambda: Snapshot(now, [pool], [], boots=list(shown))
    page = visit(url(client, "/pools"))
    page.shows("Boots none yet")
    assert page.read(BARS) == []

    up = [("accepted", 0.5), (evil, 1.0), ("registered", 2.0), ("first call", 300.0)]
    shown += [
        boot(1, *up),
        boot(2, ("accepted", 0.25), ended=f"exit code 1 {evil}", failed=True),
        boot(3, ended="not needed"),
    ]
    wait_for(lambda: len(page.read(BARS)) == 7)
    # The newest is first, and what a boot did after its last step is in the bar as well.
    assert page.read(BARS) == [
        ["runner-3", 0, 3],
        ["runner-2", 0, 0.25],
        ["runner-2", 0.25, 3],
        *[["runner-1", a, b] for a, b in [(0, 0.5), (0.5, 1), (1, 2), (2, 300)]],
    ]
    page.shows("Boots median 2.000 s · 1 failed", f"{evil} 0.500", "registered 1.000")
    get = "() => Bokeh.documents[0].get_model_by_name"
    ends = page.read(f"{get}('flame-boot-ends').data")
    assert list(ends["y"]) == [0, 1]
    assert ends["color"][0] != ends["color"][1] == BAD
    # Boots are to be compared, not the wait for a first call.
    assert page.read(f"{get}('flame-boot-bars').x_range.end") == pytest.approx(3.18)

    def named() -> bool:
        page.point(BAR, 4)
        return f"runner: runner-1phase: until {evil}: 0.500 sboot: accepted 0.500 s" in page.text()

    wait_for(named)
    shown[:] = [boot(n, ("registered", 1.0)) for n in range(64)]
    wait_for(lambda: len(page.read(BARS)) == 64)
    assert page.read(f"{get}('flame-boot-bars').height") < 200
    # Without pools, nothing is known of boots.
    plugin.pools = None
    wait_for(lambda: "Boots" not in page.text())
