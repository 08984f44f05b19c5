"""Print the test command of the README, which CI runs.

It is the only line of the ``sh`` block below the marker ``<!-- .ci/run runs the next block. -->``,
wherever in the file this is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MARKER = "<!-- .ci/run runs the next block. -->"


def test_command(text: str) -> str:
    """Return the command below the marker.

    Raises
    ------
    ValueError
        The marker is not there exactly once, or no block of one line follows it.
    """
    if (times := text.count(MARKER)) != 1:
        raise ValueError(f"the line {MARKER} is there {times} times; write it once")
    _, after = text.split(MARKER)
    block = re.match(r"\s*```sh\n([^\n]+)\n```\n", after)
    if block is None:
        raise ValueError(f"below the line {MARKER} write a block of one line: ```sh, command, ```")
    return block[1]


if __name__ == "__main__":
    path = Path(sys.argv[1])
    try:
        print(test_command(path.read_text()))
    except ValueError as error:
        sys.exit(f"{path}: {error}")
