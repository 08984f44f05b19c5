"""Arguments of a call as columns of a table: names and plain values; without Dask (all places).

Like :mod:`dask_flame.core.argument_text`, this asks nothing slow or with side effects of an
argument, and never shows a value whose name or look marks it as a secret.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from dask_flame.core.argument_text import ONE, fields_of, named_arguments, value_text
from dask_flame.core.redaction import ELSE, secret

#: Maximum number of parameters of a call, and nesting of dicts and dataclasses.
MOST, DEPTH = 50, 4
#: Types of most arguments; they have no items.
_PLAIN = frozenset({bool, int, float, str, type(None)})
#: Largest whole number that JavaScript and JSON readers keep exactly.
_EXACT = 2**53


def parameters(
    function: Any,
    args: Iterable[Any],
    kwargs: Mapping[Any, Any],
    resolve: Callable[[Any], Any] | None = None,
    *,
    hide_random: bool = True,
) -> dict[str, bool | int | float | str | None]:
    """Return the arguments of a call by name, with the items of containers as ``"model.layers"``.

    Items of dicts, dataclasses, named tuples, :class:`types.SimpleNamespace` and
    :class:`argparse.Namespace` become parameters. If such a container is the only argument, its
    items have their own names, without its name before them.

    Parameters
    ----------
    function : object
        The function called; a ``functools.partial`` is unwrapped.
    args : iterable
    kwargs : mapping
    resolve : callable, optional
        Takes an argument, or an item of one, and returns the value to use in its place.
    hide_random : bool, default True
        Whether to treat random-looking texts as secrets.

    Returns
    -------
    dict
        At most `MOST` parameters. Numbers, bools, None and short texts are kept; other values are
        texts of at most 40 characters. Empty on any error: this function never raises.

    Examples
    --------
    >>> parameters(lambda config, seed: None, ({"rate": 0.1, "model": {"layers": 4}},), {"seed": 3})
    {'config.rate': 0.1, 'config.model.layers': 4, 'seed': 3}
    >>> parameters(lambda config: None, ({"rate": 0.1, "token": "s3cret"},), {})
    {'rate': 0.1, 'token': '…'}
    """
    try:
        given = [
            (name or f"argument {i + 1}", meant, value)
            for i, (name, meant, value) in enumerate(named_arguments(function, args, kwargs))
        ]
        use = resolve or _same
        first = use(given[0][2]) if len(given) == 1 else None
        alone = type(first) not in _PLAIN and bool(fields_of(first))
        pairs = (
            pair
            for name, meant, value in given
            for pair in _flat("" if alone else name, meant, value, use, hide_random, 0)
        )
        return dict(islice(pairs, MOST))
    except Exception:
        # The objects may be of any kind, and may change during the loop.
        return {}


def _flat(
    name: str,
    meant: str,
    value: Any,
    resolve: Callable[[Any], Any],
    hide_random: bool,
    depth: int,
) -> Iterator[tuple[str, bool | int | float | str | None]]:
    value = resolve(value)
    if secret(meant, value):
        yield name, ELSE
        return
    plain = type(value) in _PLAIN or depth >= DEPTH
    inside = None if plain else fields_of(value)
    if inside:
        for item, held in islice(inside.items(), MOST):
            full = f"{name}.{item}" if name else item
            yield from _flat(full[: 2 * ONE], item, held, resolve, hide_random, depth + 1)
    else:
        yield name, _plain(value, meant, hide_random)


def _plain(value: Any, meant: str, hide_random: bool) -> bool | int | float | str | None:
    kind = type(value)
    if value is None or kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is int and abs(value) <= _EXACT:
        return int(value)
    if kind is float:
        # Other readers of JSON know no NaN.
        return float(value) if math.isfinite(value) else str(value)
    if (module := kind.__module__.partition(".")[0]) == "numpy" and getattr(value, "ndim", 1) == 0:
        return _plain(value.item(), meant, hide_random)
    text = value_text(value, meant=meant, hide_random=hide_random)
    if kind is str or module == "pathlib":
        quote = text[:1]
        # A text stands alone in its column, so that it needs no quotation marks.
        return text[1:-1] if quote in "'\"" and text.endswith(quote) else text.lstrip("'\"")
    return text


def _same(value: Any) -> Any:
    return value
