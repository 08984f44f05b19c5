"""What is said of prints between runners, scheduler and driver (all).

From a runner, on Dask's stream::

    {"op": "flame-prints", "runner": "runner-3",
     "pieces": [[7, "rate=0.1", 1, "epoch 3: loss 0.2\\n"], [7, "rate=0.1", 0, ""]]}

A piece is the number of an execution of a call on that runner, the call's short name, 1 or 2 for
the stream, and a text; where the stream is 0, the call prints no more.
"""

from __future__ import annotations

#: The name of the plugins, the scheduler's and the runners'.
NAME = "flame-prints"
#: The op with which a runner brings what its calls have printed.
SAID = "flame-prints"
