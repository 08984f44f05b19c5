"""Output of calls: attributed on the runner, sent to the driver and shown there within limits.

On a runner :mod:`.runner.streams` replaces ``sys.stdout`` and ``sys.stderr`` and attributes each
line to its call. Two transports carry the lines to the driver:

- The output of a local runner is a pipe, which keeps the output of a runner that is killed. Each
  line is written to it in a frame that names its call (:mod:`.frames`), and the supervisor removes
  the frames. Output that bypasses Python has no frame, and appears in the same pipe in order.
- On any other cluster lines go to the scheduler on Dask's stream, before the result of their call
  (:mod:`.runner.sender`, :mod:`.scheduler.plugin`). The process also writes them to its own output.

If local runners used both, duplicates would have to be found. :mod:`.driver.show` writes the lines
for the user. The output of each call is limited on its runner
(:mod:`dask_flame.core.rate_limit`), and the output of all calls together where it is shown.

This module imports nothing, because the supervisor needs only one module of the package.
"""
