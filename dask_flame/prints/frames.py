"""Whose the bytes are that local runners write: marks in their output (runner, guard).

A runner's standard streams are a pipe that its guard reads. What Python code of a call prints goes
into it in frames that name the call; they are written at once, and no longer than what a pipe takes
at once, so that nothing else is ever inside of one. What is written beneath Python has no frame. If
one call alone runs then, it is that one's: the runner notes which (:mod:`.sole_call`) in a few
bytes of memory that the guard sees, and where that changes while something waits to be read, in the
pipe.

A frame begins with a word that the guard has made up for this runner, so that nothing that is
printed looks like one by accident.
"""

from __future__ import annotations

import select
from typing import NamedTuple

#: What is to be done with a piece: kept and shown, kept only, shown only.
BOTH, KEEP, SHOW = "b", "k", "s"
#: As BOTH, from a process that a call has forked, which knows of no limit.
FREE = "f"
#: The call prints no more. And: what was written before this without a frame is this call's, and
#: what follows is that of the call in the text.
END, CHANGE = "e", "m"

#: The number of an execution of a call, and the call's name.
Owner = tuple[int, str]
NOBODY: Owner = (0, "")

#: Characters of a call's name.
LONGEST_NAME = 96
_BEGIN, _TEXT = b"\x1e", b"\x1f"
#: Bytes within which a frame's text begins.
_HEAD = 64 + 4 * LONGEST_NAME


class Piece(NamedTuple):
    """Something that was printed.

    Attributes
    ----------
    kind : str
    stream : int
        1 or 2; 0 where nobody knows.
    call : int
        The runner's number of the execution of a call; 0: of none.
    name : str
        The call's short name.
    text : bytes
    """

    kind: str
    stream: int
    call: int
    name: str
    text: bytes


def short(name: str) -> str:
    """A call's name as it may stand before a line."""
    if name.isprintable() and len(name) <= LONGEST_NAME:
        return name  # as most are
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 2] + " …"


def beginning(word: bytes, kind: str, stream: int, call: int, name: str) -> bytes:
    """The first part of a frame, which is the same for all of a call's."""
    return b"%s%s%s%d %d %s%s" % (
        _BEGIN,
        word,
        kind.encode(),
        stream,
        call,
        name.encode(errors="replace"),
        _TEXT,
    )


def frames(beginning: bytes, text: bytes) -> list[bytes]:
    """The frames for a text, each to be written at once."""
    room = select.PIPE_BUF - len(beginning) - 8
    if len(text) <= room:
        return [b"%s%d%s%s" % (beginning, len(text), _TEXT, text)]
    made = []
    while text:
        end = min(room, len(text))
        # Not within a character.
        while 0 < end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1
        made.append(b"%s%d%s%s" % (beginning, end, _TEXT, text[:end]))
        text = text[end:]
    return made


class Unpacker:
    """Takes what a runner has written apart again (guard).

    Parameters
    ----------
    word : bytes
        What this runner's frames begin with.
    """

    def __init__(self, word: bytes) -> None:
        self._begin = _BEGIN + word
        self._rest = b""

    def add(self, chunk: bytes, owner: Owner = NOBODY) -> list[Piece]:
        """More was read; all that is whole by now, in order.

        Parameters
        ----------
        chunk : bytes
        owner : (int, str)
            Which call ran alone just before it was read. Where that changes while something waits
            to be read, there is a mark; so what has none before it is this call's.
        """
        data = self._rest + chunk
        pieces: list[Piece] = []
        bare = at = 0  # where what has no frame begins, and where to look on
        since = 0  # pieces whose owner is known
        while (found := data.find(self._begin, at)) >= 0:
            read = self._frame(data, found)
            if read is None:
                break  # the rest of it is yet to come
            piece, after = read
            if piece is None:
                at = found + len(self._begin)
                continue
            if found > bare:
                pieces.append(Piece(FREE, 0, 0, "", data[bare:found]))
            if piece.kind == CHANGE:
                _claim(pieces, since, (piece.call, piece.name))
                since, owner = len(pieces), _owner(piece.text)
            else:
                pieces.append(piece)
            bare = at = after
        end = found if found >= 0 else len(data) - _partial(data[bare:], self._begin)
        if end > bare:
            pieces.append(Piece(FREE, 0, 0, "", data[bare:end]))
        _claim(pieces, since, owner)
        self._rest = data[end:]
        return pieces

    def over(self) -> list[Piece]:
        """It writes no more; what is left."""
        rest, self._rest = self._rest, b""
        return [Piece(FREE, 0, 0, "", rest)] if rest else []

    def _frame(self, data: bytes, at: int) -> tuple[Piece | None, int] | None:
        """The frame that begins there, and where it ends; None if some of it is missing.

        Its piece is None if this is no frame.
        """
        begin = at + len(self._begin)
        named = data.find(_TEXT, begin, begin + _HEAD)
        if named < 0:
            return None if len(data) < begin + _HEAD else (None, 0)
        sized = data.find(_TEXT, named + 1, named + 9)
        if sized < 0:
            return None if len(data) < named + 9 else (None, 0)
        try:
            head, call, name = data[begin:named].decode(errors="replace").split(" ", 2)
            size = int(data[named + 1 : sized])
            kind, stream, number = head[0], int(head[1:]), int(call)
        except (ValueError, IndexError):
            return None, 0
        after = sized + 1 + size
        if len(data) < after:
            return None
        return Piece(kind, stream, number, name, data[sized + 1 : after]), after


def change(word: bytes, before: Owner, after: Owner) -> bytes:
    """The mark that another call runs alone from now on."""
    call, name = after
    text = b"%d %s" % (call, name.encode(errors="replace"))
    return frames(beginning(word, CHANGE, 0, *before), text)[0]


def _owner(text: bytes) -> Owner:
    call, _, name = text.decode(errors="replace").partition(" ")
    return (int(call), name) if call.isdigit() and call != "0" else NOBODY


def _claim(pieces: list[Piece], since: int, owner: Owner) -> None:
    """What has no frame is this call's."""
    for i in range(since, len(pieces)):
        if pieces[i].kind == FREE and pieces[i].stream == 0:
            pieces[i] = Piece(FREE, 0, *owner, pieces[i].text)


def _partial(data: bytes, word: bytes) -> int:
    """How many bytes at the end of this may be the beginning of a word."""
    for n in range(min(len(word) - 1, len(data)), 0, -1):
        if data.endswith(word[:n]):
            return n
    return 0
