"""Text of others, made safe for a terminal; pure (all).

Calls, keys, names and what runners print come from whoever writes them. A terminal takes some
characters for orders: to clear the screen, to write to the clipboard, to show text backwards. All
text of others that may get to one goes through :func:`tame` or :func:`plain` first.
"""

from __future__ import annotations

import contextlib
import logging
import re

#: What begins with an escape character. Of a sequence that has not ended, all of it.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*(?:[@-~]|$)"
    r"|(?:\x1b[]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"
    r"|\x1b[ -/]*(?:[0-~]|$)"
)
#: Colours, and other ways to write.
_STYLE = re.compile(r"\x1b\[[0-9;:]*m")
#: Other controls of terminals, C0 and C1, and those of the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
#: The same and what ends a line, for what has to be in one.
_IN_LINE = re.compile(f"{_CONTROL.pattern[:-1]}\t\n\u2028\u2029]")


def tame(text: str) -> str:
    r"""Text that colours itself only, and does nothing else to the terminal.

    Newlines and tabs stay. Sequences that begin with an escape character are taken out, but for
    those that set colours; other controls, and what reverses text, are shown as Python writes them.

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
    r"""A name, or another text of one line: all controls in it are shown as Python writes them.

    Examples
    --------
    >>> plain("loss\x1b[2J\n")
    'loss\\x1b[2J\\n'
    """
    return _IN_LINE.sub(_visible, text)


def _visible(found: re.Match[str]) -> str:
    character = found[0]
    # A bell and a backspace say nothing, and are common in what programs print.
    return "" if character in "\x00\x07\x08\x0c\x7f" else repr(character)[1:-1]


class TameLines(logging.Filter):
    """Makes log lines safe for a terminal: they bear names of calls, and words of substrates."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Take what it says as it is shown."""
        # What cannot be put together is for the handlers to complain of.
        with contextlib.suppress(Exception):
            record.msg, record.args = tame(record.getMessage()), None
        return True


# Where anything of this package is imported that others' text goes through: on all its log lines.
logging.getLogger("dask_flame").addFilter(TameLines())
