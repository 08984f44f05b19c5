"""Make text from others safe for a terminal; pure (all places).

The names and keys of calls, and what runners print, may contain control sequences of terminals:
to clear the screen, to write to the clipboard, to show text backwards. Any such text must pass
through :func:`tame` or :func:`plain` before it is printed.
"""

from __future__ import annotations

import contextlib
import logging
import re

#: Escape sequences; an unterminated one extends to the end of the text.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*(?:[@-~]|$)"
    r"|(?:\x1b[]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"
    r"|\x1b[ -/]*(?:[0-~]|$)"
)
#: Sequences for colors and other styles.
_STYLE = re.compile(r"\x1b\[[0-9;:]*m")
#: Other control characters, C0 and C1, and those for the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
#: The same, with line ends and tabs, for text on one line.
_IN_LINE = re.compile(f"{_CONTROL.pattern[:-1]}\t\n\u2028\u2029]")


def tame(text: str) -> str:
    r"""Return a text without control characters, except those for colors.

    Newlines and tabs stay. Other escape sequences are removed; other control characters, and those
    that reverse text, are shown as in Python's repr.

    Examples
    --------
    >>> tame("\x1b[2J\x1b]0;title\x07\x1b[31mred")
    '\x1b[31mred\x1b[0m'
    >>> tame("user\u202e txt.exe")
    'user\\u202e txt.exe'
    """
    if _CONTROL.search(text) is None:
        return text
    kept = _SEQUENCE.sub(lambda found: found[0] if _STYLE.fullmatch(found[0]) else "", text)
    parts = _STYLE.split(kept)
    styles = _STYLE.findall(kept)
    shown = [_CONTROL.sub(_visible, part) for part in parts]
    whole = "".join(part + style for part, style in zip(shown, [*styles, ""], strict=True))
    return f"{whole}\x1b[0m" if styles else whole


def plain(text: str) -> str:
    r"""Return a name, or another text of one line, with control characters as in Python's repr.

    Examples
    --------
    >>> plain("loss\x1b[2J\n")
    'loss\\x1b[2J\\n'
    """
    return _IN_LINE.sub(_visible, text)


def _visible(found: re.Match[str]) -> str:
    character = found[0]
    # These have no meaning as text, and are common in the output of programs.
    return "" if character in "\x00\x07\x08\x0c\x7f" else repr(character)[1:-1]


class TameLines(logging.Filter):
    """Make log lines safe for a terminal: they contain names of calls and texts of substrates."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Format the record, and replace its message."""
        # Leave records with wrong arguments to the handlers, which report them.
        with contextlib.suppress(Exception):
            record.msg, record.args = tame(record.getMessage()), None
        return True


# Attached here, so that any module that handles such text protects all log lines.
logging.getLogger("dask_flame").addFilter(TameLines())
