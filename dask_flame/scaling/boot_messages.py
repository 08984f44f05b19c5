"""What has been said of a pool's boots, so that it is said once, with no I/O and no clock."""

from __future__ import annotations

#: Shorter ones are no sentence that somebody would not want to read twice.
_LEAST = 40
_AGAIN = "… (see above)"


class Told:
    """The reasons for which boots were held up or have failed, by pool, until one comes up."""

    def __init__(self) -> None:
        self._said: dict[str, list[str]] = {}

    def shorten(self, pool: str, runner: str, text: str) -> str:
        """Return what is new of a reason: empty where all of it was said, of any runner.

        Examples
        --------
        >>> told = Told()
        >>> told.shorten("cpu", "cpu-1", "cpu-1 was refused: no room for cpu-1")
        'cpu-1 was refused: no room for cpu-1'
        >>> told.shorten("cpu", "cpu-2", "cpu-2 was refused: no room for cpu-2")
        ''
        """
        said = self._said.setdefault(pool, [])
        plain = text.replace(runner, "\0") if runner else text
        if plain in said:
            return ""
        for known in sorted(said, key=len, reverse=True):
            if len(known) >= _LEAST:
                text = text.replace(known.replace("\0", runner), _AGAIN)
        said.append(plain)
        return text

    def forget(self, pool: str) -> None:
        """What goes wrong with boots of this pool from now on is news."""
        self._said.pop(pool, None)
