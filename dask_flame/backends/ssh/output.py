"""The last part of the output of runners, which their agents send (driver)."""

from __future__ import annotations

from collections.abc import Collection

_KEPT_LOGS = 200
_KEPT_TEXT = 16_000


class Output:
    """The output of runners that live, and of some that have ended."""

    def __init__(self) -> None:
        self._text: dict[str, str] = {}

    def add(self, name: str, text: str) -> None:
        """Keep more output of a runner."""
        before = self._text.pop(name, "")
        self._text[name] = (before + text)[-_KEPT_TEXT:]
        while len(self._text) > _KEPT_LOGS:
            del self._text[next(iter(self._text))]

    def of(self, names: Collection[str]) -> dict[str, str]:
        """Return the output of runners, as far as there is any."""
        return {name: self._text[name] for name in names if name in self._text}
