"""Who the peers are, and whether they answer. A pure table: nothing here waits.

    state        meaning                                                   told of kills
    known        listed, never asked to the end                            yes
    answering    the last request was answered                             yes
    silent       the last request was not answered, or not sensibly        yes
    self         this very sidecar, by another of its addresses            no
    same         a sidecar that answers at an address listed before        no

An address is what people list; a sidecar is known by its incarnation, which it says with every answer. So it does not
matter how often, and by which names, a sidecar is listed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from outrider import clock
from outrider.settings import MAX_PEERS, Address

MAX_MISSED = 100


@dataclass(frozen=True, slots=True)
class Who:
    """A sidecar as it names itself: ``sidecar`` for people, ``incarnation`` for this start of it."""

    sidecar: str
    incarnation: str

    def as_dict(self) -> dict[str, str]:
        return {"sidecar": self.sidecar, "incarnation": self.incarnation}


class State(StrEnum):
    KNOWN = "known"
    ANSWERING = "answering"
    SILENT = "silent"
    SELF = "self"
    SAME = "same"


@dataclass(slots=True)
class Peer:
    """One address. ``since`` is when its state began, ``answered`` when it last answered: seconds since the epoch.
    ``in_step``: the last round found both knowing the same kills. ``missed``: kills that it did not take when told."""

    address: Address
    since: float
    state: State = State.KNOWN
    who: Who | None = None
    answered: float | None = None
    error: str = ""
    listed: bool = True
    in_step: bool = False
    missed: OrderedDict[str, None] = field(default_factory=OrderedDict)

    @property
    def name(self) -> str:
        """For people: the sidecar's own name where it is known."""
        return str(self.address) if self.who is None else self.who.sidecar

    def as_dict(self) -> dict[str, Any]:
        return {
            "peer": str(self.address),
            "sidecar": None if self.who is None else self.who.sidecar,
            "state": self.state.value,
            "since": clock.stamp(self.since),
            "answered_at": None if self.answered is None else clock.stamp(self.answered),
            "in_step": self.in_step,
            "missed": list(self.missed),
            "error": self.error,
        }


class Book:
    """The addresses, in the order they were listed. ``left_out``: listed beyond ``MAX_PEERS``, and so not asked."""

    def __init__(self, incarnation: str) -> None:
        self._own = incarnation
        self._peers: dict[Address, Peer] = {}
        self.left_out = 0

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._peers.values()))

    def get(self, address: Address) -> Peer | None:
        """None: it is not in the book, or not any more."""
        return self._peers.get(address)

    def told(self) -> tuple[Peer, ...]:
        """Everybody who must be told and may be asked: each other sidecar once."""
        return tuple(peer for peer in self._peers.values() if peer.state not in (State.SELF, State.SAME))

    def relist(self, addresses: Iterable[Address]) -> None:
        """These are the peers now. One that is listed no more and still answers stays until it falls silent: a list may
        be late, and a kill should reach what can be reached."""
        wanted = dict.fromkeys(addresses)
        for peer in tuple(self._peers.values()):
            peer.listed = peer.address in wanted
            if not peer.listed and peer.state is not State.ANSWERING:
                del self._peers[peer.address]
        new = [address for address in wanted if address not in self._peers]
        room = max(0, MAX_PEERS - len(self._peers))
        self.left_out = len(new[room:])
        for address in new[:room]:
            self._peers[address] = Peer(address, clock.wall())

    def answered(self, address: Address, who: Who) -> None:
        """It answered, and said who it is."""
        peer = self._peers.get(address)
        if peer is None:
            return
        peer.answered, peer.error = clock.wall(), ""
        if peer.who is not None and peer.who.incarnation != who.incarnation:
            peer.in_step = False
        peer.who = who
        self._enter(peer, self._state_of(peer, who))

    def _state_of(self, peer: Peer, who: Who) -> State:
        if who.incarnation == self._own:
            return State.SELF
        for other in self._peers.values():
            same = other.who is not None and other.who.incarnation == who.incarnation
            if same and other is not peer and other.state is State.ANSWERING:
                return State.SAME
        return State.ANSWERING

    def failed(self, address: Address, error: str) -> None:
        """It did not answer, or not sensibly. An address that was our own stays so: we are here."""
        peer = self._peers.get(address)
        if peer is None or peer.state is State.SELF:
            return
        if not peer.listed:
            del self._peers[address]
            return
        peer.error, peer.in_step = error, False
        self._enter(peer, State.SILENT)

    def missed(self, address: Address, kill_id: str) -> None:
        """It was told of this kill, or of its end, and did not say that it heard."""
        peer = self._peers.get(address)
        if peer is None:
            return
        peer.missed[kill_id] = None
        while len(peer.missed) > MAX_MISSED:
            peer.missed.popitem(last=False)

    def in_step(self, address: Address, is_so: bool) -> None:
        """What the last round with it found."""
        peer = self._peers.get(address)
        if peer is None:
            return
        peer.in_step = is_so
        if is_so:
            peer.missed.clear()

    def _enter(self, peer: Peer, state: State) -> None:
        if peer.state is not state:
            peer.state, peer.since = state, clock.wall()
