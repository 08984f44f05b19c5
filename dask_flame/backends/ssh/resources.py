"""Find out what this host has for runners (host)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

#: Seconds for the answer of nvidia-smi, which loads the driver if nobody uses it.
_WITHIN = 30.0
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def cores() -> int:
    """Return the number of cores that this process may use, as ``nproc`` does."""
    with contextlib.suppress(AttributeError, OSError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Return the bytes of memory of this host; 0 if unknown."""
    with contextlib.suppress(ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def gpus() -> list[str]:
    """Return the numbers of the GPUs, in the order of their PCI buses.

    Those in ``CUDA_VISIBLE_DEVICES``, if the host sets it for this user; else those that
    ``nvidia-smi`` lists, or, without that program, those that the kernel's module shows.
    """
    named = os.environ.get(_VISIBLE)
    if named is not None:
        return [d.strip() for d in named.split(",") if d.strip() not in ("", "-1", "NoDevFiles")]
    program = shutil.which("nvidia-smi")
    if program is not None:
        words = [program, "--query-gpu=index", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=_WITHIN, check=True
            )
            return [line.strip() for line in done.stdout.splitlines() if line.strip().isdecimal()]
    found = [p.name for p in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", p.name)]
    return sorted((name.removeprefix("nvidia") for name in found), key=int)
