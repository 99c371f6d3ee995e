"""Daemon threads for synchronous functions: one for each call under way, kept a while and used again.

An executor's threads are joined when the interpreter ends, so one abandoned tool would keep the process alive; a
daemon thread does not. There is no upper bound here: a pool that is full of parents that wait for their children
never empties. The gateway's bulkheads bound the calls.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

IDLE_S = 30.0
"""How long an unused thread is kept."""
Job = Callable[[], None]


class Workers:
    """Hands jobs to idle threads, the one used last first."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def submit(self, job: Job) -> None:
        """Run ``job`` on a thread of its own. Raises RuntimeError when the system gives no thread."""
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None:
            worker = _Worker(self, self._idle_s)
            worker.start()
        worker.jobs.put(job)

    def idle(self, worker: _Worker) -> None:
        """The worker waits for a job again."""
        with self._lock:
            self._idle.append(worker)

    def retire(self, worker: _Worker) -> bool:
        """Whether the worker may end: not when a job is already on its way to it."""
        with self._lock:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            return True


class _Worker(threading.Thread):
    def __init__(self, pool: Workers, idle_s: float) -> None:
        super().__init__(name="outrider-worker", daemon=True)
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._pool = pool
        self._idle_s = idle_s

    def run(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=self._idle_s)
            except queue.Empty:
                if self._pool.retire(self):
                    return
                continue
            job()
            del job  # what it holds must not outlive it by the whole idle time
            self._pool.idle(self)
