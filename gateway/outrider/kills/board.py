"""The board itself: engage, lift, match, and what happens by itself."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from outrider import clock
from outrider.calls import Call
from outrider.errors import Code, Refused
from outrider.kills import adoption, merge, stored
from outrider.kills.file import author, lies_there, reason_in
from outrider.kills.merge import KEPT_LIFTED
from outrider.kills.scopes import MAX_TEXT, Index, Kill, Lift, Scope, cut, invalid, new, shown, stays
from outrider.ledger.record import Event, EventType

if TYPE_CHECKING:
    from outrider.ledger.writer import Ledger
    from outrider.store import Store

MAX_KILLS = 1000
"""Kills engaged at once; a global one is always accepted."""
MAX_SAME = 16
"""Kills of one scope, where each asking is a kill of its own; then asking again is the last one's."""
MAX_HISTORY = 200
DURABLE_WAIT_S = 0.5
"""How long a kill waits for the disk before it takes effect without it."""
LIFT_WAIT_S = 5.0
TEND_EVERY_S = 0.25
"""How often DATA/KILL is looked at: it engages within 1 s."""
RETRY_S = 1.0

T = TypeVar("T")
Listener = Callable[[Kill, bool], None]
Engage = Callable[[str, str, float | None, str], Awaitable[object]]


log = logging.getLogger("outrider.kills")


def _no_file() -> Path | None:
    return None


class Along(Protocol):
    """What else a kill does: statements for the transaction that writes it, asked for again for each try, and what
    follows in memory the moment it is in force."""

    def along(self, kill: Kill) -> Sequence[stored.Mutation]: ...
    def in_force(self, kill: Kill) -> None: ...


class Alone:
    """A kill does nothing else."""

    def along(self, kill: Kill) -> Sequence[stored.Mutation]:
        return ()

    def in_force(self, kill: Kill) -> None:
        """Nothing follows."""


class KillBoard:
    """All kills engaged now. ``match`` is memory only; ``engage`` and ``lift`` write first.

    ``file`` tells which file stops everything while it lies there, None for none; it is asked at every look, so that
    a policy may switch it off. While the file is there a global kill is engaged and cannot be lifted: whoever laid it
    there may have no other way to speak. Removing the file lifts nothing.

    ``shared``: other sidecars have the same kills. ``merge`` says how that comes together, ``adopt`` does it.
    ``along``: what else a kill does.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        file: Callable[[], Path | None] = _no_file,
        boot: str | None = None,
        shared: bool = False,
        along: Along | None = None,
    ) -> None:
        self._ledger = ledger
        self._along = along or Alone()
        self._file = file
        self._shared = shared
        self._boot = clock.boot_id() if boot is None else boot
        self._kills: dict[str, Kill] = {}
        self._index: Index | None = None
        self._lifted: dict[str, Kill] = {}  # the one lifted last is the last
        self._digest = ""
        self._listeners: list[Listener] = []
        self._engaging: dict[Scope, asyncio.Event] = {}
        self._lifting: dict[str, asyncio.Task[Kill]] = {}
        self._remembering: asyncio.Task[None] | None = None
        self._writing: set[str] = set()
        self._retry_at = -math.inf
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    async def load(
        cls,
        store: Store,
        ledger: Ledger,
        *,
        file: Callable[[], Path | None] = _no_file,
        boot: str | None = None,
        shared: bool = False,
        along: Along | None = None,
    ) -> KillBoard:
        """The board as the last sidecar left it, and the file looked at once: before anything is served."""
        board = cls(ledger, file=file, boot=boot, shared=shared, along=along)
        try:
            board.restore(store.read(stored.SELECT))
        except Exception as fault:  # whatever is wrong: not knowing what is stopped stops everything
            log.exception("the stored kills cannot be read")
            board._doubt(f"the stored kills cannot be read ({fault})", -1)
        await board._obey_file(board.engage)
        return board

    def restore(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take over stored rows. One that cannot be read counts as a global kill."""
        for row in rows:
            try:
                kill = stored.read(row, self._boot)
            except Exception as fault:  # a row of any shape, perhaps written by a newer Outrider
                if row["lifted_at"] is None:
                    self._doubt(f"a stored kill cannot be read ({fault})", row["row"])
                continue
            if kill.lifted is None:
                self._kills[kill.id] = kill
            else:
                self._lifted[kill.id] = kill
        self._reindex()

    def _doubt(self, what: str, row: int) -> None:
        reason = f"{what}; it may have stopped anything, so everything is stopped until a person lifts this"
        kill = Kill(
            id=clock.new_id(),
            target=Scope("global"),
            reason=reason[:MAX_TEXT],
            by="outrider",
            at=clock.wall(),
            mono=clock.monotonic(),
            durable=True,
            row=row,
        )
        self._kills[kill.id] = kill
        self._reindex()

    def subscribe(self, listener: Listener) -> None:
        """``listener(kill, True)`` right after it took effect, ``listener(kill, False)`` right after it was lifted."""
        self._listeners.append(listener)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    def match(self, call: Call, tool: str | None = None, upstream: str | None = None) -> Kill | None:
        """A kill that covers this call, or that covers it while it is tried with another ``tool`` (a fallback)."""
        index = self._index
        if index is None:
            return None
        home = call.upstream
        found = index.find(call.agent.name, call.run, call.tool, home)
        other = tool or call.tool
        place = upstream or other.partition(".")[0]
        if found is not None or (other == call.tool and place == home):
            return found
        return index.find(call.agent.name, call.run, other, place)

    def covers(self, kill_id: str, call: Call, tool: str | None = None, upstream: str | None = None) -> bool:
        """Whether this one kill covers the call, or covers it while it is tried with another ``tool``."""
        target, other = self._kills[kill_id].target, tool or call.tool
        return target.covers(call.agent.name, call.run, call.tool, call.upstream) or target.covers(
            call.agent.name, call.run, other, upstream or other.partition(".")[0]
        )

    def all(self) -> tuple[Kill, ...]:
        """Every kill engaged, oldest first."""
        return tuple(self._kills.values())

    def scopes(self) -> tuple[str, ...]:
        """What is stopped, in the words of a policy and of the channel's ``welcome``."""
        return tuple({kill.scope: None for kill in self._kills.values()})

    def history(self) -> tuple[Kill, ...]:
        """The last kills that were lifted, newest first, at most ``MAX_HISTORY``."""
        return tuple(reversed(self._lifted.values()))[:MAX_HISTORY]

    def known(self, kill_id: str) -> Kill | None:
        """What is known of this kill, engaged or lifted."""
        return self._kills.get(kill_id) or self._lifted.get(kill_id)

    def shared(self) -> tuple[Kill, ...]:
        """What other sidecars should know: all kills but those that stand for an unreadable row of this database."""
        return tuple(kill for kill in (*self._kills.values(), *self._lifted.values()) if kill.row is None)

    def digest(self) -> str:
        """Of ``shared``: the same as a peer's when neither knows anything that the other does not."""
        self._digest = self._digest or merge.digest(self.shared())
        return self._digest

    def get(self, kill_id: str) -> Kill:
        """The engaged kill with this id. Raises KeyError."""
        return self._kills[kill_id]

    # ── engaging ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def engage(self, scope: Scope | str, reason: str, ttl_s: float | None = None, by: str = "") -> Kill:
        """Stop what ``scope`` covers. Answers once it is in force and on disk, or, after ``DURABLE_WAIT_S``, in force
        and not yet on disk. The same scope again is the same kill; it lasts as long as the longer of the two.

        Once begun it is not undone when the caller is cancelled. Raises Refused: the scope or the time cannot be
        understood, or ``MAX_KILLS`` are engaged.
        """
        parsed = Scope.parse(scope) if isinstance(scope, str) else scope
        if ttl_s is not None and not 0 < ttl_s < math.inf:
            raise invalid(f"A ttl of {ttl_s} seconds is none. Leave it out: the kill then lasts until it is lifted.")
        wanted = new(parsed, reason, by, ttl_s)
        return await asyncio.shield(self._spawn(self._engage(wanted)))

    async def _engage(self, wanted: Kill) -> Kill:
        while (other := self._engaging.get(wanted.target)) is not None:
            await other.wait()
        present = self._same(wanted.target)
        if present is None:
            self._refuse_too_many(wanted.target)
        kill = wanted if present is None else present.outlasting(wanted)
        return kill if kill is present else await self._put_in_force(kill)

    async def _put_in_force(self, kill: Kill) -> Kill:
        done = self._engaging[kill.target] = asyncio.Event()
        try:
            durable = await _within(self._write(kill), DURABLE_WAIT_S)
            lifted = self._lifted.get(kill.id)  # a peer may have told so meanwhile
            return lifted or self._take_effect(replace(kill, durable=durable))
        finally:
            del self._engaging[kill.target]
            done.set()

    def _same(self, scope: Scope) -> Kill | None:
        """The kill that asking for this scope again is. Where kills are shared it is one of its own: a lift of the one
        before may be on its way here."""
        if self._shared and sum(kill.target == scope for kill in self._kills.values()) < MAX_SAME:
            return None
        return self._present(scope)

    def _present(self, scope: Scope) -> Kill | None:
        """The kill of this scope. One that is being lifted, or that stands for an unreadable row, does not count."""
        for kill in self._kills.values():
            if kill.target == scope and kill.row is None and kill.id not in self._lifting:
                return kill
        return None

    def _refuse_too_many(self, scope: Scope) -> None:
        engaged = len(self._kills) + len(self._engaging)
        if scope.kind != "global" and engaged >= MAX_KILLS:
            sentence = (
                f"{MAX_KILLS} kills are engaged, which is the limit. Engage one that covers many "
                "(agent:PREFIX*, tool:PREFIX*, global), or lift some first."
            )
            raise Refused(sentence, {"code": Code.CONFLICT.value})

    def _take_effect(self, kill: Kill) -> Kill:
        self._kills[kill.id] = kill
        self._reindex()
        self._along.in_force(kill)
        self._tell(kill, True)
        log.warning("kill engaged: %s (%s) by %s: %s", kill.scope, kill.id, shown(kill.by), shown(kill.reason))
        return kill

    def _write(self, kill: Kill) -> asyncio.Task[bool]:
        """Write the kill; the task says whether it is on disk, and never fails."""
        self._writing.add(kill.id)
        event = Event(type=EventType.KILL_ENGAGED, actor=kill.by, reason=kill.reason, data=kill.facts())
        appended = self._append(event, [*stored.engaged(kill, self._boot), *self._along.along(kill)])
        return self._spawn(self._confirm(kill, appended))

    async def _confirm(self, kill: Kill, appended: asyncio.Future[int]) -> bool:
        try:
            await appended
        except Exception as fault:  # disk full, locked, closed: the kill stands, and is written later
            log.error("kill %s (%s) could not be written yet: %s", kill.scope, kill.id, fault)
            return False
        finally:
            self._writing.discard(kill.id)
        now = self._kills.get(kill.id)
        if now is not None and not now.durable and now.ttl_s == kill.ttl_s:
            self._kills[kill.id] = replace(now, durable=True)
            self._reindex()
        return True

    def _append(self, event: Event, mutations: list[stored.Mutation]) -> asyncio.Future[int]:
        """As the ledger's, but it never raises at once."""
        try:
            return self._ledger.append(event, durable=True, mutations=mutations)
        except Exception as fault:
            failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            failed.set_exception(fault)
            return failed

    # ── lifting ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def lift(self, kill_id: str, reason: str, by: str = "") -> Kill:
        """Release what a kill stopped, durably first; once begun it is not undone when the caller is cancelled.

        Raises KeyError when no such kill is engaged, and Refused: no reason was given, the file is still there, or the
        ledger cannot be written; the kill then stays."""
        kill = self._kills[kill_id]
        if not reason.strip():
            raise invalid("Lifting a kill needs a reason: say who decided that it is safe, and why.")
        if kill.target.kind == "global" and (path := self._file_there()) is not None:
            sentence = (
                f"The file {path.name} in the data folder stops everything while it is there. Remove it, then lift."
            )
            raise Refused(sentence, {"code": Code.CONFLICT.value})
        return await self._lifted_in_time(kill_id, Lift(clock.wall(), cut(by) or "unknown", cut(reason)))

    async def _lifted_in_time(self, kill_id: str, how: Lift) -> Kill:
        return await self._in_time(self._lift(kill_id, how))

    async def _in_time(self, work: asyncio.Task[T]) -> T:
        done, _ = await asyncio.wait({work}, timeout=LIFT_WAIT_S)
        if not done:
            raise stays(
                "The ledger does not answer yet. The kill stays until its end is written; see `outrider kills ls`."
            )
        return work.result()

    def _lift(self, kill_id: str, how: Lift) -> asyncio.Task[Kill]:
        if kill_id not in self._lifting:
            task = self._lifting[kill_id] = self._spawn(self._release(kill_id, how))
            task.add_done_callback(lambda ended: self._lift_ended(kill_id, ended))
        return self._lifting[kill_id]

    async def _release(self, kill_id: str, how: Lift) -> Kill:
        while (other := self._engaging.get(self._kills[kill_id].target)) is not None:
            await other.wait()
        kill = self._kills[kill_id]
        if not kill.durable:
            raise stays("The kill itself is not on disk yet. It stays, and can be lifted once it is.")
        kill = replace(kill, lifted=how)
        event = Event(type=EventType.KILL_LIFTED, actor=how.by, reason=how.reason, data=kill.facts())
        try:
            await self._append(event, stored.lifted(kill))
        except Exception as fault:
            raise stays(f"The ledger cannot be written ({fault}). The kill stays.") from fault
        del self._kills[kill_id]
        self._keep_lifted(kill)
        self._tell(kill, False)
        log.warning("kill lifted: %s (%s) by %s: %s", kill.scope, kill_id, shown(how.by), shown(how.reason))
        return kill

    def _keep_lifted(self, *kills: Kill) -> None:
        """The same ones that the database keeps, so that all sidecars end up with the same."""
        self._lifted.update({kill.id: kill for kill in kills})
        over = sorted(self._lifted.values(), key=_lifted_at)[: max(0, len(self._lifted) - KEPT_LIFTED)]
        for kill in over:
            del self._lifted[kill.id]
        self._reindex()

    def _lift_ended(self, kill_id: str, ended: asyncio.Task[Kill]) -> None:
        del self._lifting[kill_id]
        if not ended.cancelled() and (fault := ended.exception()) is not None:
            log.error("kill %s stays: %s", kill_id, fault)

    # ── what other sidecars know ─────────────────────────────────────────────────────────────────────────────────

    async def adopt(self, told: Kill) -> Kill:
        """Merge what another sidecar knows of a kill; the kill as it is known here afterwards. May be told again.

        Raises Refused where it cannot be taken over: the ledger cannot be written for a lift, or ``MAX_SHARED``."""
        return await asyncio.shield(self._spawn(adoption.adopt(self, told)))

    async def remember(self, told: Sequence[Kill]) -> None:
        """Kills of elsewhere that were lifted before they were heard of here. Raises Refused: cannot be written, or not
        yet; what is under way is then waited for by whoever asks next, so that a hanging disk gathers nothing."""
        if self._remembering is None or self._remembering.done():
            self._remembering = self._spawn(adoption.remember(self, told))
            await self._in_time(self._remembering)
            return
        await self._in_time(self._remembering)
        await self.remember(told)

    # ── what happens by itself ───────────────────────────────────────────────────────────────────────────────────

    async def tend(self, engage: Engage | None = None) -> None:
        """Runs until cancelled: obeys the file, writes what could not be written, lifts what expired. ``engage`` is who
        engages for the file (the supervisor, which also wakes the waiters); the board itself when left out."""
        while True:
            try:
                await self._obey_file(engage or self.engage)
                self._write_again(clock.monotonic())
                self._lift_expired(clock.wall(), clock.monotonic())
            except Exception:  # the next round tries again; what is engaged stands
                log.exception("tending the kill board failed")
            await asyncio.sleep(TEND_EVERY_S)

    async def _obey_file(self, engage: Engage) -> None:
        path = self._file_there()
        if path is None or self._present(Scope("global")) is not None:
            return
        reason, by = reason_in(path), author(path)
        try:
            await engage("global", reason, None, by)
        except Exception:  # whoever should wake the waiters cannot; the kill takes effect all the same
            log.exception("the kill by %s could not be carried out whole", path.name)
            await self.engage("global", reason, None, by)

    def _file_there(self) -> Path | None:
        path = self._file()
        return path if path is not None and lies_there(path) else None

    def _write_again(self, now: float) -> None:
        if now < self._retry_at:
            return
        self._retry_at = now + RETRY_S
        for kill in self.all():
            if not kill.durable and kill.id not in self._writing:
                self._write(kill)

    def _lift_expired(self, wall: float, mono: float) -> None:
        for kill in self.all():
            if not kill.durable or not kill.expired(wall, mono) or kill.id in self._lifting:
                continue
            if kill.target.kind == "global" and self._file_there() is not None:
                continue
            self._lift(kill.id, Lift(wall, "expiry", "its time was over"))

    async def close(self) -> None:
        """Wait, bounded, for what is being written. Called once, before the ledger is closed."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=LIFT_WAIT_S)

    def _reindex(self) -> None:
        self._index = Index(self._kills.values()) if self._kills else None
        self._digest = ""

    def _tell(self, kill: Kill, engaged: bool) -> None:
        for listener in self._listeners:
            try:
                listener(kill, engaged)
            except Exception:  # a listener's fault must not undo a kill
                log.exception("a listener of the kill board failed")

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _within(writing: asyncio.Task[bool], seconds: float) -> bool:
    """Whether it is on disk by then. The task goes on."""
    done, _ = await asyncio.wait({writing}, timeout=seconds)
    return bool(done) and writing.result()


def _lifted_at(kill: Kill) -> tuple[float, str]:
    """As the database orders them."""
    return (kill.lifted.at if kill.lifted is not None else 0.0, kill.id)
