"""The kill board: what is stopped, by whom, why, and until when.

    engage   ledger, durable ──► memory ──► listeners: waiters are woken, adapters are told
    lift     ledger, durable ──► memory ──► listeners

Stopping is easy and releasing is hard, and every doubt stops: a kill that cannot be written takes effect all the same
and is written as soon as that is possible (until then it says ``durable: false``); a kill that cannot be lifted durably
stays; a stored row that cannot be read counts as a global kill; a kill expires only when both clocks say so.
"""

from outrider.kills.board import KillBoard
from outrider.kills.scopes import Kill, Lift, Scope

__all__ = ["Kill", "KillBoard", "Lift", "Scope"]
