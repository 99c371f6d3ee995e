"""How one tool is called, after the layers are merged: the plan, pinned for a call's life.

All durations are seconds. Defaults here are the language's own, below a policy's ``defaults``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from outrider.calls import Effect


@dataclass(frozen=True, slots=True)
class Timeouts:
    total_s: float = 30.0
    per_try_s: float = 8.0
    connect_s: float = 2.0
    idle_s: float = 60.0  # of a body that is streamed: how long nothing of it may move


@dataclass(frozen=True, slots=True)
class Retry:
    """``max_attempts`` includes the first. ``retry_on``: words of ``calls.Reason`` plus ``not_executed``,
    ``http-503``, ``http-5xx``, and qualified exception names (those have a dot or start with a capital)."""

    max_attempts: int = 3
    initial_s: float = 0.2
    multiplier: float = 2.0
    max_s: float = 5.0
    retry_on: tuple[str, ...] = (
        "not_executed", "reset", "timeout", "protocol",
        "http-408", "http-425", "http-429", "http-500", "http-502", "http-503", "http-504",
    )  # fmt: skip
    retry_after_max_s: float = 20.0
    honor_retry_after: bool = True

    @property
    def retry_on_types(self) -> frozenset[str]:
        """The exception names among ``retry_on``."""
        return frozenset(word for word in self.retry_on if "." in word or word[:1].isupper())


@dataclass(frozen=True, slots=True)
class Breaker:
    window_s: float = 60.0
    min_calls: int = 10
    failure_ratio: float = 0.5
    consecutive_failures: int = 5
    open_for_s: float = 15.0
    open_for_max_s: float = 300.0
    max_probes: int = 1
    success_threshold: int = 2
    half_open_max_wait_s: float = 30.0
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Bulkhead:
    max_concurrent: int = 10
    max_queue: int = 50
    max_wait_s: float = 2.0


@dataclass(frozen=True, slots=True)
class RetryBudget:
    ratio: float = 0.2
    window_s: float = 60.0
    min_retries: int = 10


@dataclass(frozen=True, slots=True)
class RateLimit:
    rate_per_s: float
    burst: int
    on_limit: Literal["wait", "reject"] = "wait"


@dataclass(frozen=True, slots=True)
class DomainSettings:
    """What a fault domain shares."""

    breaker: Breaker = Breaker()
    bulkhead: Bulkhead = Bulkhead()
    retry_budget: RetryBudget = RetryBudget()
    rate_limits: tuple[RateLimit, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """One health probe. Fields and defaults are those of Kubernetes (period 10 s, timeout 1 s, 3 failures, 1 success).

    ``http`` is a path below the upstream's url; ``tcp`` is ``host:port`` or empty for the url's own.
    """

    kind: Literal["http", "tcp"]
    http_path: str = ""
    tcp_address: str = ""
    period_s: float = 10.0
    timeout_s: float = 1.0
    failure_threshold: int = 3
    success_threshold: int = 1
    initial_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Secret:
    """Text that must never be logged or shown: its repr is stars. ``reveal()`` at the moment of use only."""

    _text: str = field(repr=False)
    source: str = "literal"  # env:NAME, file:/path

    def reveal(self) -> str:
        return self._text

    def __str__(self) -> str:
        return f"«{self.source}»"

    __repr__ = __str__


Authorization = Literal["", "forward", "replace", "drop"]
"""What becomes of a raw client's ``Authorization``. Empty: replaced where ``headers`` has one, else dropped."""


@dataclass(frozen=True, slots=True)
class HttpUpstream:
    """An HTTP service. ``headers`` hold secrets already resolved from {env:…} and {file:…}."""

    url: str
    headers: Mapping[str, str | Secret] = field(default_factory=dict)
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    use_env_proxy: bool = False
    safe_statuses: tuple[int, ...] = ()  # statuses by which this upstream proves that nothing ran
    max_response_bytes: int = 20 * 1024 * 1024
    authorization: Authorization = ""  # of raw HTTP; see ``forwards_authorization``

    @property
    def forwards_authorization(self) -> bool:
        """Whether a raw client's own ``Authorization`` goes to this upstream. Ours, in ``headers``, always does."""
        return self.authorization == "forward"


@dataclass(frozen=True, slots=True)
class McpUpstream:
    """An MCP server: ``http`` is set for one behind streamable HTTP, ``command`` for a child that speaks over stdio.
    ``env`` holds secrets already resolved. ``start`` is ``onDemand`` or ``atStart``, ``protocol`` a version or
    ``auto``, ``drift`` is ``allow``, ``flag`` or ``refuse``."""

    http: HttpUpstream | None = None
    command: tuple[str, ...] = ()
    env: Mapping[str, str | Secret] = field(default_factory=dict)
    cwd: str = ""
    start: str = "onDemand"
    protocol: str = "auto"
    trust_annotations: bool = False
    drift: str = "flag"
    max_response_bytes: int = 20 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where tools live. At most one of ``http`` and ``mcp`` is set; ``local`` has neither."""

    name: str
    http: HttpUpstream | None = None
    mcp: McpUpstream | None = None
    domain: DomainSettings = DomainSettings()
    startup: Probe | None = None
    readiness: Probe | None = None

    @property
    def kind(self) -> Literal["http", "mcp", "local"]:
        if self.http is not None:
            return "http"
        return "mcp" if self.mcp is not None else "local"


@dataclass(frozen=True, slots=True)
class HttpTemplate:
    """How arguments become a request. Templates name ``{args.path.to.value}``; every substituted value is
    percent-encoded whole, slashes too, in ``path``. ``body`` None: JSON of the arguments that neither path nor query
    used, for methods with a body. Empty ``path``: ``/{operation}``."""

    method: str = "POST"
    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True, slots=True)
class Fallback:
    """One way out after failure: another tool, or a static value. ``only_not_executed``: ``onlyIf: not_executed``."""

    tool: str = ""
    static: Any = None
    is_static: bool = False
    only_not_executed: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How one tool is called."""

    tool: str
    upstream: Upstream
    effect: Effect = Effect.WRITE
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    fallback: tuple[Fallback, ...] = ()
    idempotency_header: str = ""  # effect keyed: the header that carries the key
    idempotency_argument: str = ""  # or the argument
    http: HttpTemplate = HttpTemplate()
    redact: tuple[str, ...] = ()
    placement: Literal["thread", "caller"] = "thread"
    composite: bool = False
    connect_errors: Literal["not_executed", "unknown"] = "not_executed"  # what a function's failed connection proves
    sources: Mapping[str, str] = field(default_factory=dict)  # "timeouts.perTry" → "file.yaml:12"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client can make grow, capped. Bytes, counts, seconds."""

    max_inflight: int = 500
    max_body_bytes: int = 1024 * 1024
    max_depth: int = 32
    max_nodes: int = 10_000
    max_agents: int = 1000
    max_runs: int = 10_000
    max_domains: int = 2000
    max_channels: int = 200
    suspect_s: float = 30.0  # how long a lost agent's attempts stay suspect before they become unknown
    start_by_s: float = 5.0  # how long an in-process function may take to begin


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """``durability`` group: intents are fsynced before sending, ends are in the WAL before answering;
    strict: both are fsynced. ``when_full``: warn, or refuse effects once ``max_bytes`` is passed."""

    durability: Literal["group", "strict"] = "group"
    max_bytes: int = 10 * 1024**3
    when_full: Literal["warn", "refuse"] = "warn"
    record_args: bool = True
    record_results: bool = True
    redact_keys: tuple[str, ...] = ()  # besides the sensible defaults
    unknown_ttl_s: float = 600.0  # how long the same call stays refused after an unknown outcome


@dataclass(frozen=True, slots=True)
class KillSettings:
    """``abort_timeout_s``: how long a receipt waits for the processes that were told to abort."""

    abort_timeout_s: float = 2.0
    file: bool = True  # watch DATA/KILL


@dataclass(frozen=True, slots=True)
class Expected:
    """An agent that may be here; ``name`` is exact or a prefix with ``*``."""

    name: str
    owner: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Who is expected, and what becomes of everybody else."""

    expected: tuple[Expected, ...] = ()
    undeclared: Literal["allow", "deny", "quarantine"] = "allow"
    require_owner: bool = False
    drift: Literal["allow", "flag", "refuse"] = "flag"
    pause_max_wait_s: float = 120.0  # how long a call waits for its paused agent
    pause_max_waiting: int = 20  # how many calls of one agent do
