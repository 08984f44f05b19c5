"""The frames of a call that has failed, with the values of their variables as text (all places)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dask_flame.attached.looking.tables import clock, framed, html, html_table, text_table
from dask_flame.attached.looking.values import Line
from dask_flame.core.terminal_text import plain


@dataclass(frozen=True)
class Frame:
    """One frame of a failed call.

    Attributes
    ----------
    line : Line
        Where it was.
    locals : dict of str to str
        Its variables as text: shortened, and without secrets.
    """

    line: Line
    locals: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Failure:
    """A call that has failed.

    Attributes
    ----------
    call : str
    runner : str
    error : str
    at : float
        Unix time, in seconds.
    frames : tuple of Frame
        The outermost comes first.
    """

    call: str
    runner: str
    error: str
    at: float
    frames: tuple[Frame, ...]

    @property
    def title(self) -> str:
        return f"{self.call} has failed on {self.runner} at {clock(self.at)}: {self.error}"

    def __repr__(self) -> str:
        parts = [plain(self.title)]
        for i, frame in enumerate(self.frames):
            parts += ["", f"[{i}]", str(frame.line)]
            if frame.locals:
                rows = [[f"      {name}", value] for name, value in frame.locals.items()]
                parts.append(text_table(["      VARIABLE", "VALUE"], rows))
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        return framed(*self.parts())

    def parts(self) -> Iterator[str]:
        """Yield the parts of the same as HTML."""
        yield f"<p><b>{html(self.title)}</b></p>"
        for i, frame in enumerate(self.frames):
            line = frame.line
            opened = " open" if i == len(self.frames) - 1 else ""
            where = f"{html(line.function)}, {html(line.file)}:{line.line}"
            table = html_table(["variable", "value"], [list(item) for item in frame.locals.items()])
            yield (
                f"<details{opened}><summary>[{i}] <code>{html(line.source) or '…'}</code> "
                f"<span class=quiet>{where}</span></summary>{table}</details>"
            )
