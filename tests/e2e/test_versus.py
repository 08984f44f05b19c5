"""The benchmark against others: its sums, and a short run of it over real processes."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.paths import ROOT

# Run from where it lies, as a script: what is beside it is imported by name.
sys.path.append(str(ROOT / "benchmarks"))
import versus
from versus_driver import scheduled
from versus_measures import CONTENDERS, MEASURES, Goal, Quantity, at_most, no_more_than, times_less
from versus_run import Run, RunError
from versus_table import Row, Sample, failures, number, rows, table, verdict

some = st.floats(0.001, 1e6)


def row(goal, *, failed=None, **values):
    found = {who: tuple(mine) for who, mine in values.items()}
    return Row("test", Quantity("q", "a thing", goal=goal), "a thing", found, failed or {})


@pytest.mark.unit
class TestGoals:
    @given(ours=st.lists(some, min_size=1), limit=some)
    def test_an_absolute_one_is_met_by_the_median(self, ours, limit):
        got = row(at_most(limit, "so much"), flame=ours, stock=[1e-9])
        assert got.bound == limit
        assert got.met == (statistics.median(ours) <= limit)
        assert verdict(got) == ("met" if got.met else "MISSED")

    @given(ours=some, other=some, times=st.floats(1.5, 100))
    def test_a_factor_is_what_the_other_takes_over_what_we_take(self, ours, other, times):
        assume(abs(other / ours / times - 1) > 1e-9)
        got = row(times_less(times), flame=[ours], stock=[other])
        assert got.met == (other / ours >= times)
        assert f"({other / ours:.1f}x)" in verdict(got)

    def test_the_best_of_the_others_counts(self):
        goal = Goal(1.0, ("stock", "ray", "loky"))
        assert row(goal, flame=[2], stock=[3], ray=[2.5], parsl=[1]).met
        assert not row(goal, flame=[2], stock=[3], ray=[1.5]).met

    def test_it_says_by_how_much(self):
        assert verdict(row(no_more_than(1.05, "stock"), flame=[3], stock=[2])) == "MISSED (1.50x)"
        assert verdict(row(times_less(4), flame=[1], stock=[5])) == "met (5.0x)"

    def test_there_may_be_nothing_to_compare_with(self):
        alone = row(no_more_than(1.05, "stock"), flame=[3], stock=[])
        assert alone.met is None
        assert verdict(alone) == "nothing to compare with"
        assert verdict(row(None, flame=[3])) == ""

    def test_one_that_failed_has_missed(self):
        assert row(at_most(1, "1"), flame=[], failed={"flame": 2}).met is False


@pytest.mark.unit
class TestSchedules:
    def test_boots_that_take_no_time(self):
        assert scheduled([0, 0, 0], 3, 5) == 5

    def test_calls_may_be_better_off_behind_others(self):
        assert scheduled([1, 20], 2, 5) == 11

    @given(
        up=st.lists(st.floats(0, 100), min_size=1, max_size=20),
        calls=st.integers(1, 40),
        seconds=st.floats(0.1, 10),
    )
    def test_bounds(self, up, calls, seconds):
        done = scheduled(up, calls, seconds)
        assert done >= min(up) + seconds - 1e-9
        assert done >= calls * seconds / len(up) - 1e-6
        assert done <= min(up) + calls * seconds + 1e-6


@pytest.mark.unit
class TestTable:
    def samples(self):
        found = [("flame", 1.0), ("flame", 3.0), ("flame", 8.0), ("stock", 40.0)]
        return [
            *(Sample("register64", who, 0, {"registered": took}) for who, took in found),
            Sample("register64", "stock", 1, error="Traceback\nTimeoutError: nothing"),
        ]

    def test_it_has_medians_and_failures(self):
        lines = rows(self.samples(), {"register64": {"runners": 7}})
        text = table(lines)
        assert "| 7 runners registered | s " in text
        assert "| 3.00 " in text
        assert "| 40.0 (1 of 2 FAILED) " in text
        assert "met (13.3x)" in text
        assert "Ray" not in text
        assert failures(self.samples()) == ["register64, plain Dask: TimeoutError: nothing"]

    def test_one_that_always_failed_is_there(self):
        lines = rows(self.samples()[-1:], {"register64": {"runners": 7}})
        assert "| FAILED " in table(lines)

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0.0123, "0.012"), (0.5, "0.50"), (12.34, "12.3"), (1234.5, "1,234"), (0, "0.000")],
    )
    def test_numbers_have_the_digits_that_count(self, value, text):
        assert number(value) == text

    def test_every_measure_can_be_labelled(self):
        for measure in MEASURES.values():
            assert "flame" in measure.contenders
            assert set(measure.contenders) <= CONTENDERS.keys()
            for short in (False, True):
                told = versus.told(measure, short=short, ml=3)
                assert all(q.label.format(**told) for q in measure.quantities)


@pytest.mark.process
@pytest.mark.slow
def test_a_short_run(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    only = "register64,cold,wave16,warm,map10k,report,kill"
    versus.main(["--short", "--only", only, "--json", "raw.json", "--picture", "new/picture.png"])
    text = capsys.readouterr().out
    found = json.loads(Path("raw.json").read_text())
    assert {s["measure"] for s in found["samples"]} == set(only.split(","))
    assert {s["contender"] for s in found["samples"]} == {"flame", "stock"}
    assert [s["error"] for s in found["samples"] if s["error"]] == []
    for name in only.split(","):
        for quantity in MEASURES[name].quantities:
            for who in ("flame", "stock"):
                took = [
                    s["values"][quantity.name]
                    for s in found["samples"]
                    if (s["measure"], s["contender"]) == (name, who)
                ]
                assert f"| {number(statistics.median(took))} " in text
    assert "load average" in text
    picture = Path("new/picture.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000

    versus.main(["--from", "raw.json", "--picture", "again.png"])
    assert capsys.readouterr().out == text
    assert Path("again.png").stat().st_size == len(picture)


@pytest.mark.process
def test_a_run_that_fails_says_why_and_leaves_nothing():
    with (
        Run("register64", "flame", {"runners": -1}, timeout=60) as run,
        pytest.raises(RunError, match="is not"),
    ):
        run.answer()


@pytest.mark.process
def test_a_run_that_takes_too_long_is_given_up():
    with (
        Run("cold", "stock", {"runners": 1}, timeout=0.01) as run,
        pytest.raises(RunError, match=r"nothing within 0\.01 s"),
    ):
        run.answer()


@pytest.mark.process
def test_one_that_is_not_installed_is_left_out_and_named(monkeypatch, capsys):
    monkeypatch.setattr(versus, "installed", lambda who: None)
    versus.show(versus.measured(["cold"], ["ray"], 1, short=True, ml=None), None)
    assert "Not installed, and so left out: Ray." in capsys.readouterr().out
