"""The benchmark of cost: its ideal, its sums, and short runs of it over real processes."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import ROOT

# Run from where it lies, as a script: what is beside it is imported by name.
sys.path.append(str(ROOT / "benchmarks"))
import cost
from cost_account import Account, kept, restored
from cost_idle import Simulation, known
from cost_picture import draw
from cost_processes import PERIOD, Life
from cost_traces import Part, Trace, ideal, traces


def trace(*parts, **options):
    return Trace("test", parts, **{"max": 2, "idle": 1.0, **options})


@pytest.mark.unit
class TestIdeal:
    def test_calls_share_the_runners(self):
        found = ideal(trace(Part(((0, 1.0), (0, 2.0), (0, 3.0)))))
        assert found.makespan == 4  # the third begins when the first ends
        assert found.runners == 2
        assert found.paid == 4 + 2 + 2 * 1  # with a tail each

    def test_a_boot_comes_before_the_first_call_of_each_runner(self):
        found = ideal(trace(Part(((0, 1.0), (0, 1.0)))), boots=[0.5, 1.0])
        assert found.makespan == 2
        assert found.paid == 0.5 + 1.0 + 2 * 1.0 + 2 * 1

    def test_a_pause_is_not_waited_for(self):
        burst = ((0.0, 1.0),)
        short = ideal(trace(Part(burst), Part(burst, pause=0.5)))
        long = ideal(trace(Part(burst), Part(burst, pause=1.5)))
        assert short.makespan == long.makespan == 2
        assert (short.runners, short.paid) == (1, 2 + 0.5 + 1)  # kept through the pause
        assert (long.runners, long.paid) == (2, 2 + 2 * 1)

    def test_a_trickle_keeps_one_runner(self):
        calls = ((0, 0.5), (0, 0.5), (1.0, 0.5), (2.0, 0.5), (3.0, 0.5))
        found = ideal(trace(Part(calls)))
        assert found.runners == 2
        assert found.paid == (3.5 + 1) + (0.5 + 1)
        assert found.makespan == 3.5
        assert found.waiting == 4 * 0.5

    @given(
        calls=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=30),
        most=st.integers(1, 5),
        boot=st.integers(0, 3),
    )
    def test_it_is_a_schedule(self, calls, most, boot):
        asked = trace(Part(tuple(calls)), max=most)
        found = ideal(asked, [boot])
        first = min(at for at, _ in calls)
        assert found.waiting <= found.makespan
        longest = max(at + seconds for at, seconds in calls)
        assert found.makespan >= max(longest, first + boot + asked.busy / most)
        assert found.paid >= asked.busy + found.runners * (boot + asked.idle)
        assert len(found.calls) == len(calls)
        for moment, _ in found.calls:
            assert sum(begin <= moment < end for begin, end in found.calls) <= most

    def test_traces_survive_the_way_to_the_driver(self):
        for each in traces().values():
            assert Trace.from_dict(each.to_dict()) == each
            assert each.scaled(2).busy == pytest.approx(2 * each.busy)


def account(who="flame", late=0.0):
    """Two calls of 1 s at once and one after a pause, on runners that boot in 1 s."""
    asked = trace(Part(((0, 1.0), (0, 1.0))), Part(((0, 1.0),), pause=0.5))
    lives = (
        Life(1, 10, 14.5 + late, 11, 14.25, ((11, 12), (12.5, 13.5))),
        Life(2, 10, 13 + late, 11, None, ((11, 12),)),
        Life(3, 10, 10.5, None, None, ()),
    )
    waits = ((10, 12), (10, 12), (12.5, 13.5))
    return Account(asked, who, 10, lives, ((0, 2), (2.5, 3.5)), waits)


@pytest.mark.unit
class TestSums:
    def test_what_was_paid_is_split_in_four(self):
        got = account()
        assert got.paid == 4.5 + 3 + 0.5
        assert got.booting == 1 + 1 + 0.5  # one was never up
        assert got.working == 3
        assert got.ending == 0.25  # the other was not let go before it was gone
        assert got.idle == 0.5 + 0.75 + 1
        assert got.unused == 1

    def test_what_is_kept_is_shown_again(self):
        runs = [account(), account("stock", late=3)]
        assert restored(kept(runs)) == runs

    def test_ratios(self):
        got = account()
        assert got.best.makespan == 2
        assert got.makespan_ratio == 3 / 2
        assert got.waiting == got.makespan
        assert got.makespan_ratio_without_boots == 1
        assert got.over_work == 8 / 3
        assert got.over_tails == 8 / (3 + 0.5 + 2)
        assert got.over_tails_without_boots == 1

    def test_the_table_has_the_medians(self):
        runs = [account(), account(late=1), account(late=9), account("stock", late=3)]
        head, _, ours, stock = cost.table(runs, cost.COSTS).splitlines()
        column = [cell.strip() for cell in head.split("|")].index("paid")
        assert ours.split("|")[column].strip() == "10.0"
        assert stock.split("|")[column].strip() == "14.0"

    def test_the_verdicts_name_what_was_missed(self):
        runs = [account(), account("stock", late=3)]
        line = cost.verdicts(runs).splitlines()[-1]
        assert line.count("1.50 MISSED") == 1
        assert line.count("met") == 2
        assert line.count("1.00 same") == 2
        assert line.count("0.57 less") == 1


@pytest.mark.unit
class TestIdleTimeouts:
    def test_a_runner_is_paid_for_from_its_boot_to_its_end(self):
        asked = trace(Part(((0, 1.0),)), Part(((0, 1.0),), pause=5.0))
        kept = Simulation(asked, 2.0, 10.0).play()
        assert (kept.paid, kept.boots, kept.gaps) == (2 + 1 + 5 + 1 + 10, 1, [0, 5])
        ended = Simulation(asked, 2.0, 1.0).play()
        assert (ended.paid, ended.boots, ended.waited) == (2 * (2 + 1 + 1), 2, 2 * 2.0)
        assert known(asked, 2.0) == 2 + 1 + 2 + 1  # a boot is cheaper than the gap
        assert known(asked, 8.0) == 8 + 1 + 5 + 1

    @given(st.lists(st.floats(0, 50), min_size=1, max_size=30), st.floats(2, 20))
    def test_by_itself_it_costs_at_most_twice_as_much(self, pauses, boot):
        asked = trace(*(Part(((0, 1.0),), pause=pause) for pause in pauses), max=1)
        assert Simulation(asked, boot, "auto").play().paid <= 2 * known(asked, boot) + 1e-6

    def test_on_no_trace_is_it_as_bad_as_a_fixed_one_may_be(self):
        lines = cost.rows()
        found = cost.worst(lines)
        assert found["auto"] == min(found.values())
        long = [line for line in lines if line[1] in ("60 s", "240 s")]
        assert len(long) >= 8
        for line in long:
            assert float(line[-1].split()[0]) < 2


@pytest.mark.process  # matplotlib runs a program to find fonts
def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / "cost.png"
    draw([account(), account("stock", late=3)], path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.process
def test_no_two_texts_of_the_picture_overlap(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    drawn = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    long = [replace(account(who), trace=replace(account().trace, name=name)) for name in traces()
            for who in cost.WHO]  # fmt: skip
    draw(long, tmp_path / "cost.png")
    figure = drawn[0]
    try:
        figure.canvas.draw()
        texts = [
            text.get_window_extent()
            for axes in figure.axes
            for text in (axes.title, axes._left_title, axes._right_title, *axes.texts)
            if text.get_text()
        ]
    finally:
        monkeypatch.undo()
        pyplot.close(figure)
    assert len(texts) == 2 * len(traces())
    assert not [(a, b) for a, b in combinations(texts, 2) if a.overlaps(b)]


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("who", ["flame", "auto", "stock"])
def test_a_run_accounts_for_every_call_and_runner(who):
    asked = trace(Part(((0, 0.5), (0, 0.5))), Part(((0, 0.5), (0.2, 0.5)), pause=0.2), idle=0.5)
    got = cost.run(asked, who)
    assert got.lives
    assert sum(len(life.calls) for life in got.lives) == 4
    assert 2 <= got.working <= got.paid
    # A forked runner may have begun its first call before it is seen, which is late on a busy
    # machine.
    assert got.booting > -max(2.0, PERIOD) * len(got.lives)
    assert got.ending >= 0
    assert got.makespan >= got.best.makespan
    assert got.waiting >= got.best.waiting
    assert len({life.pid for life in got.lives}) == len(got.lives)
    for life in got.lives:
        assert life.end > life.begin
        assert life.registered is not None or not life.calls


@pytest.mark.process
def test_a_driver_that_fails_says_why():
    with pytest.raises(RuntimeError, match="max=-1 is not"):
        cost.run(trace(Part(((0, 1.0),)), max=-1), "flame")
