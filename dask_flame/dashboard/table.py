"""The calls in a table, best first (scheduler)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bokeh.models import Div

from dask_flame.dashboard.look import BAD, INK, QUIET, RULE, Palette
from dask_flame.dashboard.ranking import NOTHING, Ranked, shown
from dask_flame.dashboard.theme import FULL_WIDTH
from dask_flame.reports import CallReports

#: Further metrics that get a column of their own, beside the chosen one.
_OTHERS = 3
#: Calls that are listed; the curves show the others too.
_ROWS = 200

_STYLE = f"""
<style>
 table {{ width: 100%; border-collapse: collapse; font-size: 13px; color: {INK} }}
 th {{ position: sticky; top: 0; background: #FAFAFA; font-weight: normal; color: {QUIET};
  box-shadow: inset 0 -1px {RULE} }}
 th, td {{ text-align: right; padding: 3px 8px; white-space: nowrap;
  font-variant-numeric: tabular-nums }}
 td {{ border-bottom: 1px solid #EEE; max-width: 260px; overflow: hidden;
  text-overflow: ellipsis }}
 .text {{ text-align: left }}
 .first td {{ font-weight: 600 }}
 .bad {{ color: {BAD} }}
</style>"""


class Table:
    """A ranked table of calls.

    Parameters
    ----------
    height : int
        Most pixels; a longer table scrolls.

    Attributes
    ----------
    root : bokeh.models.Div
    """

    def __init__(self, palette: Palette, *, height: int, **sizing: Any) -> None:
        self._palette = palette
        # The element that scrolls stays when its text changes, and so where it was scrolled to.
        self.root = Div(
            name="flame-ranking",
            styles={"overflow-y": "auto", "max-height": f"{height}px"},
            stylesheets=[FULL_WIDTH],
            **sizing,
        )

    def draw(
        self,
        rows: Sequence[Ranked],
        metric: str,
        metrics: Sequence[str],
        names: Mapping[Any, str],
    ) -> None:
        """Show these ranked calls, with the chosen metric before the others."""
        others = [name for name in metrics if name != metric][:_OTHERS]
        heads = ["step", f"best {metric}", "at step", *(f"last {m}" for m in (metric, *others))]
        head = "".join(
            [
                "<th>#</th>",
                *(f'<th class="text">{word}</th>' for word in ("call", "runner", "state")),
                *(f"<th>{escape(word)}</th>" for word in heads),
            ]
        )
        body = "".join(
            self._row(n, row, metric, others, names[row.call.key])
            for n, row in enumerate(rows[:_ROWS], 1)
        )
        more = f"<p>and {len(rows) - _ROWS:,} more</p>" if len(rows) > _ROWS else ""
        text = f"{_STYLE}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
        if self.root.text != text:
            self.root.text = text

    def _row(self, n: int, row: Ranked, metric: str, others: Sequence[str], name: str) -> str:
        call = row.call
        colour = self._palette.colour(call.runner)
        state = call.state if call.attempt == 1 else f"{call.state}, attempt {call.attempt}"
        bad = call.state in ("failed", "cancelled", "lost")
        numbers = [
            f"{call.series[metric].steps[-1]:,}" if metric in call.series else NOTHING,
            shown(row.best),
            NOTHING if row.at is None else f"{row.at:,}",
            *(_last(call, other) for other in (metric, *others)),
        ]
        return "".join(
            [
                f'<tr class="{"first" if n == 1 and row.best is not None else ""}">',
                f"<td>{'' if row.best is None else n}</td>",
                f'<td class="text" title="{escape(str(call.key))}">',
                f'<span style="color:{colour}">&#9632;</span> {escape(name)}</td>',
                f'<td class="text">{escape(call.runner)}</td>',
                f'<td class="text{" bad" if bad else ""}">{state}</td>',
                *(f"<td>{number}</td>" for number in numbers),
                "</tr>",
            ]
        )


def _last(call: CallReports, metric: str) -> str:
    return shown(call.series[metric].values[-1] if metric in call.series else None)
