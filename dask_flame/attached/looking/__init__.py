"""Look inside a running Python process: stacks, memory, modules, processes, log (all places).

Each function looks at the process that calls it, and returns a frozen dataclass that can be sent
(:func:`dask_flame.attached.looking.wire.packed`) and shown, as text and as HTML. They need only the
standard library and psutil. Nothing is installed or started in the process before one of them is
called, and nothing stays afterwards.
"""

from __future__ import annotations
