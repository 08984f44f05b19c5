"""Words that a runner and the scheduler say to each other on Dask's stream (runner, scheduler)."""

#: What a runner says of itself when it registers, so that it is known to understand the below.
RUNNER = "flame-runner"
#: What a runner is asked when a call on it was cancelled.
WATCH = "flame-watch"
#: What it answers when the thread of the cancelled call is free again.
FREED = "flame-freed"
#: What the home says of itself when it registers: it holds data and takes no calls.
RESTING = "flame-resting"
