"""End runners and all processes that came from them (supervisor)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from dask_flame.backends.local.supervisor.runners import Runner
from dask_flame.core.processes import below, found, kill, orphan_candidates
from dask_flame.core.resource_trackers import (
    WITHIN,
    end_all_marked,
    end_group,
    end_marked,
    is_tracker,
    kill_but_trackers,
    wait_for_trackers,
)

if TYPE_CHECKING:
    from psutil import Process

    from dask_flame.backends.local.supervisor.supervisor import Supervisor

_PR_SET_CHILD_SUBREAPER = 36
#: Fraction of its ``boot_timeout`` after which an ended runner counts as late.
_SLOW = 0.9
#: Seconds between two checks of processes that are being ended.
_PAUSE = 0.005


class Endings:
    """End runners on request or when due, and clean up after those that have ended.

    Parameters
    ----------
    supervisor : Supervisor
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        # Trackers of ended runners, with the time to kill them.
        self._trackers: dict[Process, float] = {}

    def due(self) -> list[float]:
        """Return the times of the next kills, on the monotonic clock."""
        runners = [r.kill_at for r in self.supervisor.runners.values() if r.kill_at is not None]
        return [*runners, *self._trackers.values()]

    def end(self, name: str, grace: float) -> None:
        """Ask a runner to end, and kill it after ``grace`` seconds."""
        runner = self.supervisor.runners.get(name)
        if runner is None or (runner.process is not None and runner.process.poll() is not None):
            return
        if grace <= 0:
            self.kill(runner)
            return
        due = time.monotonic() + grace
        if runner.kill_at is None:
            # Not by SIGTERM: to a runner that means that its substrate reclaims the machine.
            self.supervisor.send_to_runner(runner, b"end")
        runner.kill_at = min(due, runner.kill_at or due)

    def kill(self, runner: Runner) -> None:
        """Kill a runner; its end is noticed later."""
        runner.killed = True
        if runner.process is None:
            self._kill_unstarted(runner)
            return
        # The tree first: once its root is dead, its members cannot be found.
        tree = below(runner.process.pid)
        end_group(runner.process.pid)
        # The process itself too: if it was only just forked, it does not lead a group yet.
        kill_but_trackers([*found([runner.process.pid]), *tree])

    def look(self) -> None:
        """Kill overdue runners, and handle runners that have ended."""
        now = time.monotonic()
        for runner in list(self.supervisor.runners.values()):
            if runner.kill_at is not None and now >= runner.kill_at:
                runner.kill_at = None
                self.kill(runner)
            if runner.process is not None and runner.process.poll() is not None:
                self._ended(runner, runner.process.pid, runner.process.returncode)
        for tracker in [tracker for tracker, due in self._trackers.items() if now >= due]:
            del self._trackers[tracker]
            if is_tracker(tracker):
                kill([tracker])
        self._reap_orphans()

    def end_all(self) -> None:
        """End all processes started from here, and wait for their end."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for template in self.supervisor.launcher.templates.values():
            template.close()
        if self.supervisor.is_subreaper:
            self._end_descendants()
            return
        for runner in self.supervisor.runners.values():
            if runner.process is not None:
                self.kill(runner)
                while runner.process.poll() is None:
                    os.waitpid(runner.process.pid, 0)
        wait_for_trackers(end_all_marked(f"{self.supervisor.owner}/"))

    def _end_descendants(self) -> None:
        """End all descendants; processes started by runners become descendants when orphaned."""
        due = time.monotonic() + WITHIN
        with contextlib.suppress(ChildProcessError):
            while True:
                if time.monotonic() < due:
                    kill_but_trackers(below(os.getpid()))
                else:
                    kill(below(os.getpid()))
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
                time.sleep(_PAUSE)

    def _reap_orphans(self) -> None:
        """Reap dead processes that were handed to this one as orphans."""
        if not self.supervisor.is_subreaper:
            return
        with contextlib.suppress(ChildProcessError):
            while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if dead.si_pid not in self._processes():
                    # Perhaps a runner that its template has reported in the meantime.
                    for template in list(self.supervisor.launcher.templates.values()):
                        template.read()
                if dead.si_pid in self._processes():
                    return  # it has just died: handled in the next turn
                os.waitpid(dead.si_pid, 0)
                for tracker in [t for t in self._trackers if t.pid == dead.si_pid]:
                    del self._trackers[tracker]

    def _processes(self) -> set[int]:
        supervisor = self.supervisor
        runners = {r.process.pid for r in supervisor.runners.values() if r.process is not None}
        return runners | {t.process.pid for t in supervisor.launcher.templates.values()}

    def _template_processes(self) -> set[int]:
        """Return the templates, and the processes started by modules being imported there."""
        templates = {t.process.pid for t in self.supervisor.launcher.templates.values()}
        return templates.union(*({p.pid for p in below(pid)} for pid in templates))

    def _ended(self, runner: Runner, pid: int, code: int | None) -> None:
        trackers = end_group(pid)
        trackers |= end_marked(f"{self.supervisor.owner}/{runner.name}", orphan_candidates())
        if len(self.supervisor.runners) == 1:
            # Orphans without a mark may belong to any runner; this was the last one.
            templates = self._template_processes()
            others = [p for p in below(os.getpid()) if p.pid not in templates]
            trackers |= kill_but_trackers(others)[1]
        for tracker in trackers:
            self._trackers.setdefault(tracker, time.monotonic() + WITHIN)
        self.supervisor.ended(runner, code, forced=runner.killed and code == -signal.SIGKILL)

    def _kill_unstarted(self, runner: Runner) -> None:
        late = time.monotonic() > runner.asked + _SLOW * runner.boot_timeout
        for template in list(self.supervisor.launcher.templates.values()):
            if runner in template.waiting:
                template.waiting.remove(runner)
                self.supervisor.ended(runner, -signal.SIGKILL, forced=True)
            elif runner not in template.wave.values():
                continue
            if late:
                # The template is stuck, and would delay the next runner too. Its end is noticed.
                template.process.kill()
            elif template.leaving:
                template.leave()
        # Otherwise it is being forked, and is killed when the template reports it.


def adopt_orphans() -> bool:
    """Make this process the subreaper of its descendants; return whether it worked."""
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
