"""Write who attaches and what they run into the application's log (application)."""

from __future__ import annotations

import contextlib
import logging
import sys

from dask_flame.core.redaction import veiled

#: Level of the entries, so that Python's default configuration shows them.
LEVEL = logging.WARNING
#: Maximum number of characters of a cell's source.
_MOST_SOURCE = 2_000

logger = logging.getLogger("dask_flame.attach")


def command() -> list[str]:
    """Return the command line of this process, without what looks like a secret."""
    words = [str(word) for word in getattr(sys, "orig_argv", sys.argv)]
    # Together, because a secret may follow its option as a word of its own.
    text = " ".join(words)
    shown = veiled(text, random=False)
    return words if shown == text else shown.split(" ")


class Log:
    """The entries of one attachment.

    Parameters
    ----------
    application : str
    who : str
        User, process and program of the notebook.
    to : logging.Logger or None
        None: nothing is written.
    """

    def __init__(self, application: str, who: str, to: logging.Logger | None = logger) -> None:
        self._application = application
        self._who = who
        self._to = to

    def note(self, kind: str, text: str, source: str | None = None) -> None:
        """Write an entry.

        Parameters
        ----------
        kind : str
            ``attach``, ``cell``, ``value``, ``detach`` or ``refused``; an attribute of the record,
            ``flame_attach``.
        text : str
        source : str, optional
            Source of a cell; it is bounded, and what looks like a secret is hidden.
        """
        if self._to is None:
            return
        if source is not None:
            shown = veiled(source[:_MOST_SOURCE], random=False)
            more = f"… ({len(source):,} characters)" if len(source) > _MOST_SOURCE else ""
            text = f"{text}: {shown!r}{more}"
        with contextlib.suppress(Exception):  # a handler of the application may raise
            self._to.log(
                LEVEL,
                "%s: %s %s",
                self._application,
                self._who,
                text,
                extra={"flame_attach": kind},
            )
