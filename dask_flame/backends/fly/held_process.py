"""Run a program until the standard input closes: ``python -m … PROGRAM ARGUMENT…``.

A process that is killed cannot end its children. This one notices its parent's death, because the
pipe closes, and ends the program.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

#: Seconds that the program may take to end by itself.
_GRACE = 2.0


def main(arguments: list[str]) -> int:
    """Run a program, and return its exit code."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        program = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(error, file=sys.stderr)
        return 127
    threading.Thread(target=_end_with_input, args=[program], daemon=True).start()
    return program.wait()


def _end_with_input(program: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    program.terminate()
    try:
        program.wait(_GRACE)
    except subprocess.TimeoutExpired:
        program.kill()


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]) & 0xFF)
