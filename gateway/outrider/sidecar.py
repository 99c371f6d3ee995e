"""Puts the parts together, starts them, and drains them: ``serve``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from outrider import __version__, clock, logs, service_manager, token_dir
from outrider.agents import Agents, Lifecycle
from outrider.agents import stored as stored_agents
from outrider.calls import OutcomeKind
from outrider.channel import Channel
from outrider.control_plane import control_app
from outrider.data_plane import DataPlane, data_app
from outrider.domains.domain import Domains
from outrider.errors import Fault, Misconfigured
from outrider.flight import Traffic
from outrider.health import Health
from outrider.http_common import Tokens, peer_tls, ssl_context
from outrider.identity import Authenticator, Keeper
from outrider.kills import KillBoard
from outrider.ledger.record import Event, EventType
from outrider.ledger.writer import Ledger
from outrider.peers.book import Book, Who
from outrider.peers.client import PeerClient
from outrider.peers.fleet import Fleet
from outrider.peers.lines import Lines
from outrider.pins import ROWS as PINS
from outrider.pins import Pins
from outrider.pipeline import compose, stages
from outrider.policy.current import CurrentPolicy
from outrider.policy.load import Policy, load
from outrider.pulse import Pulse
from outrider.recorder import Recorder
from outrider.recovery import History, Recovery
from outrider.runs import Runs
from outrider.runs.stored import clear_old, read_marks, read_paused
from outrider.services import Services
from outrider.settings import Address, Settings
from outrider.store import Store
from outrider.supervisor import Supervisor
from outrider.telemetry import Telemetry
from outrider.telemetry.environment import exports_of
from outrider.telemetry.exporting import Exporting
from outrider.unresolved import Mutation, Unresolved
from outrider.upstreams.drivers import Drivers
from outrider.upstreams.local import LocalUpstream

log = logging.getLogger("outrider.sidecar")


class Sidecar:
    """A running sidecar: ``await Sidecar.start(settings)``, then ``await stop()``. ``serve`` does both: a process."""

    def __init__(
        self, services: Services, drivers: Drivers, local: LocalUpstream, tokens: Tokens, doorman: Authenticator
    ) -> None:
        self.services = services
        self._doorman = doorman
        services.keeper.on_revoked = self._expel
        self._drivers = drivers
        self._local = local
        self._tokens = tokens
        self._runners: list[web.AppRunner] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._exporting: Exporting | None = None
        self.listen = services.settings.listen
        self.control = services.settings.control

    @classmethod
    async def start(cls, settings: Settings) -> Sidecar:
        """Everything up and serving. Raises Misconfigured with what is wrong and how to mend it."""
        exports = exports_of(os.environ)
        policy = load(settings.policy)
        store = Store.open(settings.data)
        try:
            tokens = Tokens.load(settings)
            if settings.token_dir is not None:
                token_dir.publish(tokens.agent, settings.token_dir, settings.data)
            sidecar = await _assemble(settings, store, policy, tokens)
            sidecar._exporting = Exporting(exports, sidecar.services.telemetry, store.incarnation)
        except BaseException:
            store.close()
            raise
        try:
            await sidecar._serve()
        except BaseException:
            await sidecar.stop()
            raise
        return sidecar

    async def _serve(self) -> None:
        services, settings = self.services, self.services.settings
        services.policies.subscribe(self._policy_changed)
        if self._exporting is not None:
            self._exporting.start()
        services.health.start()
        doorman = self._doorman
        plane = DataPlane(
            services.supervisor, services.policies, doorman, services.channel.handler, self._unready, self._drivers
        )
        # People and peers first: what they stop from now on, and what they stopped before, is stopped before any agent
        # is served.
        self.control = await self._listen(control_app(services, self._tokens), settings.control, settings, "control")
        services.fleet.lines.own = Who(_name(self.control), services.store.incarnation)
        await services.fleet.catch_up()
        self.listen = await self._listen(data_app(plane), settings.listen, settings, "listen")
        services.fleet.start()
        self._tasks = [
            self._in_background(services.policies.watch()),
            self._in_background(services.kills.tend(services.supervisor.kill)),
            self._in_background(services.keeper.tend(self._expel)),
            self._in_background(services.agents.observe(services.lifecycle.tend)),
        ]
        _write_listeners(self)
        known = {"version": __version__, "pid": os.getpid(), "enforcement": settings.enforcement}
        services.ledger.append(Event(type=EventType.SIDECAR_STARTED, data=known))

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work)

    async def _listen(self, app: web.Application, address: Address, settings: Settings, which: str) -> Address:
        """Serve on the address, for the data plane on the Unix socket too; the address with the port that it got."""
        tls = settings.listen_tls if which == "listen" else settings.control_tls
        context = ssl_context(tls, f"--{which}-cert/--{which}-key")
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=1.0,
            auto_decompress=which != "listen",  # raw HTTP passes bodies on as they are
        )
        await runner.setup()
        self._runners.insert(0, runner)  # the last one opened is the first one closed
        site = web.TCPSite(runner, address.host, address.port, ssl_context=context, backlog=1024)
        try:
            await site.start()
            if which == "listen" and settings.uds:
                await _unix_site(runner, settings.uds)
        except OSError as error:
            raise Misconfigured(f"--{which} {address} cannot be listened on: {error.strerror or error}.") from None
        host, port = runner.addresses[0][:2]
        return Address(str(host), int(port))

    def _expel(self) -> None:
        """Whose credential was revoked makes no further attempt and keeps no channel."""
        self.services.supervisor.stop_revoked()
        self.services.channel.end_refused()

    def _unready(self) -> str | None:
        if self.services.supervisor.draining:
            return "shutting down"
        return None if self.services.ledger.healthy else "the ledger cannot be written"

    def _policy_changed(self, policy: Policy | None, faults: tuple[Fault, ...]) -> None:
        """The new policy reaches every part, or the refusal reaches people."""
        services = self.services
        if policy is None:
            log.error("the changed policy is refused; the old one stays", extra={"faults": [str(f) for f in faults]})
            services.telemetry.on_policy(loaded=False)
            services.ledger.append(
                Event(type=EventType.POLICY_REJECTED, data={"faults": [str(fault)[:300] for fault in faults[:20]]})
            )
            return
        services.telemetry.on_policy(loaded=True)
        services.ledger.configure(policy.ledger)
        self._doorman.configure(policy.identity)
        _record_policy(services.ledger, policy)
        try:
            self._drivers.apply(policy)
        except Misconfigured as error:
            log.error("an upstream of the new policy cannot be used: %s", error)
        services.health.apply(policy)
        services.domains.reconfigure(lambda name: _domain_of(policy, name), policy.limits.max_domains)
        log.info("policy loaded", extra={"digest": policy.digest})

    async def reload(self) -> None:
        """SIGHUP. A refused policy is told by ``_policy_changed``."""
        with contextlib.suppress(Misconfigured):
            await self.services.policies.reload()

    async def stop(self) -> None:
        """Drain: take nothing new, let calls end, stop the rest, then close from the outside in."""
        services = self.services
        services.lifecycle.release_waiting()
        await services.supervisor.drain(services.settings.drain_timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await services.fleet.close()
        await services.channel.close()
        for runner in self._runners:
            await runner.cleanup()
        if self._exporting is not None:
            await self._exporting.stop()
        await services.health.close()
        await self._drivers.close()
        await services.kills.close()
        await services.keeper.close()
        await services.lifecycle.close()
        await self._doorman.close()
        stopped = Event(type=EventType.SIDECAR_STOPPED, data={"pid": os.getpid()})
        services.ledger.append(stopped, mutations=services.agents.unsaved())
        await services.ledger.close()
        with contextlib.suppress(OSError):
            services.settings.listeners_file.unlink()
        services.store.close()


async def _assemble(settings: Settings, store: Store, policy: Policy, tokens: Tokens) -> Sidecar:
    """The parts, from the ground floor up."""
    ledger = await Ledger.open(store, policy.ledger)
    policies = CurrentPolicy(settings.policy, policy)
    unresolved = Unresolved(store.digest)
    cleared = unresolved.restore(store.read("SELECT * FROM unresolved"))
    keeper = Keeper.load(store, ledger)
    kills = await KillBoard.load(
        store,
        ledger,
        file=lambda: settings.kill_file if policies.current.kills.file else None,
        shared=bool(settings.peers),
        along=keeper,
    )
    telemetry = Telemetry()
    pulse = Pulse()
    recovery = Recovery(ledger, unresolved, lambda: policies.current.ledger.unknown_ttl_s)
    domains = Domains(policy.limits.max_domains)
    health = Health(policy.upstreams, on_recovered=lambda name: domains.probe_succeeded(name, clock.monotonic()))
    recorder = Recorder(ledger, unresolved, settings.enforcement)
    traffic = Traffic()
    agents = Agents(
        limits=lambda: policies.current.limits,
        emit=recorder.agent_changed,
        settings=lambda: policies.current.agents,
    )
    agents.restore(store.read(stored_agents.AGENTS), store.read(stored_agents.TOOLS))
    lifecycle = Lifecycle(agents, ledger, under_way=lambda name: len(traffic.of_agent(name)), stop=traffic.stop_agent)
    lifecycle.restore(store.read(stored_agents.SWITCHES))
    local = LocalUpstream(
        limits=lambda: policies.current.limits,
        abort_timeout_s=lambda: policies.current.kills.abort_timeout_s,
        settled=recovery.settled,
        gave_up=recovery.gave_up,
    )
    runs = Runs(limits=lambda: policies.current.limits, emit=recorder.run_changed)
    runs.restore(read_marks(store), read_paused(store))
    pins = Pins(ledger, lambda: policies.current)
    pins.restore(store.read(PINS))
    drivers = Drivers(local, pins.watch)
    drivers.apply(policy)
    chain = stages(
        traffic=traffic,
        agents=agents,
        lifecycle=lifecycle,
        kills=kills,
        health=health,
        domains=domains,
        unresolved=unresolved,
        runs=runs,
        recorder=recorder,
        pins=pins,
        newest=lambda: policies.current,
        driver_of=drivers.get,
        on_attempt=telemetry.on_attempt,
    )
    supervisor = Supervisor(
        traffic=traffic,
        policies=policies,
        recorder=recorder,
        kills=kills,
        agents=agents,
        unresolved=unresolved,
        telemetry=telemetry,
        pulse=pulse,
        local=local,
        run=compose(chain),
    )
    recovery.settled_late = supervisor.settled_late
    channel = Channel(
        agents=agents,
        local=local,
        supervisor=supervisor,
        limits=lambda: policies.current.limits,
        kills=kills.scopes,
        incarnation=store.incarnation,
    )
    supervisor.on_lifecycle = channel.broadcast_lifecycle
    lifecycle.subscribe(channel.tell_agent)
    lifecycle.on_retired = keeper.revoke_agent
    _record_policy(ledger, policy, [*cleared, clear_old()])
    suspects = await recovery.begin(ledger.open_attempts, ledger.open_calls, lambda call_id: _history(store, call_id))
    local.recover(suspects)
    fleet = _fleet(settings, store, tokens, kills, supervisor, ledger)
    services = Services(
        settings,
        store,
        ledger,
        policies,
        kills,
        health,
        domains,
        agents,
        runs,
        lifecycle,
        supervisor,
        channel,
        telemetry,
        pulse,
        fleet,
        keeper,
        drivers,
        pins,
    )
    return Sidecar(services, drivers, local, tokens, Authenticator(tokens.agent, keeper, policy.identity))


def _fleet(
    settings: Settings, store: Store, tokens: Tokens, kills: KillBoard, supervisor: Supervisor, ledger: Ledger
) -> Fleet:
    peers, tls = settings.peers, peer_tls(settings)
    client = PeerClient(tokens.peer or "", tls, peers.dns.host if peers.dns is not None else "")
    own = Who(_name(settings.control), store.incarnation)
    lines = Lines(own, Book(store.incarnation), client, peers.timeout_s)
    return Fleet(peers, lines, kills, obey=supervisor.obey, record=ledger.append)


def _name(control: Address) -> str:
    """How people and peers tell this sidecar from others: in a cluster the Pod's name comes first."""
    return f"{socket.gethostname()}:{control.port}"


def _domain_of(policy: Policy, upstream: str) -> Any:
    found = policy.upstreams.get(upstream)
    return found.domain if found is not None else None


def _history(store: Store, call_id: str) -> History:
    """What the ledger holds of the attempts of a call that was never answered."""
    rows = store.read("SELECT type, line FROM ledger WHERE call_id = ? ORDER BY seq", (call_id,))
    lines = [(row["type"], json.loads(row["line"])) for row in rows]
    ends = tuple(OutcomeKind(line["outcome"]) for kind, line in lines if kind == EventType.ATTEMPT_FINISHED)
    likes = [line.get("data", {}).get("like", "") for kind, line in lines if kind == EventType.ATTEMPT_STARTED]
    return History(ends, next(filter(None, likes), ""), _unsettled(lines))


def _unsettled(lines: list[tuple[str, dict[str, Any]]]) -> frozenset[int]:
    """The in-process attempts whose end says unknown, and about which nothing was learnt since."""
    found: set[int] = set()
    local: set[int] = set()
    for kind, line in lines:
        n = line.get("attempt", 0)
        if kind == EventType.ATTEMPT_STARTED and line.get("upstream") == "local":
            local.add(n)
        elif kind == EventType.ATTEMPT_FINISHED and n in local and line["outcome"] == OutcomeKind.UNKNOWN:
            found.add(n)
        elif kind == EventType.ATTEMPT_SETTLED:
            found.discard(n)
    return frozenset(found)


def _record_policy(ledger: Ledger, policy: Policy, cleared: Sequence[Mutation] = ()) -> None:
    """Which policy is in force from now on; its text is kept by digest. A start clears with it what is over."""
    keep = (
        "INSERT OR IGNORE INTO policies (digest, text, first_seen) VALUES (?, ?, ?)",
        (policy.digest, json.dumps(dict(policy.texts)), clock.wall()),
    )
    if policy.observes:
        log.warning("MODE OBSERVE: this policy refuses nothing; what it would refuse is recorded. Kill switches act.")
    event = Event(
        type=EventType.POLICY_LOADED, policy_digest=policy.digest, data={"name": policy.name, "mode": policy.mode}
    )
    ledger.append(event, durable=True, mutations=[keep, *cleared])


def _remove_stale_socket(path: Path) -> None:
    if path.is_socket():
        path.unlink()


async def _unix_site(runner: web.AppRunner, path: str) -> None:
    """A Unix socket for this user only. A stale socket file of a former sidecar is replaced; anything else is not."""
    _remove_stale_socket(Path(path))
    before = os.umask(0o177)
    try:
        await web.UnixSite(runner, path).start()
    finally:
        os.umask(before)


def _write_listeners(sidecar: Sidecar) -> None:
    """Tell the command line where this sidecar listens."""
    settings = sidecar.services.settings
    found = {
        "listen": str(sidecar.listen),
        "control": str(sidecar.control),
        "uds": settings.uds,
        "listen_tls": bool(settings.listen_tls.cert_file),
        "control_tls": bool(settings.control_tls.cert_file),
        "pid": os.getpid(),
        "version": __version__,
    }
    written = settings.listeners_file.with_suffix(".new")
    written.write_text(json.dumps(found) + "\n")
    written.replace(settings.listeners_file)


def _spare_the_collector() -> None:
    """What is here now stays: the collector of cycles need not look at it again and again. And it looks less often at
    what is new: a call makes some hundred objects and next to no cycles. Measured: 12 % of the CPU of a call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _run(settings: Settings) -> None:
    sidecar = await Sidecar.start(settings)
    _spare_the_collector()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reloads: set[asyncio.Task[None]] = set()

    def on_hup() -> None:
        task = loop.create_task(sidecar.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, on_hup)
    ready = f"outrider ready listen={sidecar.listen} control={sidecar.control} pid={os.getpid()}"
    sys.stdout.write(ready + "\n")
    sys.stdout.flush()
    service_manager.tell(service_manager.READY)
    alive = loop.create_task(service_manager.stay_alive())
    await stop.wait()
    service_manager.tell(service_manager.STOPPING)
    log.info("draining")
    await sidecar.stop()
    alive.cancel()
    log.info("stopped")


def serve(settings: Settings) -> int:
    """Run a sidecar until SIGTERM or SIGINT. 0 after an orderly end; raises Misconfigured when it cannot start."""
    logs.to_stderr()
    try:
        import uvloop
    except ImportError:
        asyncio.run(_run(settings))
    else:
        clock.ask_the_system()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings))
    return 0
