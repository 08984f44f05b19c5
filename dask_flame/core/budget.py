"""The budget of a cluster: an amount of money, or of runners' time (all places)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dask.utils import timedelta_sizes

from dask_flame.core import config
from dask_flame.core.option_checks import plain, shown, wrong
from dask_flame.core.pool import Pool
from dask_flame.errors import PoolError

_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_FIRST = re.compile(rf"({_NUMBER})\s*(\D.*)")
_LAST = re.compile(rf"([^\d.,\s]+)\s*({_NUMBER})")
#: Texts that Dask takes as times, and that may be months, millions or dollars here.
_UNCLEAR = frozenset(("m", "us", "ns"))
#: Seconds of each unit of time, in small letters.
_UNITS = {
    **{u.lower(): s for u, s in timedelta_sizes.items() if u.lower() not in _UNCLEAR},
    **dict.fromkeys(("sec", "secs"), 1),
    **dict.fromkeys(("min", "mins"), 60),
    **dict.fromkeys(("hr", "hrs"), 3600),
    **dict.fromkeys(("wk", "wks"), 604_800),
}
_TIME = re.compile(r"(?:runner[- ]\s*)?([a-z]+)", re.IGNORECASE)
#: Words and letters that are in use as the sign of a currency.
_SIGNS = frozenset(("kr", "zł", "Kč", "Ft", "Fr", "RM", "Rp", "лв"))
_ISO_4217 = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN "
    "BZD CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL "
    "GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF "
    "KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN "
    "MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD "
    "SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH "
    "UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG"
)
#: Codes of currencies.
_CODES = frozenset(_ISO_4217.split())
_SHOWN = {"runner-hours": 3600, "runner-minutes": 60, "runner-seconds": 1}
_MOST = 1e12
_WANTED = 'an amount with its unit, such as "20 USD", "$20" or "40 runner-hours"'
_NEITHER = (
    " (a unit is one of time, such as min, h or days, or a currency: a sign such as $, a code such "
    "as USD, or the flame.currency of the configuration)"
)


@dataclass(frozen=True, slots=True)
class Budget:
    """An amount that a cluster may spend.

    Attributes
    ----------
    amount : float
        In units of the currency, or in seconds of runners.
    currency : str
        A label, which is only shown: the prices of pools are in the same currency. Empty for the
        time of runners.

    Examples
    --------
    >>> str(checked_budget("budget", "20 USD")), str(checked_budget("budget", "90 min"))
    ('20 USD', '1.5 runner-hours')
    """

    amount: float
    currency: str = ""

    def __str__(self) -> str:
        if self.currency:
            return _with_label(f"{self.amount:,.12g}".rstrip("."), self.currency)
        unit, seconds = self._unit
        number = f"{self.amount / seconds:.12g}"
        return f"{number} {unit.removesuffix('s') if number == '1' else unit}"

    @property
    def _unit(self) -> tuple[str, int]:
        """The unit in which time is shown, and its seconds."""
        return next(((u, s) for u, s in _SHOWN.items() if self.amount >= s), ("runner-seconds", 1))

    @property
    def doubled(self) -> Budget:
        """Twice as much, for messages that show how to raise it."""
        return replace(self, amount=2 * self.amount)

    def said(self, amount: float) -> str:
        """Return the text of an amount beside this budget, in its units; time has no unit then."""
        if not self.currency:
            time = amount / self._unit[1]
            return f"{time:.4g}" if 0 < time < 1 else f"{time:,.2f}".rstrip("0").rstrip(".")
        number = f"{amount:,.2f}" if amount >= 1 or not amount else f"{amount:.4f}"
        return _with_label(number, self.currency)

    def counts(self, pool: Pool) -> bool:
        """Return whether the runners of a pool cost something of this budget."""
        return not self.currency or pool.price is not None


def _currency(label: str) -> str:
    """Return the currency that a label is; empty if it is none, such as a mistyped unit."""
    if label in _SIGNS or label == config.get("currency"):
        return label
    if label.upper() in _CODES:
        return label.upper()
    letters, sign = label[:-1], label[-1]
    prefix = not letters or (len(letters) <= 3 and letters.isascii() and letters.isupper())
    return label if prefix and unicodedata.category(sign) == "Sc" else ""


def _with_label(number: str, currency: str) -> str:
    return f"{number} {currency}" if currency.isalpha() else f"{currency}{number}"


def checked_budget(name: str, value: Any) -> Budget:
    """Check a budget: a number with a currency, or with a unit of time.

    Raises
    ------
    PoolError
    """
    if isinstance(value, Budget):
        return value
    text = plain(value)
    if not isinstance(text, str):
        raise wrong(name, value, _WANTED)
    text = text.strip()
    if found := _FIRST.fullmatch(text):
        number, label = found[1], found[2].strip()
    elif found := _LAST.fullmatch(text):
        label, number = found[1], found[2]
    else:
        raise wrong(name, value, _WANTED)
    amount = float(number.replace(",", ""))
    time = _TIME.fullmatch(label)
    if time and time[1].lower() in _UNITS:
        amount, label = amount * _UNITS[time[1].lower()], ""
    else:
        label = _currency(label)
        if not label:
            raise wrong(name, value, _WANTED + _NEITHER)
    if not 0 < amount <= _MOST:
        raise wrong(name, value, "an amount above zero, and not more than a million millions")
    return Budget(amount, label)


def check_prices(
    budget: Budget | None, pools: Mapping[str, Pool], *, name: str = "budget", runs: bool = False
) -> None:
    """Check that an amount of money can be spent: that some pool has a price.

    Parameters
    ----------
    budget : Budget or None
    pools : mapping of str to Pool
    name : str, default "budget"
        The option that the budget is from, or the setting.
    runs : bool, default False
        Whether the cluster runs, for the lines of the error.

    Raises
    ------
    PoolError
    """
    if budget is None or any(map(budget.counts, pools.values())):
        return
    first, time = next(iter(pools)), '"40 runner-hours"'
    if runs:
        of = "" if list(pools) == ["default"] else f"{first!r}, "
        lines = f"cluster.resize({of}price=2.5), cluster.budget = {time}, or cluster.budget = None"
    else:
        price = (
            "price=2.5" if list(pools) == ["default"] else f"pools={{{first!r}: Pool(price=2.5)}}"
        )
        lines = f"{price}, or budget={time}"
    where = ""
    if name.startswith("flame."):
        where = " in Dask's configuration"
        lines += f', or dask.config.set({{"{name}": None}}) for no limit'
    raise PoolError(
        f"{name}={shown(str(budget))}{where} is money, and no pool has a price; write the price of "
        f"one runner for an hour, such as {lines}"
    )
