"""Names of messages between runners, the scheduler and the driver (all places)."""

from __future__ import annotations

#: The plugins that collect reports, on the scheduler and the runners; also their topic.
REPORTS = "flame-reports"

#: Annotation of the calls inside of a ``dask_flame.run`` block: id and name of the run.
RUN = "flame_run"
#: Annotation with which the scheduler tells a runner the name of a call.
CALL_NAME = "flame_name"

#: Key of a runner's registration: the name of its pool.
RUNNER = "flame-runner"
#: Key of a runner's registration: its packages, if they may differ from the driver's.
PACKAGES = "flame-packages"
#: Key of the home's registration: it holds data and takes no calls.
RESTING = "flame-resting"

#: Scheduler extension: the copies of small results; see scheduler/inline_results.py.
INLINE = "flame-inline"

# From the scheduler to a runner.

#: Sent after registration: this scheduler knows the messages below, and takes results up to
#: ``inline`` bytes in the message that a call has finished.
HELLO = "flame-hello"
#: A call was released: interrupt its thread if asked, and report when the thread is free.
WATCH = "flame-watch"
#: The call that asked for its slot back has one.
RETURNED = "flame-returned"

# From a driver to the scheduler, and from there to runners.

#: The rpc that stops calls at their next report, and the scheduler's message to their runners; see
#: reports/scheduler/stops.py.
STOP = "flame_stop"

#: A version of the local modules; see code/.
CODE = "flame-code"
#: The rpc of a runner that asks for the latest version before it registers.
CODE_NOW = "flame_code_now"
#: The rpc with which a driver waits until all runners have a version, and the scheduler's to them.
CODE_THERE = "flame_code_there"

# From a runner to the scheduler.

#: The thread of a released call is free.
FREED = "flame-freed"
#: A call exceeded its own timeout; its thread is being interrupted.
OVERRAN = "flame-overran"
#: The substrate is reclaiming the runner: send it no more calls, and move its results away.
LEAVING = "flame-leaving"
#: Dask paused the runner: with the memory in use by its process, and the calls already begun.
PAUSED = "flame-paused"
#: A call that left its slot to wait for calls of its own wants a slot again.
RETURN = "flame-return"

#: A result could not be sent to another runner, or could not be read there.
UNSENDABLE = "flame-unsendable"
#: The rpc of a driver that waits for runners, see scheduler/awaited_workers.py.
HAVE = "flame_have_runners"

#: The rpc of a runner that begins or has ended its ``setup=``, before it registers.
SETUP = "flame_setup"
#: The rpc with which a runner asks for files of the driver, and the one with which it reports that
#: it cannot put them in place: see files/.
FILES = "flame_files"
FILES_REFUSED = "flame_files_refused"
#: The rpcs with which a driver fetches files of a runner: keep the runner, list, read; and the
#: latter two as the scheduler passes them on to the runner.
FETCH_HOLD = "flame_fetch_hold"
FETCH_LIST = "flame_fetch_list"
FETCH_READ = "flame_fetch_read"
#: The rpc with which a driver looks inside a runner: see scheduler/looks.py.
LOOK = "flame_look"
#: The op with which a driver attaches to a runner, and the scheduler's to the runner; the rpc that
#: asks for the frames of a failed call, likewise.
ATTACH = "flame_attach"
POST_MORTEM = "flame_post_mortem"

# Between a driver and its scheduler's pod: see driver/hosts/remote.py and remote/.

#: The op with which a driver opens the channel.
DRIVER = "flame_driver"
#: The op with which a driver opens a tunnel to the dashboard.
DASHBOARD = "flame_dashboard"

#: The op with which another process asks to become the driver, and the one that asks who it is.
ADOPT = "flame_adopt"
WHO = "flame_who_drives"

# Between a driver and the lease on its scheduler: see lease/client_sessions.py and resume.py.

#: Topic of the scheduler's messages, in Dask's event log and to its clients, about whether it has
#: a lease, and the number of the last message read from a driver's stream.
LEASE = "flame-lease"
#: The rpc with which a driver asks for the state of its lease.
STANDING = "flame_standing"
#: The rpc with which a driver takes over the futures of one that has gone, or an observer looks up
#: those of the drivers.
RECOVER = "flame_recover"
#: Sent by a driver every few seconds: the number of its next message.
MARK = "flame-mark"
#: Sent by a driver after a reconnect: the futures it holds, by their last known status.
TELL = "flame-tell"
#: Messages of a driver without a number: they may be lost, or sent twice.
UNNUMBERED = frozenset({MARK, TELL, "heartbeat-client"})
