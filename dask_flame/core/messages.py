"""Words that runners, the scheduler and the driver say to each other (all)."""

from __future__ import annotations

#: The plugins that gather reports, the scheduler's and the runners'; their messages' topic, too.
REPORTS = "flame-reports"

#: What a runner says of itself when it registers: the name of its pool.
RUNNER = "flame-runner"
#: What the home says of itself when it registers: it holds data and takes no calls.
RESTING = "flame-resting"

# From the scheduler to a runner.

#: After the registration: this scheduler knows these words.
HELLO = "flame-hello"
#: A call was taken back; its thread is to be interrupted, if asked, and spoken of when it is free.
WATCH = "flame-watch"
#: The call that asked for a slot again has it.
RETURNED = "flame-returned"

# From a runner to the scheduler.

#: The thread of a call that was taken back is free again.
FREED = "flame-freed"
#: A call's own timeout has run out; its thread is being interrupted.
OVERRAN = "flame-overran"
#: The runner is being taken away: no more calls, and its results are to be brought to safety.
LEAVING = "flame-leaving"
#: Dask has the runner begin no calls for now: with the memory that its process has in use, and the
#: calls that had begun.
PAUSED = "flame-paused"
#: A call that had left its slot, waiting for calls of its own, wants one again.
RETURN = "flame-return"

#: A result could not be sent to another runner, or not be read there.
UNSENDABLE = "flame-unsendable"
#: The rpc by which a driver has runners booted that it waits for, see scheduler/awaited_workers.py.
HAVE = "flame_have_runners"

# Between a driver and its scheduler's pod: see driver/hosts/remote.py and remote/.

#: The op with which a driver begins the conversation.
DRIVER = "flame_driver"

# Between a driver and the lease on its scheduler: see lease/client_sessions.py and resume.py.

#: Topic under which the scheduler says, in Dask's event log and to its clients, whether it holds a
#: lease, and up to which message it has read a driver's stream.
LEASE = "flame-lease"
#: The rpc by which a driver asks where it stands.
STANDING = "flame_standing"
#: What a driver says on its stream every few seconds: the number of its next message.
MARK = "flame-mark"
#: What it says when it is back: the futures it holds, by the status it knows of.
TELL = "flame-tell"
#: Messages of a driver that are not numbered: they may be lost, or said twice.
UNNUMBERED = frozenset({MARK, TELL, "heartbeat-client"})

#: Least seconds between two messages of a driver; distributed's own are 10 ms. A call that is
#: submitted when the one before has returned follows upon a message that lets go of that one's
#: result, and would wait for it.
INTERVAL = 0.001
