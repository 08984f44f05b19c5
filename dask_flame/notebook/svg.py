"""Draw curves and their ranking as SVG, light or dark like the page around it; pure (driver).

The picture is self-contained: it has no script, no font and no external resource.
"""

from __future__ import annotations

from base64 import b64encode
from html import escape
from typing import Any

import numpy as np

from dask_flame.charts.curves import FEW, Board, Curve, further, scaled, span
from dask_flame.charts.ranking import shown
from dask_flame.charts.ticks import log_ticks, tick, ticks
from dask_flame.reports.downsample import LEAST, thin

_WIDTH, _HEIGHT = 900, 380
#: Edges of the chart; the table is to the right of it.
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 532, 46, 340
_TABLE = 560
_ROWS, _ROW = 13, 21
#: Approximate number of points of all curves, and of each highlighted curve.
_POINTS, _STRONG = 6_000, 400
#: Maximum length of names in the table, and of the leader's name, which is bold.
_NAME, _BOLD_NAME = 20, 17

_DASH = {"solid": "", "dashed": "6 4", "dashdot": "7 3 1.5 3", "16 5": "16 5"}

_STYLE = """
:root { color-scheme: light dark }
.card { fill: #fff; stroke: #d5d9de } .ink { fill: #222 } .quiet { fill: #667 }
.rule { stroke: #e4e6ea } .halo { stroke: #fff; stroke-linejoin: round } .dot { fill: #fff }
.bad { fill: #b42318 } .back { stroke: #9aa2ad } .lead { fill: #f3f5f8 }
@media (prefers-color-scheme: dark) {
  .card { fill: #15181c; stroke: #3a4047 } .ink { fill: #e8eaed } .quiet { fill: #9aa3ad }
  .rule { stroke: #2b3036 } .halo { stroke: #15181c } .dot { fill: #15181c }
  .bad { fill: #ff8f7d } .back { stroke: #6d7681 } .lead { fill: #23282e }
}
text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums }
.b { font-weight: 600 } .r { text-anchor: end } .m { text-anchor: middle }
.title { font-size: 13.5px }
.line { fill: none; stroke-linejoin: round; stroke-linecap: round }
"""


def svg(board: Board) -> str:
    """Draw a board as SVG."""
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"',
        f' aria-label="{escape(_description(board))}">',
        f"<style>{_STYLE}{_colors(board)}</style>",
        f'<rect class="card" x=".5" y=".5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" rx="6"/>',
        _text(18, 26, board.metric or "curves", "ink b title"),
        _text(_WIDTH - 18, 26, board.title, "quiet r"),
    ]
    limits = span(board)
    if limits is None:
        parts.append(_empty(board))
    else:
        parts += [_chart(board, limits), _table(board)]
    return "".join([*parts, "</svg>"])


def html(board: Board, picture: str) -> str:
    """Return an image element for a picture of a board, which shrinks if there is less room.

    JupyterLab would crop an inline SVG that is wider than the cell, and not show an untrusted one.
    """
    data = b64encode(picture.encode()).decode()
    return (
        f'<img alt="{escape(_description(board))}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'style="max-width:100%;height:auto" src="data:image/svg+xml;base64,{data}">'
    )


def _description(board: Board) -> str:
    return "; ".join(filter(None, (board.title, board.headline)))


def _colors(board: Board) -> str:
    """Return CSS rules for the colors in use."""
    used = dict(sorted((curve.color, curve.dark) for curve in board.curves))
    light = "".join(_rule(color, color) for color in used)
    dark = "".join(_rule(color, other) for color, other in used.items())
    return f"{light}@media (prefers-color-scheme: dark) {{{dark}}}"


def _rule(name: str, color: str) -> str:
    return f".c{name[1:]}{{stroke:{color}}}.f{name[1:]}{{fill:{color}}}"


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def _empty(board: Board) -> str:
    middle = (_TOP + _BOTTOM) / 2
    said, hint = board.nothing
    return _text(_WIDTH / 2, middle - 8, said, "ink m title") + _text(
        _WIDTH / 2, middle + 14, hint, "quiet m"
    )


# The chart


class _Scale:
    """Maps steps and values to coordinates."""

    def __init__(self, limits: tuple[float, float, float, float], *, log: bool) -> None:
        self.log = log
        x0, x1, y0, y1 = limits
        self.x0, self.x1 = (x0, x1) if x1 > x0 else (x0 - 0.5, x1 + 0.5)
        room = (y1 - y0) * 0.05 or abs(y0) * 0.05 or 0.5
        self.y0, self.y1 = y0 - room, y1 + room

    def x(self, step: Any) -> Any:
        return _LEFT + (step - self.x0) / (self.x1 - self.x0) * (_RIGHT - _LEFT)

    def y(self, value: Any) -> Any:
        """Return the coordinate of a value; on a logarithmic axis pass its logarithm."""
        return _BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (_BOTTOM - _TOP)


def _chart(board: Board, limits: tuple[float, float, float, float]) -> str:
    scale = _Scale(limits, log=board.log)
    drawn = [curve for curve in board.curves if curve.last is not None]
    front = drawn if len(drawn) <= FEW else drawn[:FEW]
    behind = drawn[len(front) :]
    each = max(LEAST, 16, (_POINTS - _STRONG * len(front)) // max(1, len(behind)))
    parts = [_axes(scale)]
    # The leader is drawn last, on top.
    alpha = 0.5 if len(behind) < 50 else 0.25
    parts += [
        _stroke(_path(c, scale, min(each, _STRONG)), "back", 1, alpha, "solid")
        for c in reversed(behind)
    ]
    for curve in reversed(front):
        path = _path(curve, scale, _STRONG)
        leads = curve is board.leader
        if leads and len(drawn) > 1:
            parts.append(f'<path class="line halo" stroke-width="7" d="{path}"/>')
        width, alpha = (3.4, 1) if leads else (1.6, 0.85)
        parts.append(_stroke(path, f"c{curve.color[1:]}", width, alpha, curve.dash))
        parts.append(_end(curve, scale))
    if board.leader is not None:
        parts.append(_peak(board.leader, scale))
    return "".join(parts)


def _axes(scale: _Scale) -> str:
    along = [step for step in ticks(scale.x0, scale.x1, 6) if step == round(step)]
    if scale.log:
        up = log_ticks(scale.y0, scale.y1)
        labels = [10**t for t in up]
    else:
        up = labels = ticks(scale.y0, scale.y1, 5)
    parts = []
    for place, value in zip(up, labels, strict=True):
        y = scale.y(place)
        parts.append(f'<path class="rule" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>')
        written = f"{value:.3g}" if scale.log else tick(value, labels)
        parts.append(_text(_LEFT - 8, round(y + 4, 1), written, "quiet r"))
    for step in along:
        parts.append(_text(round(scale.x(step), 1), _BOTTOM + 18, tick(step, along), "quiet m"))
    parts.append(_text((_LEFT + _RIGHT) / 2, _BOTTOM + 34, "step", "quiet m"))
    return "".join(parts)


def _stroke(path: str, kind: str, width: float, alpha: float, dash: str) -> str:
    dashes = f' stroke-dasharray="{_DASH[dash]}"' if _DASH[dash] else ""
    opacity = f' stroke-opacity="{alpha:g}"' if alpha < 1 else ""
    return f'<path class="line {kind}" stroke-width="{width:g}"{opacity}{dashes} d="{path}"/>'


def _path(curve: Curve, scale: _Scale, limit: int) -> str:
    kept = thin(curve.values, limit)
    steps = curve.steps[kept]
    values = scaled(curve.values[kept], log=scale.log)
    xs, ys = scale.x(steps), scale.y(values)
    parts, pen = [], "M"
    for x, y in zip(xs, ys, strict=True):
        if np.isfinite(y):
            parts.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    # A path with one point is visible because line ends are round.
    path = "".join(parts)
    return path + "h0" if path.count("L") == 0 else path


def _end(curve: Curve, scale: _Scale) -> str:
    last = curve.last
    assert last is not None
    y = float(scaled(np.array([last[1]]), log=scale.log)[0])
    if not np.isfinite(y):
        return ""
    x, y = scale.x(last[0]), scale.y(y)
    color = f"c{curve.color[1:]}"
    return _mark(x, y, curve.call.state, color, f"f{curve.color[1:]}")


def _mark(x: float, y: float, state: str, stroke: str, fill: str) -> str:
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="3.6"'
    if state == "running":
        return f'<circle class="dot {stroke}" stroke-width="1.8" {place}/>'
    if state == "done":
        return f'<circle class="{fill}" {place}/>'
    cross = f"M{x - 3.5:.1f} {y - 3.5:.1f}l7 7m0-7l-7 7"
    return f'<path class="line {stroke}" stroke-width="2" d="{cross}"/>'


def _peak(leader: Curve, scale: _Scale) -> str:
    """Draw a ring around the best value, with the value as a label."""
    assert leader.best is not None
    assert leader.at is not None
    value = float(scaled(np.array([leader.best]), log=scale.log)[0])
    if not scale.y0 <= value <= scale.y1:
        return ""  # outside of the chart
    x, y = float(scale.x(leader.at)), float(scale.y(value))
    above = y - 12 if y - 24 > _TOP else y + 22
    side, place = ("r", x - 2) if x > _RIGHT - 60 else ("", x + 2)
    ring = (
        f'<circle fill="none" class="c{leader.color[1:]}" stroke-width="1.6" '
        f'cx="{x:.1f}" cy="{y:.1f}" r="7.5"/>'
    )
    where, words = f'x="{place:.1f}" y="{above:.1f}"', f">{shown(leader.best)}</text>"
    # A halo keeps the label legible on top of curves.
    around = f'<text {where} stroke-width="4" class="halo b {side}"{words}'
    label = f'<text {where} class="ink b {side}"{words}'
    return ring + around + label


# The table


def _table(board: Board) -> str:
    right = _WIDTH - 18
    best, step = right - 108, right - 58
    y = _TOP + 8
    parts = [
        _text(_TABLE + 22, y, "call", "quiet"),
        _text(best, y, "best", "quiet r"),
        _text(step, y, "at step", "quiet r"),
        _text(right, y, "last", "quiet r"),
    ]
    rows = board.curves[:_ROWS] if len(board.curves) <= _ROWS else board.curves[: _ROWS - 1]
    for place, curve in enumerate(rows):
        y += _ROW
        leads = curve is board.leader
        if leads:
            parts.append(
                f'<rect class="lead" x="{_TABLE - 6}" y="{y - 15}" rx="3" '
                f'width="{right - _TABLE + 12}" height="{_ROW}"/>'
            )
        weight = "ink b" if leads else "ink"
        colored = len(board.curves) <= FEW or place < FEW
        parts += [
            _swatch(y - 4, curve, colored=colored),
            _text(_TABLE + 22, y, _short(curve.name, _BOLD_NAME if leads else _NAME), weight),
            _text(best, y, _number(curve.best), f"{weight} r"),
            _text(step, y, "" if curve.at is None else _count(curve.at), "quiet r"),
            _text(right, y, *_last(curve)),
        ]
    if more := further(board.curves[len(rows) :]):
        parts.append(_text(_TABLE + 22, y + _ROW, more, "quiet"))
    return "".join(parts)


def _swatch(y: float, curve: Curve, *, colored: bool) -> str:
    kind = f"c{curve.color[1:]}" if colored else "back"
    fill = f"f{curve.color[1:]}" if colored else "quiet"
    path = f"M{_TABLE} {y}h15"
    mark = _mark(_TABLE + 7.5, y, curve.call.state, kind, fill)
    return _stroke(path, kind, 2.4, 1, curve.dash if colored else "solid") + mark


def _last(curve: Curve) -> tuple[str, str]:
    """Return the text of the last column: the last value, or the state of a call that failed."""
    if curve.call.state in ("failed", "cancelled", "lost"):
        return curve.call.outcome, "bad r"
    return _number(curve.latest), "bad r" if curve.diverged else "quiet r"


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 8]}…{name[-7:]}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _count(step: int) -> str:
    return f"{step:,}" if step < 10**6 else f"{step:.2g}"
