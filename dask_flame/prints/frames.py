"""Frames that attribute the output of a local runner to its calls (runner, supervisor).

The standard streams of a runner are a pipe to its supervisor. Output of Python code in a call is
written in frames that name the call. A frame is at most ``PIPE_BUF`` bytes, so that its write is
atomic and nothing else is ever inside of it. Output that bypasses Python has no frame. If only one
call is running, unframed output is attributed to it: the runner writes that call into shared memory
(:mod:`.sole_call`), and also into the pipe if it changes while the pipe has unread output.

A frame begins with a random word that the supervisor chose for the runner, so that printed text
does not look like a frame by accident.
"""

from __future__ import annotations

import select
from typing import NamedTuple

#: Kinds of pieces: keep and show, only keep, only show.
BOTH, KEEP, SHOW = "b", "k", "s"
#: Like BOTH, without a limit applied: unframed, or from a process that a call has forked.
FREE = "f"
#: The call has ended. And: unframed output before this belongs to this call, and unframed output
#: after it to the call in the text.
END, CHANGE = "e", "m"

#: Number of a call's execution, and name of the call.
Owner = tuple[int, str]
NOBODY: Owner = (0, "")

#: Maximum length of a call's name, in characters.
LONGEST_NAME = 96
_BEGIN, _TEXT = b"\x1e", b"\x1f"
#: Maximum size of a frame's head, in bytes.
_HEAD = 64 + 4 * LONGEST_NAME


class Piece(NamedTuple):
    """A piece of output.

    Attributes
    ----------
    kind : str
        Kind of the piece, such as `BOTH`.
    stream : int
        1 for standard output, 2 for standard error, 0 if unknown.
    call : int
        Number of the call's execution on the runner; 0 without a call.
    name : str
        Short name of the call.
    text : bytes
        The output.
    """

    kind: str
    stream: int
    call: int
    name: str
    text: bytes


def short(name: str) -> str:
    """Return a call's name, shortened for the prefix of a line."""
    if name.isprintable() and len(name) <= LONGEST_NAME:
        return name  # as most are
    name = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 2] + " …"


def beginning(word: bytes, kind: str, stream: int, call: int, name: str) -> bytes:
    """Return the first part of a frame, which is the same for all frames of a call.

    Parameters
    ----------
    word : bytes
        Word of the runner's frames.
    kind : str
        Kind of the piece, such as `BOTH`.
    stream : int
        1 or 2.
    call : int
        Number of the call's execution.
    name : str
        Short name of the call.

    Returns
    -------
    bytes
    """
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
    """Return the frames for a text, each small enough for an atomic write."""
    room = select.PIPE_BUF - len(beginning) - 8
    if len(text) <= room:
        return [b"%s%d%s%s" % (beginning, len(text), _TEXT, text)]
    made = []
    while text:
        end = min(room, len(text))
        # Do not split a character.
        while 0 < end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1
        made.append(b"%s%d%s%s" % (beginning, end, _TEXT, text[:end]))
        text = text[end:]
    return made


class Unpacker:
    """Splits the output of a runner into pieces (supervisor).

    Parameters
    ----------
    word : bytes
        Word at the beginning of the runner's frames.
    """

    def __init__(self, word: bytes) -> None:
        self._begin = _BEGIN + word
        self._rest = b""

    def add(self, chunk: bytes, owner: Owner = NOBODY) -> list[Piece]:
        """Return the pieces that are complete after this read, in order.

        Parameters
        ----------
        chunk : bytes
            Output that was read.
        owner : (int, str)
            Call that ran alone just before the read. Unframed output belongs to it, unless a mark
            in the output says otherwise.

        Returns
        -------
        list of Piece
        """
        data = self._rest + chunk
        pieces: list[Piece] = []
        bare = at = 0  # start of unframed output, and position to search from
        since = 0  # number of pieces whose owner is known
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
        """Return the remaining output, at the end of the runner's output."""
        rest, self._rest = self._rest, b""
        return [Piece(FREE, 0, 0, "", rest)] if rest else []

    def _frame(self, data: bytes, at: int) -> tuple[Piece | None, int] | None:
        """Return the frame at a position and its end, or None if it is incomplete.

        The frame is None if there is no valid frame at that position.
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
    """Return the mark that a different call runs alone from now on.

    Parameters
    ----------
    word : bytes
        Word of the runner's frames.
    before, after : (int, str)
        The call that ran alone until now, and the one that runs alone from now on.

    Returns
    -------
    bytes
    """
    call, name = after
    text = b"%d %s" % (call, name.encode(errors="replace"))
    return frames(beginning(word, CHANGE, 0, *before), text)[0]


def _owner(text: bytes) -> Owner:
    call, _, name = text.decode(errors="replace").partition(" ")
    return (int(call), name) if call.isdigit() and call != "0" else NOBODY


def _claim(pieces: list[Piece], since: int, owner: Owner) -> None:
    """Attribute the unframed pieces to a call."""
    for i in range(since, len(pieces)):
        if pieces[i].kind == FREE and pieces[i].stream == 0:
            pieces[i] = Piece(FREE, 0, *owner, pieces[i].text)


def _partial(data: bytes, word: bytes) -> int:
    """Return the length of the longest prefix of `word` at the end of `data`."""
    for n in range(min(len(word) - 1, len(data)), 0, -1):
        if data.endswith(word[:n]):
            return n
    return 0
