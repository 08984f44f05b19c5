"""Share with the supervisor which call of a local runner runs alone (runner, supervisor).

Shared memory is used because sending a message for each call would slow down calls that print
nothing; a write takes a few microseconds.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import struct
import termios

from dask_flame.prints.frames import LONGEST_NAME, NOBODY, Owner


class SoleCall:
    """Shared memory that a runner writes and its supervisor reads: the call that runs alone.

    Parameters
    ----------
    path : str
        File of the shared memory.
    write : bool
        Whether to create it and write to it.

    Raises
    ------
    OSError
        The file cannot be opened.
    """

    _FORM = struct.Struct("=QQH")

    def __init__(self, path: str, *, write: bool) -> None:
        size = self._FORM.size + 4 * LONGEST_NAME
        flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            if write:
                os.ftruncate(descriptor, size)
            access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
            self._memory = mmap.mmap(descriptor, size, access=access)
        finally:
            os.close(descriptor)
        self._number = 0

    def set(self, call: int, name: str) -> None:
        """Write the call that runs alone, or 0 if none does."""
        begin, length = self._FORM.size, 0
        if call:
            text = name.encode(errors="replace")
            length = len(text)
            self._memory[begin : begin + length] = text
        self._number += 1
        self._FORM.pack_into(self._memory, 0, self._number, call, length)

    def read(self) -> Owner:
        """Return the call and its name; ``(0, "")`` if there is none, or it is being changed."""
        begin = self._FORM.size
        number, call, length = self._FORM.unpack(self._memory[:begin])
        name = self._memory[begin : begin + length].decode(errors="replace")
        if self._FORM.unpack(self._memory[:begin])[0] != number:
            return NOBODY
        return (call, name) if call else NOBODY

    def close(self) -> None:
        self._memory.close()


def unread(descriptor: int) -> bool:
    """Return whether a pipe holds unread data."""
    waiting = array.array("i", [0])
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, waiting)
    except OSError:
        return False
    return waiting[0] > 0
