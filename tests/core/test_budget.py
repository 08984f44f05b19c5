"""A budget: which texts are one, and how it is shown."""

from __future__ import annotations

import dask.config
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_flame import FlameCluster, Pool, PoolError
from dask_flame.core.budget import Budget, check_prices, checked_budget
from dask_flame.core.settings import configured

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "amount", "currency", "shown"),
    [
        ("20 USD", 20, "USD", "20 USD"),
        ("20USD", 20, "USD", "20 USD"),
        ("USD 20", 20, "USD", "20 USD"),
        ("$20", 20, "$", "$20"),
        ("20 $", 20, "$", "$20"),
        (" € 1,234.50 ", 1234.5, "€", "€1,234.5"),
        ("A$5", 5, "A$", "A$5"),
        ("200 kr", 200, "kr", "200 kr"),
        (".5 EUR", 0.5, "EUR", "0.5 EUR"),
        ("40 runner-hours", 144_000, "", "40 runner-hours"),
        ("1 runner-hour", 3600, "", "1 runner-hour"),
        ("40 runner hours", 144_000, "", "40 runner-hours"),
        ("40 h", 144_000, "", "40 runner-hours"),
        ("40h", 144_000, "", "40 runner-hours"),
        ("2 Days", 172_800, "", "48 runner-hours"),
        ("90 min", 5400, "", "1.5 runner-hours"),
        ("90 runner-seconds", 90, "", "1.5 runner-minutes"),
        ("0.5 s", 0.5, "", "0.5 runner-seconds"),
        ("10 mins", 600, "", "10 runner-minutes"),
        ("10 secs", 10, "", "10 runner-seconds"),
        ("3 hrs", 10_800, "", "3 runner-hours"),
        ("2 weeks", 1_209_600, "", "336 runner-hours"),
        ("2 w", 1_209_600, "", "336 runner-hours"),
        ("3 runner-days", 259_200, "", "72 runner-hours"),
        ("500 ms", 0.5, "", "0.5 runner-seconds"),
        ("20 usd", 20, "USD", "20 USD"),
        ("eur 20", 20, "EUR", "20 EUR"),
        ("20 US$", 20, "US$", "US$20"),
        ("1,000 ¥", 1000, "¥", "¥1,000"),
        ("20 zł", 20, "zł", "20 zł"),
    ],
)
def test_an_amount_with_its_unit(text: str, amount: float, currency: str, shown: str) -> None:
    budget = checked_budget("budget", text)
    assert budget == Budget(amount, currency)
    assert str(budget) == shown


@pytest.mark.parametrize(
    "wrong",
    [
        *(20, 20.0, True, "20", "", "USD", "-20 USD", "20 m", "20 USD EUR", "1,23 USD", "1e3 USD"),
        *("0 USD", "0 h", "inf USD", "nan h", "20 %20", "20.5.5 USD", "9999999999999 USD"),
        ["20 USD"],
    ],
)
def test_anything_else_is_refused_with_a_line_that_works(wrong: object) -> None:
    with pytest.raises(
        PoolError, match=r"(?m)^budget=.* is not an amount .*write budget=\"20 USD\"$"
    ):
        checked_budget("budget", wrong)


@pytest.mark.parametrize(
    "mistyped",
    [
        *("3 gpu", "3 GPU", "20 %", "$-20", "10 fortnights", "3 runners", "20 US", "20 bucks"),
        *("20 ABC", "20 credits", "5 K€$", "20 dollars", "20 runner", "3 runner-gpus", "5 ab$"),
    ],
)
def test_a_mistyped_unit_is_no_currency(mistyped: str) -> None:
    with pytest.raises(PoolError) as caught:
        checked_budget("budget", mistyped)
    said = str(caught.value)
    assert said.startswith(f"budget={mistyped!r} is not an amount with its unit")
    assert "a code such as USD, or the flame.currency of the configuration" in said
    assert said.endswith('; write budget="20 USD"')


def test_the_currency_of_the_configuration_is_one() -> None:
    with dask.config.set({"flame.currency": "credits"}):
        assert checked_budget("budget", "20 credits") == Budget(20, "credits")
        assert str(checked_budget("budget", "credits 20")) == "20 credits"
        assert checked_budget("budget", "$20") == Budget(20, "$")


@pytest.mark.parametrize(
    ("budget", "seconds", "said"),
    [
        ("3 s", 3.15, "3.15"),
        ("40 h", 3600, "1"),
        ("40 h", 150_000, "41.67"),
        ("40 h", 18, "0.005"),
        ("40 h", 0, "0"),
        ("5000 h", 4_320_000, "1,200"),
    ],
)
def test_an_amount_of_time_is_in_the_units_of_the_budget(
    budget: str, seconds: float, said: str
) -> None:
    assert checked_budget("budget", budget).said(seconds) == said


@given(
    st.builds(
        Budget,
        st.floats(0.001, 1e11).map(lambda amount: float(f"{amount:.6g}")),
        st.sampled_from(["", "USD", "$", "€", "kr", "R$"]),
    )
)
def test_what_is_shown_can_be_typed(budget: Budget) -> None:
    typed = checked_budget("budget", str(budget))
    assert typed.currency == budget.currency
    assert typed.amount == pytest.approx(budget.amount, rel=1e-9)
    assert checked_budget("budget", budget) is budget
    assert budget.doubled.amount == 2 * budget.amount


@given(st.text(max_size=12) | st.from_regex(r"[0-9., ]{1,6}[a-zA-Z$€ -]{0,14}", fullmatch=True))
def test_it_is_a_budget_or_an_error(text: str) -> None:
    try:
        budget = checked_budget("budget", text)
    except PoolError:
        return
    assert budget.amount > 0
    assert checked_budget("budget", str(budget)).currency == budget.currency


def test_money_needs_a_price() -> None:
    money, time = checked_budget("budget", "20 USD"), checked_budget("budget", "40 h")
    free, priced = Pool(max=1), Pool(max=1, price=2)
    line = r"write the price of one runner for an hour, such as price=2.5, or budget=\"40 runner-h"
    with pytest.raises(PoolError, match=line):
        check_prices(money, {"default": free})
    with pytest.raises(PoolError, match=r"such as pools=\{'cpu': Pool\(price=2.5\)\}"):
        check_prices(money, {"cpu": free, "gpu": free})
    check_prices(time, {"default": free})
    check_prices(None, {"default": free})
    check_prices(money, {"cpu": free, "gpu": priced})
    assert (money.counts(free), money.counts(priced), time.counts(free)) == (False, True, True)


def test_money_of_the_configuration_names_the_setting_and_how_to_switch_it_off() -> None:
    with (
        dask.config.set({"flame.budget": "20 USD"}),
        pytest.raises(PoolError) as caught,
    ):
        FlameCluster(budget=None)
    assert str(caught.value) == (
        "flame.budget='20 USD' in Dask's configuration is money, and no pool has a price; write "
        'the price of one runner for an hour, such as price=2.5, or budget="40 runner-hours", '
        'or dask.config.set({"flame.budget": None}) for no limit'
    )
    # The lines work. A cluster that is made in the block keeps its budget; nothing starts here.
    with dask.config.set({"flame.budget": "20 USD"}):
        check_prices(configured("budget"), {"default": Pool(price=2.5)}, name="flame.budget")
        with dask.config.set({"flame.budget": None}):
            assert configured("budget") is None


def test_a_running_cluster_is_told_the_lines_for_it() -> None:
    money, free = checked_budget("budget", "20 USD"), Pool(max=1)
    with pytest.raises(PoolError) as caught:
        check_prices(money, {"default": free}, runs=True)
    assert str(caught.value).endswith(
        'such as cluster.resize(price=2.5), cluster.budget = "40 runner-hours", or '
        "cluster.budget = None"
    )
    with pytest.raises(PoolError, match=r"such as cluster\.resize\('cpu', price=2\.5\), "):
        check_prices(money, {"cpu": free, "gpu": free}, runs=True)


def test_a_cluster_refuses_it_before_anything_starts() -> None:
    with pytest.raises(PoolError, match="budget='20 USD' is money, and no pool has a price"):
        FlameCluster(budget="20 USD")
    with pytest.raises(PoolError, match='budget=20 is not an amount with its unit, such as "20 U'):
        FlameCluster(budget=20)  # type: ignore[arg-type]
    with (
        dask.config.set({"flame.budget": "a lot"}),
        pytest.raises(PoolError, match=r'dask.config.set\(\{"flame.budget": "20 USD"\}\)'),
    ):
        FlameCluster()
    for make in (Pool, lambda **options: FlameCluster(pools={"a": Pool()}, **options)):
        with pytest.raises(PoolError, match="budget"):
            make(budget="20")
