"""Health: is an upstream worth asking? Probes with the fields, defaults and rules of Kubernetes.

    startup     asked until it succeeds once; until then nothing else is asked and the upstream is not ready
    readiness   asked for ever; ``failureThreshold`` failures in a row: not ready, ``successThreshold`` successes: ready

An upstream with a probe is not ready before the first verdict, so the first probe is sent at once. One without probes
is always ready. An upstream that is not ready is asked on, so that its recovery needs nobody. Probes are no traffic:
they pass no breaker, no budget and no ledger. https://kubernetes.io/docs/concepts/workloads/pods/probes/
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
from yarl import URL

from outrider import __version__, clock
from outrider.policy.plans import HttpUpstream, Probe, Secret, Upstream

if TYPE_CHECKING:
    from outrider.policy.load import Policy

SOONEST_S = 0.1
"""The least that a caller is told to wait for an upstream that is not ready."""

log = logging.getLogger("outrider.health")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one probe found. ``detail`` is a phrase for people: ``GET /healthz answered 503``."""

    ok: bool
    detail: str


class Asker(Protocol):
    """Sends the probes of one upstream."""

    async def ask(self, probe: Probe) -> Answer:
        """One probe. May raise, which is a failure; is cancelled after its timeout."""
        ...

    async def close(self) -> None: ...


# ── the verdict, pure ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Streak:
    """Results in a row, and the verdict they add up to. ``good`` keeps its value until a threshold is reached."""

    good: bool = False
    successes: int = 0
    failures: int = 0

    def record(self, ok: bool, probe: Probe) -> None:
        """One more result."""
        self.successes = self.successes + 1 if ok else 0
        self.failures = 0 if ok else self.failures + 1
        if self.successes >= probe.success_threshold:
            self.good = True
        elif self.failures >= probe.failure_threshold:
            self.good = False


@dataclass(slots=True)
class Watch:
    """What is known of one upstream. ``next_at`` is monotonic seconds, ``answered_at`` seconds since the epoch."""

    upstream: Upstream
    startup: Streak = field(default_factory=Streak)
    readiness: Streak = field(default_factory=Streak)
    last: Answer | None = None
    answered_at: float = 0.0
    next_at: float = 0.0
    task: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        return self.upstream.startup is None or self.startup.good

    @property
    def ready(self) -> bool:
        return self.started and (self.upstream.readiness is None or self.readiness.good)

    def due(self) -> tuple[Probe, Streak] | None:
        """The probe to send next. None: nothing is left to ask."""
        if not self.started:
            assert self.upstream.startup is not None
            return self.upstream.startup, self.startup
        return None if self.upstream.readiness is None else (self.upstream.readiness, self.readiness)

    def retry_after_s(self, now: float) -> float | None:
        """Seconds until the upstream can be ready at the earliest; None where it is."""
        due = self.due()
        if self.ready or due is None:
            return None
        probe, streak = due
        further = max(0, probe.success_threshold - streak.successes - 1)
        return max(SOONEST_S, self.next_at - now) + further * probe.period_s

    def describe(self, now: float) -> dict[str, Any]:
        """For people and programs."""
        due = self.due()
        known: dict[str, Any] = {"ready": self.ready, "started": self.started}
        if due is not None:
            known |= {"consecutive_failures": due[1].failures, "consecutive_successes": due[1].successes}
        if self.last is not None:
            known |= {"last": self.last.detail, "last_ok": self.last.ok, "last_at": clock.stamp(self.answered_at)}
        if (wait_s := self.retry_after_s(now)) is not None:
            known["retry_after_s"] = round(wait_s, 3)
        return known


# ── asking, for real ─────────────────────────────────────────────────────────────────────────────────────────────


class NetworkAsker:
    """Asks over the network: a new connection each time, no redirect, no second try, no body read."""

    def __init__(self, upstream: Upstream) -> None:
        self._http = upstream.http or (upstream.mcp.http if upstream.mcp is not None else None)
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, probe: Probe) -> Answer:
        return await (self._get(probe) if probe.kind == "http" else self._connect(probe))

    async def _get(self, probe: Probe) -> Answer:
        assert self._http is not None
        session = self._session or self._open(self._http)
        url = URL(self._http.url.rstrip("/") + "/" + probe.http_path.lstrip("/"))
        async with session.get(url, allow_redirects=False, headers=_headers(self._http)) as response:
            return Answer(200 <= response.status < 400, f"GET {url.path} answered {response.status}")

    async def _connect(self, probe: Probe) -> Answer:
        host, port = self._address(probe)
        _, writer = await asyncio.open_connection(host, port)
        writer.transport.abort()
        return Answer(True, f"{host}:{port} accepts connections")

    def _address(self, probe: Probe) -> tuple[str, int]:
        if probe.tcp_address:
            host, _, port = probe.tcp_address.rpartition(":")
            return host.strip("[]"), int(port)
        url = URL(self._http.url if self._http is not None else "")
        return url.host or "", url.port or 0

    def _open(self, http: HttpUpstream) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, ssl=_tls(http)),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=http.use_env_proxy,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": f"outrider-probe/{__version__}"},
        )
        self._session._retry_connection = False  # aiohttp would ask twice by itself
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _headers(http: HttpUpstream) -> dict[str, str]:
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in http.headers.items()}


def _tls(http: HttpUpstream) -> ssl.SSLContext | bool:
    if not http.ca_file and not http.cert_file:
        return True
    context = ssl.create_default_context(cafile=http.ca_file or None)
    if http.cert_file:
        context.load_cert_chain(http.cert_file, http.key_file or None)
    return context


# ── watching ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _nobody(name: str) -> None:
    """Nobody wants to know."""


class Health:
    """Watches upstreams. ``on_recovered(name)`` is called each time one becomes ready."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        *,
        on_recovered: Callable[[str], None] = _nobody,
        asker: Callable[[Upstream], Asker] = NetworkAsker,
    ) -> None:
        self._watches = {name: Watch(upstream) for name, upstream in upstreams.items()}
        self._on_recovered = on_recovered
        self._asker = asker
        self._running = False
        self._ended: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to probe, at once. Needs a running loop."""
        self._running = True
        for watch in self._watches.values():
            self._begin(watch)

    def apply(self, policy: Policy) -> None:
        """Another policy. What is known of an upstream stays known, unless it is another place now."""
        old, self._watches = self._watches, {}
        for name, upstream in policy.upstreams.items():
            self._watches[name] = self._carry_over(old.pop(name, None), upstream)
        for watch in old.values():
            self._end(watch)

    def _carry_over(self, old: Watch | None, upstream: Upstream) -> Watch:
        if old is not None and _asked(old.upstream) == _asked(upstream):
            old.upstream = upstream
            return old
        watch = Watch(upstream)
        if old is not None:
            self._end(old)
            if _address(old.upstream) == _address(upstream):  # the same place, asked otherwise: its verdict stands
                watch.startup.good, watch.readiness.good = old.started, old.ready
        if self._running:
            self._begin(watch)
        return watch

    # ── asking ──

    def ready(self, upstream: str) -> bool:
        """Whether calls may be sent there. An upstream without probes is ready."""
        watch = self._watches.get(upstream)
        return watch is None or watch.ready

    def retry_after_s(self, upstream: str) -> float | None:
        """Seconds until an upstream that is not ready can be at the earliest."""
        watch = self._watches.get(upstream)
        return None if watch is None else watch.retry_after_s(clock.monotonic())

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """What is known of every upstream, by name."""
        now = clock.monotonic()
        return {name: watch.describe(now) for name, watch in self._watches.items()}

    # ── probing ──

    def _begin(self, watch: Watch) -> None:
        if watch.due() is not None and watch.task is None:
            watch.task = asyncio.get_running_loop().create_task(self._probe(watch))

    def _end(self, watch: Watch) -> None:
        if watch.task is not None:
            watch.task.cancel()
            self._ended.add(watch.task)
            watch.task.add_done_callback(self._ended.discard)

    async def _probe(self, watch: Watch) -> None:
        """One upstream's probes, one at a time, until nothing is left to ask."""
        began = clock.monotonic()
        asker = self._asker(watch.upstream)
        try:
            while (due := watch.due()) is not None:
                probe, streak = due
                watch.next_at = max(watch.next_at, began + probe.initial_delay_s)
                await _until(watch.next_at)
                watch.next_at = clock.monotonic() + probe.period_s
                self._record(watch, probe, streak, await _ask(asker, probe))
                if streak is watch.startup and streak.good:
                    watch.next_at = 0.0  # it started: its readiness is asked without delay
        finally:
            await asker.close()

    def _record(self, watch: Watch, probe: Probe, streak: Streak, answer: Answer) -> None:
        was_ready = watch.ready
        streak.record(answer.ok, probe)
        watch.last, watch.answered_at = answer, clock.wall()
        if watch.ready == was_ready:
            return
        name = watch.upstream.name
        if watch.ready:
            log.info("upstream %s is ready: %s", name, answer.detail)
            self._tell(name)
        else:
            log.warning("upstream %s is not ready: %s", name, answer.detail)

    def _tell(self, name: str) -> None:
        try:
            self._on_recovered(name)
        except Exception:  # a listener's fault must not end the probes
            log.exception("the recovery of upstream %s could not be told", name)

    async def close(self) -> None:
        """End all probes. Called once."""
        for watch in self._watches.values():
            self._end(watch)
        if self._ended:
            await asyncio.wait(set(self._ended))


async def _ask(asker: Asker, probe: Probe) -> Answer:
    """One probe within its time; whatever goes wrong is a failure."""
    try:
        async with asyncio.timeout(probe.timeout_s):
            return await asker.ask(probe)
    except TimeoutError:
        return Answer(False, f"no answer within {probe.timeout_s:g} s")
    except Exception as fault:  # a certificate that cannot be read, a garbage answer: none of them means ready
        return Answer(False, f"{type(fault).__name__}: {fault}"[:200])


async def _until(moment: float) -> None:
    """Let at least one turn of the loop pass, so that an upstream with period 0 starves nobody."""
    await asyncio.sleep(max(0.0, moment - clock.monotonic()))


def _asked(upstream: Upstream) -> tuple[object, ...]:
    """All that a probe depends on."""
    return upstream.http, upstream.startup, upstream.readiness


def _address(upstream: Upstream) -> tuple[object, ...]:
    tcp = tuple(probe.tcp_address for probe in (upstream.startup, upstream.readiness) if probe is not None)
    return upstream.http.url if upstream.http is not None else "", tcp
