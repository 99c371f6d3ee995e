"""Issues and revokes, durably, and keeps the index that calls are checked against.

issue    ledger, durable ──► memory            what cannot be written is not issued
revoke   memory ──► ledger, durable            what cannot be written is revoked all the same, and written later
a kill   with the kill, in its transaction ──► memory, at the moment the kill takes effect
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from outrider import clock
from outrider.errors import Code, Refused
from outrider.identity import epochs as raising
from outrider.identity import stored
from outrider.identity.credential import Credential, Denial
from outrider.identity.epochs import Epoch, Epochs
from outrider.identity.tokens import Held, Revocation, Token, digest_of, how_to_mend, id_in, mint, revoked
from outrider.ledger.record import Event, EventType
from outrider.policy.patterns import matches

if TYPE_CHECKING:
    from outrider.ledger.writer import Ledger
    from outrider.store import Store

MAX_TOKENS: Final = 10_000
"""Tokens that are valid at once."""
KEPT_ENDED: Final = 1000
"""Tokens that are revoked or expired, kept for people to look at; the ledger keeps all."""
DURABLE_WAIT_S: Final = 0.5
"""How long a revocation waits for the disk before it is answered without it. It is in force before."""
TEND_EVERY_S: Final = 0.25
RETRY_S: Final = 1.0
UNKNOWN: Final = Denial("This is no token of this sidecar: it was never issued here, or is long gone.")

log = logging.getLogger("outrider.identity")


class Scope(Protocol):
    """What a kill is of."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...


class Lift(Protocol):
    """How a kill ended."""

    @property
    def at(self) -> float: ...


class Kill(Protocol):
    """The part of ``kills.Kill`` that is asked for."""

    @property
    def id(self) -> str: ...
    @property
    def target(self) -> Scope: ...
    @property
    def at(self) -> float: ...
    @property
    def reason(self) -> str: ...
    @property
    def lifted(self) -> Lift | None: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new token is to be. ``lasts_s`` None: until it is revoked."""

    agent: str
    also: tuple[str, ...] = ()
    owner: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    lasts_s: float | None = None


class Keeper:
    """All tokens and epochs of this sidecar.

    ``on_epoch`` is told of a new epoch at once, ``on_revoked`` that a person revoked a token. Whom a kill revokes is
    expelled by ``tend`` a little later: first the kill itself stops what is under way, and says so."""

    def __init__(self, ledger: Ledger, boot: str) -> None:
        self._ledger = ledger
        self._boot = boot
        self._held: dict[str, Held] = {}
        self._issuing = 0
        self._unwritten: dict[str, Held] = {}
        self._writing: set[asyncio.Future[int]] = set()
        self._retry_at = -math.inf
        self.epochs = Epochs()
        self.on_epoch: Callable[[Epoch], None] = lambda epoch: None
        self.on_revoked: Callable[[], None] = lambda: None

    @classmethod
    def load(cls, store: Store, ledger: Ledger) -> Keeper:
        """As the last sidecar left it."""
        keeper = cls(ledger, clock.boot_id())
        keeper.restore(store.read(stored.SELECT), store.read(raising.SELECT))
        return keeper

    def restore(self, tokens: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]) -> None:
        """Take over stored rows. A token that cannot be read is none; an epoch that cannot be read is everybody's."""
        self.epochs.restore(epochs)
        for row in tokens:
            try:
                token = stored.read(row)
            except (TypeError, ValueError, KeyError, AttributeError) as fault:
                log.error("a stored token cannot be read and is not accepted: %s", fault)
                continue
            held = self._held[token.id] = Held(token, self._boot)
            self._outdate(held, self.epochs.newest(token.names))

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, bearer: str) -> Credential | Denial:
        """What a text with our prefix is worth. Only its holder learns what became of it."""
        held = self._held.get(id_in(bearer))
        if held is None or not held.matches(bearer):
            return UNKNOWN
        credential = held.credential
        denial = credential.denial if credential.expires_wall is None else credential.refusal()
        if denial is not None:
            return denial
        held.used_at = clock.wall()
        return credential

    def all(self, *, ended: bool = False) -> list[dict[str, Any]]:
        """The tokens that are valid, ``ended``: the others too; oldest first."""
        return [held.as_dict() for held in self._held.values() if ended or held.state == "valid"]

    # ── issuing ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def issue(self, wanted: Wanted, by: str) -> tuple[Held, str]:
        """A new token, and its whole text, which is never shown again. Raises Refused and LedgerUnavailable."""
        if sum(held.state == "valid" for held in self._held.values()) + self._issuing >= MAX_TOKENS:
            sentence = f"{MAX_TOKENS} tokens are valid, which is the limit. Revoke some first: outrider tokens ls."
            raise Refused(sentence, {"code": Code.CONFLICT.value})
        if not self._ledger.healthy:
            sentence = "The ledger cannot be written, so no token can be issued; nothing would be left of it."
            raise Refused(sentence, {"code": Code.LEDGER_UNAVAILABLE.value})
        self._issuing += 1
        try:
            return await self._issue(wanted, by)
        finally:
            self._issuing -= 1

    async def _issue(self, wanted: Wanted, by: str) -> tuple[Held, str]:
        token_id, text = mint()
        now = clock.wall()
        token = Token(
            id=token_id,
            digest=digest_of(text),
            agent=wanted.agent,
            also=wanted.also,
            owner=wanted.owner,
            labels=dict(wanted.labels),
            tools=wanted.tools,
            epoch=self.epochs.number,
            issued_at=now,
            issued_by=by,
            issued_mono=clock.monotonic(),
            boot=self._boot,
            expires_at=None if wanted.lasts_s is None else now + wanted.lasts_s,
        )
        forgotten = self._too_old()
        event = Event(type=EventType.TOKEN_ISSUED, agent={"name": token.agent}, actor=by, data=token.facts())
        await self._ledger.append(event, durable=True, mutations=stored.issued(token, forgotten))
        for old in forgotten:
            self._held.pop(old, None)
        held = self._held[token_id] = Held(token, self._boot)
        self._outdate(held, self.epochs.newest(token.names))  # a kill may have come while it was written
        return held, text

    def _too_old(self) -> list[str]:
        """Ended tokens beyond those that are kept, the oldest first."""
        ended = [token_id for token_id, held in self._held.items() if held.durable and held.state != "valid"]
        return ended[: max(0, len(ended) - KEPT_ENDED)]

    # ── revoking ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def revoke(self, token_id: str, reason: str, by: str) -> Held:
        """It is worth nothing from now on. Answers once that is on disk, or after ``DURABLE_WAIT_S`` without; see
        ``Held.durable``. Raises KeyError: there is no such token."""
        held = self._held[token_id]
        if held.token.revoked is None:
            held.token = replace(held.token, revoked=Revocation(clock.wall(), by, reason))
            held.credential.denial = revoked(held.token)
            held.durable = False
            self._unwritten[token_id] = held
            self.on_revoked()
        if not held.durable:
            await asyncio.wait({self._write(held)}, timeout=DURABLE_WAIT_S)
        return held

    def _write(self, held: Held) -> asyncio.Future[int]:
        token = held.token
        assert token.revoked is not None
        event = Event(
            type=EventType.TOKEN_REVOKED,
            agent={"name": token.agent},
            actor=token.revoked.by,
            reason=token.revoked.reason,
            data={"id": token.id},
        )
        writing = self._append(event, stored.revoked(token))
        self._writing.add(writing)
        writing.add_done_callback(lambda done: self._written(held, done))
        return writing

    def _append(self, event: Event, mutations: list[stored.Mutation]) -> asyncio.Future[int]:
        """As the ledger's, but it never raises at once: what is revoked is revoked."""
        try:
            return self._ledger.append(event, durable=True, mutations=mutations)
        except Exception as fault:
            failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            failed.set_exception(fault)
            return failed

    def _written(self, held: Held, done: asyncio.Future[int]) -> None:
        self._writing.discard(done)
        if not done.cancelled() and (fault := done.exception()) is not None:
            log.error("the revocation of token %s could not be written yet: %s", held.token.id, fault)
            return
        held.durable = True
        self._unwritten.pop(held.token.id, None)

    # ── epochs ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def revoke_agent(self, name: str, why: str, by: str, cause: str = "retirement") -> None:
        """Revoke what the agent holds, for ever: its tokens, and every JWT issued until now. In force at once, and
        answered once it is on disk. Raises LedgerUnavailable: it is in force, and not yet on disk."""
        act = f"{cause} {clock.new_id()}"
        rows = self.epochs.raising(act, name, clock.wall(), why)
        self._enter(self.epochs.raised(act))
        event = Event(
            type=EventType.CREDENTIALS_REVOKED, agent={"name": name}, actor=by, reason=why, data={"cause": cause}
        )
        await self._ledger.append(event, durable=True, mutations=rows)

    def along(self, kill: Kill) -> list[raising.Mutation]:
        """A kill is being written: what goes into its transaction. One that names agents revokes what those hold; one
        of a run, a tool, an upstream or of everything says nothing of whom to trust."""
        if kill.target.kind != "agent":
            return []
        return self.epochs.raising(_cause(kill), kill.target.name, _until(kill, clock.wall()), kill.reason)

    def in_force(self, kill: Kill) -> None:
        """That kill counts from now on, or counted elsewhere."""
        self._enter(self.epochs.raised(_cause(kill)))

    def _enter(self, epoch: Epoch | None) -> None:
        if epoch is None:
            return
        for held in self._held.values():
            if any(matches(epoch.pattern, name) for name in held.token.names):
                self._outdate(held, epoch)
        self.on_epoch(epoch)

    @staticmethod
    def _outdate(held: Held, epoch: Epoch | None) -> None:
        token = held.token
        if epoch is None or epoch.number <= token.epoch or token.revoked is not None:
            return
        detail = f"The token {token.id} {epoch.sentence()}. {how_to_mend(token.agent)}"
        held.credential.denial = Denial(detail)

    # ── what happens by itself ───────────────────────────────────────────────────────────────────────────────────

    async def tend(self, expel: Callable[[], None]) -> None:
        """Runs until cancelled: writes what could not be written; has those expelled whose credential is worth nothing
        any more."""
        while True:
            await asyncio.sleep(TEND_EVERY_S)
            try:
                expel()
                self._write_again(clock.monotonic())
            except Exception:  # the next round tries again; what is revoked is refused at the door in any case
                log.exception("tending the identities failed")

    def _write_again(self, now: float) -> None:
        if self._unwritten and not self._writing and now >= self._retry_at:
            self._retry_at = now + RETRY_S
            for held in list(self._unwritten.values()):
                self._write(held)

    async def close(self) -> None:
        """Wait, bounded, for what is being written. Called once, before the ledger is closed."""
        if self._writing:
            await asyncio.wait(set(self._writing), timeout=DURABLE_WAIT_S)


def _until(kill: Kill, now: float) -> float:
    """Until when what was issued is revoked. A kill of elsewhere comes late, and by another clock. One that is over
    says nothing of what was issued since: a sidecar that starts anew hears of old kills, and agents start with it."""
    return max(kill.at, now) if kill.lifted is None else min(now, max(kill.at, kill.lifted.at))


def _cause(kill: Kill) -> str:
    return f"the kill {kill.id}"
