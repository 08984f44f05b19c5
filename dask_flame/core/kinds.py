"""The kinds of runner that a pool may have, in order of preference; pure (driver, scheduler).

Some options of a backend may be lists in order of preference: ``gpu_kind=["H100", "A100"]``. Each
combination of their values is a kind. A runner has one kind, so a backend sees single values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from dask_flame.core import backend_options
from dask_flame.core.option_checks import number, shown, word, wrong
from dask_flame.errors import PoolError

_SEPARATOR = ", "


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of runner.

    Attributes
    ----------
    parts : tuple of str
        The texts of its values, in the order of the options: ``("A100", "spot")``.
    options : mapping of str to object
        The single value of each option that may be a list.
    """

    parts: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The name of the kind, such as ``"A100, spot"``; empty if its pool has no such options."""
        return _SEPARATOR.join(self.parts)


def kinds_of(options: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Return the kinds of runner for checked options of a pool, the preferred one first.

    There is always one. Of several options, the one that its backend declares last changes first:
    all values of it are tried before the next value of an earlier one. With ``gpu_kind=["H100",
    "A100"]`` and ``spot="prefer"``, an H100 that is not spot is preferred to an A100 that is.

    Examples
    --------
    >>> kinds = kinds_of({"gpu_kind": ("H100", "A100"), "spot": "prefer"})
    >>> [kind.text for kind in kinds]
    ['H100, spot', 'H100, on demand', 'A100, spot', 'A100, on demand']
    >>> kinds[0].options
    {'gpu_kind': 'H100', 'spot': True}
    """
    known = {name: backend_options.declared(name) for name in options}
    chosen = {name: o for name, o in known.items() if o is not None and o.preference}
    orders = [chosen[name].order(options[name]) for name in chosen]
    return tuple(
        Kind(
            tuple(
                str(o.words.get(value, value))
                for o, value in zip(chosen.values(), values, strict=True)
            ),
            dict(zip(chosen, values, strict=True)),
        )
        for values in product(*orders)
    )


#: The price of a runner per hour, or the prices of the kinds; None if it is unknown.
Price = float | Mapping[str, float] | None


def check_price(name: str, value: Any) -> float | dict[str, float]:
    """Check a price, or a mapping of kinds to prices; see :func:`price_of` for its keys."""
    if not isinstance(value, Mapping) or name.startswith("flame."):
        return number(name, value)
    try:
        prices = {_key(word(name, kind)): number(name, price) for kind, price in value.items()}
    except PoolError:
        prices = {}
    if not prices:
        raise wrong(name, value, "a number, or a mapping of kinds to numbers, above zero")
    return prices


def _key(kind: str) -> str:
    return _SEPARATOR.join(part.strip() for part in kind.split(","))


def price_of(price: Price, kind: str) -> float | None:
    """Return the price per hour of a runner of a kind; None if it is unknown.

    A key of a mapping is a kind, or some of its parts; the price with the most parts applies.

    Examples
    --------
    >>> prices = {"H100": 4.0, "A100": 2.2, "H100, spot": 1.5}
    >>> price_of(prices, "H100, spot"), price_of(prices, "A100, spot"), price_of(prices, "L4")
    (1.5, 2.2, None)
    """
    if not isinstance(price, Mapping):
        return price
    keys = _keys_for(price, kind)
    return price[keys[0]] if keys else None


def _keys_for(price: Mapping[str, float], kind: str) -> list[str]:
    """Return the keys that apply to a kind: one, none, or several if that is ambiguous."""
    parts = {kind, *kind.split(_SEPARATOR)}
    sizes = {key: len(key.split(_SEPARATOR)) for key in price}
    there = [key for key in price if key == kind or set(key.split(_SEPARATOR)) <= parts]
    most = max((sizes[key] for key in there), default=0)
    return [key for key in there if sizes[key] == most]


def check_priced(price: Price, kinds: tuple[Kind, ...]) -> None:
    """Check that a price applies to each kind of a pool.

    Raises
    ------
    PoolError
    """
    if not isinstance(price, Mapping):
        return
    if kinds == (Kind(),):
        amounts = set(price.values())
        raise PoolError(
            f"price={shown(price)} has prices by kind, and this pool has one kind of runner; write "
            f"price={_amount(amounts.pop()) if len(amounts) == 1 else _UNKNOWN}"
        )
    keys = {kind.text: _keys_for(price, kind.text) for kind in kinds}
    unclear = {kind: found for kind, found in keys.items() if len(found) != 1}
    if not unclear:
        return
    # Nobody knows these prices but the user: the line is no Python until they are filled in.
    lines = [f'"{key}": {_amount(value)}' for key, value in price.items()]
    lines += [f'"{kind}": {_UNKNOWN}' for kind in unclear]
    kind, found = next(iter(unclear.items()))
    why = "has no price"
    if found:
        of = [f'"{key}" ({_amount(price[key])})' for key in found]
        why = f"has {len(found)} prices, of {' and of '.join(of)}"
    more = f" (and {len(unclear) - 1} more)" if len(unclear) > 1 else ""
    raise PoolError(
        f'the kind "{kind}" {why}{more}; write price={{{", ".join(lines)}}} with a number in place '
        f"of each {_UNKNOWN}"
    )


#: In place of a price in a line to type.
_UNKNOWN = "\N{HORIZONTAL ELLIPSIS}"


def _amount(price: float) -> str:
    """Return a price as a number in Python, not rounded."""
    return repr(int(price)) if price == int(price) and price < 1e15 else repr(price)
