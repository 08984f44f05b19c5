"""Which call of a local runner runs alone, noted for its guard (runner, guard).

It costs a call that prints nothing a few millionths of a second: nothing is sent.
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
    """A few bytes that a runner writes and its guard reads: which call runs alone.

    Parameters
    ----------
    path : str
    write : bool
        Whether to make it.

    Raises
    ------
    OSError
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

    def tell(self, call: int, name: str) -> None:
        """This call runs alone; 0: none does."""
        begin, length = self._FORM.size, 0
        if call:
            text = name.encode(errors="replace")
            length = len(text)
            self._memory[begin : begin + length] = text
        self._number += 1
        self._FORM.pack_into(self._memory, 0, self._number, call, length)

    def read(self) -> Owner:
        """The call, and its name; ``(0, "")`` where there is none, or it changes just now."""
        begin = self._FORM.size
        number, call, length = self._FORM.unpack(self._memory[:begin])
        name = self._memory[begin : begin + length].decode(errors="replace")
        if self._FORM.unpack(self._memory[:begin])[0] != number:
            return NOBODY
        return (call, name) if call else NOBODY

    def close(self) -> None:
        self._memory.close()


def unread(descriptor: int) -> bool:
    """Whether something that was written to this pipe has not been read yet."""
    waiting = array.array("i", [0])
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, waiting)
    except OSError:
        return False
    return waiting[0] > 0
