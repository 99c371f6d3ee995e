"""The life of one attempt at an in-process tool, as a table.

The far end is another process behind a connection that may break at any moment, so every attempt is a small machine.
This file knows neither sockets nor futures: ``TABLE[state, event]`` names the next state and what is to be done. A pair
that is not in the table changes nothing: a duplicate, or a frame that came too late to matter.

    EXECUTING ── finished ──► ENDED ── recorded ──► CLOSED          the ordinary way: the adapter's word, then the ack
      │ ▲  │
      │ │  └ lost ──► SUSPECT ── missing, over ──► QUIET            told unknown, nothing runs any more
      │ └─── back ───────┘
      └ stop ──► ABORTING ── not_started, finished ──► ENDED        a proof, or the real end
                    ├ done ──► FINISHING ── finished ──► ENDED
                    └ running, expired ──► ABANDONED ── recorded ──► ADRIFT         told unknown, may still run
                                               │                        │
                                           finished                 finished
                                               ▼                        ▼
                                              LATE ── recorded ──► SETTLING ── settled ──► CLOSED

"Told" means: the pipeline has its one outcome. It is told exactly once, on the way out of the first five states.
Nothing is acked before its end is durable: ``recorded`` (the ledger's commit of the end) or ``settled``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, auto


class State(StrEnum):
    """Where an attempt is. The first five wait for the far end; in all others the pipeline was told."""

    EXECUTING = auto()  # the execute frame was handed to the socket
    SUSPECT = auto()  # the same, and the connection is gone
    ABORTING = auto()  # a stop was asked for, the abort frame was sent
    ABORTING_LOST = auto()  # a stop was asked for, and the connection is gone
    FINISHING = auto()  # a stop was asked for, the function had ended before; ``finished`` is on its way
    ENDED = auto()  # told by the adapter's own word; not yet durable
    ABANDONED = auto()  # told unknown; not yet durable; the function may still run
    QUIET = auto()  # told unknown; not yet durable; nothing runs any more
    ADRIFT = auto()  # told unknown, durable; the function may still run
    LATE = auto()  # told unknown, not yet durable; the truth came late and waits for its place in the ledger
    SETTLING = auto()  # told unknown, durable; the truth is being written behind it
    CLOSED = auto()  # nothing more to do


class Event(StrEnum):
    """What may happen to an attempt."""

    FINISHED = auto()  # the adapter's word on how it ended
    TIMED_OUT = auto()  # the adapter gave up waiting; a thread may still run
    NOT_STARTED = auto()  # aborted: it never began and never will
    RUNNING = auto()  # aborted: too late, it runs
    DONE = auto()  # aborted: too late, it ended; ``finished`` is on its way
    THREAD_ENDED = auto()  # an abandoned function ended, and nobody can say more than "unknown"
    STOP = auto()  # the pipeline interrupted ``send`` and asks what is known
    EXPIRED = auto()  # the far end did not answer the abort in time
    LOST = auto()  # the connection broke
    BACK = auto()  # the same process is back and says that this attempt has not ended
    MISSING = auto()  # the same process is back and does not know this attempt
    OVER = auto()  # the process is gone for good: it said bye, or the window passed
    RECORDED = auto()  # the end that the pipeline was told is in the ledger
    SETTLED = auto()  # the late truth is in the ledger


class Do(StrEnum):
    """What a transition asks of the driver, in this order."""

    HOLD = auto()  # the function may run on: keep the slot
    RELEASE = auto()  # it does not: free the slot
    TELL = auto()  # give the pipeline the outcome that came with the event
    TELL_UNKNOWN = auto()  # give the pipeline "unknown", for the reason that the event is
    KEEP = auto()  # remember the late outcome
    ABORT = auto()  # send the abort frame
    SETTLE = auto()  # write the late outcome behind the recorded end
    ACK = auto()  # tell the adapter to forget ``finished``, if one came
    DROP = auto()  # forget the attempt


Row = tuple[State, tuple[Do, ...]]
WAITING = frozenset({State.EXECUTING, State.SUSPECT, State.ABORTING, State.ABORTING_LOST, State.FINISHING})
"""States in which the pipeline has not been told yet."""


S, E = State, Event
TABLE: Mapping[tuple[State, Event], Row] = {
    (S.EXECUTING, E.FINISHED): (S.ENDED, (Do.TELL,)),
    (S.EXECUTING, E.TIMED_OUT): (S.ABANDONED, (Do.HOLD, Do.TELL)),
    (S.EXECUTING, E.STOP): (S.ABORTING, (Do.ABORT,)),
    (S.EXECUTING, E.LOST): (S.SUSPECT, ()),
    (S.EXECUTING, E.OVER): (S.QUIET, (Do.TELL_UNKNOWN,)),
    #
    (S.SUSPECT, E.FINISHED): (S.ENDED, (Do.TELL,)),
    (S.SUSPECT, E.TIMED_OUT): (S.ABANDONED, (Do.HOLD, Do.TELL)),
    (S.SUSPECT, E.STOP): (S.ABORTING_LOST, ()),
    (S.SUSPECT, E.BACK): (S.EXECUTING, ()),
    (S.SUSPECT, E.MISSING): (S.QUIET, (Do.TELL_UNKNOWN,)),
    (S.SUSPECT, E.OVER): (S.QUIET, (Do.TELL_UNKNOWN,)),
    #
    (S.ABORTING, E.FINISHED): (S.ENDED, (Do.TELL,)),
    (S.ABORTING, E.TIMED_OUT): (S.ABANDONED, (Do.HOLD, Do.TELL)),
    (S.ABORTING, E.NOT_STARTED): (S.ENDED, (Do.TELL,)),
    (S.ABORTING, E.DONE): (S.FINISHING, ()),
    (S.ABORTING, E.RUNNING): (S.ABANDONED, (Do.HOLD, Do.TELL_UNKNOWN)),
    (S.ABORTING, E.EXPIRED): (S.ABANDONED, (Do.HOLD, Do.TELL_UNKNOWN)),
    (S.ABORTING, E.LOST): (S.ABORTING_LOST, ()),
    (S.ABORTING, E.OVER): (S.QUIET, (Do.TELL_UNKNOWN,)),
    #
    (S.ABORTING_LOST, E.FINISHED): (S.ENDED, (Do.TELL,)),
    (S.ABORTING_LOST, E.TIMED_OUT): (S.ABANDONED, (Do.HOLD, Do.TELL)),
    (S.ABORTING_LOST, E.EXPIRED): (S.ABANDONED, (Do.HOLD, Do.TELL_UNKNOWN)),
    (S.ABORTING_LOST, E.BACK): (S.ABORTING, (Do.ABORT,)),
    (S.ABORTING_LOST, E.MISSING): (S.QUIET, (Do.TELL_UNKNOWN,)),
    (S.ABORTING_LOST, E.OVER): (S.QUIET, (Do.TELL_UNKNOWN,)),
    #
    (S.FINISHING, E.FINISHED): (S.ENDED, (Do.TELL,)),
    (S.FINISHING, E.TIMED_OUT): (S.ABANDONED, (Do.HOLD, Do.TELL)),
    (S.FINISHING, E.EXPIRED): (S.QUIET, (Do.TELL_UNKNOWN,)),
    (S.FINISHING, E.MISSING): (S.QUIET, (Do.TELL_UNKNOWN,)),
    (S.FINISHING, E.OVER): (S.QUIET, (Do.TELL_UNKNOWN,)),
    #
    (S.ENDED, E.RECORDED): (S.CLOSED, (Do.ACK, Do.DROP)),
    #
    (S.ABANDONED, E.FINISHED): (S.LATE, (Do.RELEASE, Do.KEEP)),
    (S.ABANDONED, E.NOT_STARTED): (S.LATE, (Do.RELEASE, Do.KEEP)),
    (S.ABANDONED, E.THREAD_ENDED): (S.QUIET, (Do.RELEASE,)),
    (S.ABANDONED, E.BACK): (S.ABANDONED, (Do.ABORT,)),
    (S.ABANDONED, E.MISSING): (S.QUIET, (Do.RELEASE,)),
    (S.ABANDONED, E.OVER): (S.QUIET, (Do.RELEASE,)),
    (S.ABANDONED, E.RECORDED): (S.ADRIFT, (Do.ACK,)),
    #
    (S.QUIET, E.FINISHED): (S.LATE, (Do.KEEP,)),
    (S.QUIET, E.RECORDED): (S.CLOSED, (Do.ACK, Do.DROP)),
    #
    (S.ADRIFT, E.FINISHED): (S.SETTLING, (Do.RELEASE, Do.KEEP, Do.SETTLE)),
    (S.ADRIFT, E.NOT_STARTED): (S.SETTLING, (Do.RELEASE, Do.KEEP, Do.SETTLE)),
    (S.ADRIFT, E.TIMED_OUT): (S.ADRIFT, (Do.ACK,)),
    (S.ADRIFT, E.THREAD_ENDED): (S.CLOSED, (Do.RELEASE, Do.ACK, Do.DROP)),
    (S.ADRIFT, E.BACK): (S.ADRIFT, (Do.ABORT,)),
    (S.ADRIFT, E.MISSING): (S.CLOSED, (Do.RELEASE, Do.DROP)),
    (S.ADRIFT, E.OVER): (S.CLOSED, (Do.RELEASE, Do.DROP)),
    #
    (S.LATE, E.RECORDED): (S.SETTLING, (Do.SETTLE,)),
    (S.SETTLING, E.SETTLED): (S.CLOSED, (Do.ACK, Do.DROP)),
}


def step(state: State, event: Event) -> Row:
    """The next state and what is to be done; the same state and nothing for a pair that changes nothing."""
    return TABLE.get((state, event), (state, ()))
