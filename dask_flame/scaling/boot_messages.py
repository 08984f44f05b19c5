"""Shorten boot messages that repeat earlier ones; no I/O, no clock."""

from __future__ import annotations

#: Shorter messages are not replaced inside longer ones: they may be common words.
_MIN_LENGTH = 40
_SEE_ABOVE = "… (see above)"


class BootMessages:
    """The reasons for delayed and failed boots already shown, by pool, until a runner registers."""

    def __init__(self) -> None:
        self._shown: dict[str, list[str]] = {}

    def shorten(self, pool: str, runner: str, text: str) -> str:
        """Return the text without its parts already shown; empty if it repeats a whole message.

        The name of the runner is ignored in the comparison.

        Parameters
        ----------
        pool, runner : str
        text : str

        Examples
        --------
        >>> messages = BootMessages()
        >>> messages.shorten("cpu", "cpu-1", "cpu-1 was refused: no room for cpu-1")
        'cpu-1 was refused: no room for cpu-1'
        >>> messages.shorten("cpu", "cpu-2", "cpu-2 was refused: no room for cpu-2")
        ''
        """
        shown = self._shown.setdefault(pool, [])
        plain = text.replace(runner, "\0") if runner else text
        if plain in shown:
            return ""
        for known in sorted(shown, key=len, reverse=True):
            if len(known) >= _MIN_LENGTH:
                text = text.replace(known.replace("\0", runner), _SEE_ABOVE)
        shown.append(plain)
        return text

    def forget(self, pool: str) -> None:
        """Forget the messages of this pool, so that later ones are shown in full."""
        self._shown.pop(pool, None)
