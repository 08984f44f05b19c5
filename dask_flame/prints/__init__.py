"""What calls print: told apart on the runner, brought to the driver, shown there within limits.

On a runner :mod:`.runner.streams` takes the place of ``sys.stdout`` and ``sys.stderr``, and knows
whose each line is. There are two ways from there, with the same beginning and the same end:

- A local runner's output is a pipe, which keeps what was written when the runner is killed. Each
  line goes into it in a frame that names its call (:mod:`.frames`); the supervisor takes the frames
  off. What is written beneath Python has none, and is in the same pipe at its place.
- On any other cluster lines go to the scheduler on Dask's own stream, ahead of the result of their
  call (:mod:`.runner.sender`, :mod:`.scheduler.plugin`), beside what the process writes where it
  always did.

A third, of local runners sending what they print both ways, would have to find what came twice.
:mod:`.driver.show` writes the lines for people to read. A call that prints without end is held back
where it runs (:mod:`.rate_limit`), all together once more where they are shown.

Nothing is imported here: the supervisor of local runners needs one module of it, and not the
others.
"""
