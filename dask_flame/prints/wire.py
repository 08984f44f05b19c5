"""Messages about prints between runners, scheduler and driver (all places).

From a runner, on Dask's stream::

    {"op": "flame-prints", "runner": "runner-3",
     "pieces": [[7, "rate=0.1", 1, "epoch 3: loss 0.2\\n"], [7, "rate=0.1", 0, ""]]}

A piece consists of the number of a call's execution on that runner, the call's short name, the
stream (1 or 2) and a text. With stream 0 the call has ended.
"""

from __future__ import annotations

#: Name of the scheduler plugin and of the worker plugin.
NAME = "flame-prints"
#: Operation with which a runner sends the output of its calls.
SAID = "flame-prints"
