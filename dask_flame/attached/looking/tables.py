"""Format what is found in a process, as text and as HTML; pure (all places)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape

from dask_flame.core.terminal_text import plain

# Lines and quiet text take the color of the page around them, light or dark.
_STYLE = """<style>
.flame-look { font-size: 13px; line-height: 1.45; max-width: 1100px; overflow-x: auto;
  font-family: var(--jp-ui-font-family, system-ui, -apple-system, "Segoe UI", sans-serif);
  color: var(--flame-ink, var(--jp-ui-font-color1, var(--vscode-foreground, inherit))) }
.flame-look p { margin: 0 0 6px }
.flame-look table { border-collapse: collapse; margin: 4px 0 8px; font-size: 12px }
.flame-look :is(td, th) { padding: 2px 12px 2px 0; text-align: left; vertical-align: top;
  background: none; border: 0; border-bottom: 1px solid rgba(128,128,128,.3); white-space: pre-wrap;
  overflow-wrap: break-word; font-variant-numeric: tabular-nums }
.flame-look td:last-child { overflow-wrap: anywhere }
.flame-look th { font-weight: 600; white-space: nowrap }
.flame-look :is(td, th).number { text-align: right; white-space: nowrap }
.flame-look .quiet { opacity: .7 }
.flame-look .bad { color: var(--flame-bad, #D55E00); font-weight: 600 }
.flame-look details { border-top: 1px solid rgba(128,128,128,.3); padding: 3px 0 }
.flame-look summary { cursor: pointer; overflow-wrap: anywhere }
.flame-look ol { margin: 2px 0 4px; padding-left: 20px; list-style: none }
.flame-look li { margin: 0; overflow-wrap: anywhere }
.flame-look code { background: none; color: inherit; padding: 0; white-space: pre-wrap;
  font: 12px/1.45 var(--jp-code-font-family, ui-monospace, Menlo, Consolas, monospace) }
.flame-look pre { margin: 0; background: none; color: inherit; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 12px/1.45 var(--jp-code-font-family, ui-monospace, monospace) }
</style>"""


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return aligned columns, without control characters that a terminal would interpret.

    Examples
    --------
    >>> print(text_table(["NAME", "MEMORY"], [["shop", "62 MiB"], ["a", "1 MiB"]]))
    NAME  MEMORY
    shop  62 MiB
    a     1 MiB
    """
    lines = [list(header), *([plain(word) for word in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def html_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()
) -> str:
    """Return a table as HTML.

    Parameters
    ----------
    header : sequence of str
    rows : iterable of sequences of str
    numbers : iterable of int
        The columns whose values are aligned at the right.
    """
    right = frozenset(numbers)

    def line(tag: str, words: Sequence[str]) -> str:
        cells = (
            f"<{tag}{' class=number' if i in right else ''}>{html(word)}</{tag}>"
            for i, word in enumerate(words)
        )
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', header)}</thead><tbody>{body}</tbody></table>"


def html(text: str) -> str:
    """Return a text of one line for HTML."""
    # A lone surrogate cannot be sent.
    return escape(plain(text).encode("utf-8", "replace").decode())


def framed(*parts: str) -> str:
    """Return parts of HTML as one element that looks right on a light and on a dark page."""
    return f"{_STYLE}<div class=flame-look>{''.join(parts)}</div>"


def clock(at: float) -> str:
    """Return a time of this day, in local time."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def counted(number: int, what: str) -> str:
    """Return a number of things.

    Examples
    --------
    >>> counted(1, "thread"), counted(3000, "thread")
    ('1 thread', '3,000 threads')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def shortened(text: str, most: int) -> str:
    """Return a text of limited length.

    Examples
    --------
    >>> shortened("abcdef", 4), shortened("abc", 4)
    ('abc…', 'abc')
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def size(number: float) -> str:
    """Return a number of bytes, in units that are the same in all rows of a table.

    Examples
    --------
    >>> size(175_920), size(62_914_560), size(999)
    ('176 kB', '62.9 MB', '999 B')
    """
    units = ("B", "kB", "MB", "GB", "TB")
    i = next((i for i in range(4) if number / 1000**i < 999.5), 4)
    number /= 1000**i
    digits = 1 if number < 99.95 and i > 1 else 0
    return f"{number:.{digits}f} {units[i]}"
