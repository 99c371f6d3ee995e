"""The typed document, its half about places: fault domains and upstreams. The rest is in ``schema``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from outrider.policy import plans
from outrider.policy.fields import (
    PROBE_ADDRESS,
    Count,
    Duration,
    HeaderName,
    Model,
    PositiveDuration,
    Rate,
    Size,
    Text,
    default,
    exactly_one,
    fault,
    lasting,
    optional,
)
from outrider.policy.schema_mcp import McpUpstream
from outrider.policy.units import format_size

# ── what a fault domain shares ───────────────────────────────────────────────────────────────────────────────────

_BREAKER = plans.Breaker()
_BULKHEAD = plans.Bulkhead()
_BUDGET = plans.RetryBudget()


class HalfOpen(Model):
    """How an open breaker finds out whether the upstream is back."""

    max_probes: int = default(_BREAKER.max_probes, "Attempts let through at the same time.", ge=1, le=100)
    success_threshold: int = default(_BREAKER.success_threshold, "Successes in a row that close it.", ge=1, le=100)
    max_wait: PositiveDuration = lasting(
        _BREAKER.half_open_max_wait_s, "Without a verdict for this long it opens again."
    )


class Breaker(Model):
    """Fails fast while an upstream is down. Only its own failures count, never a tool's "no"."""

    enabled: bool = default(_BREAKER.enabled, "false: never opens.")
    window: PositiveDuration = lasting(_BREAKER.window_s, "The time over which failures are counted.")
    min_calls: Count = default(_BREAKER.min_calls, "Attempts in the window below which the ratio says nothing.")
    failure_ratio: float = default(
        _BREAKER.failure_ratio, "Opens at this share of failures, above 0 and at most 1.", gt=0, le=1
    )
    consecutive_failures: Count = default(_BREAKER.consecutive_failures, "Opens after this many failures in a row.")
    open_for: PositiveDuration = lasting(
        _BREAKER.open_for_s, "How long it stays open at first; doubles each time it fails to close."
    )
    open_for_max: PositiveDuration = lasting(_BREAKER.open_for_max_s, "The longest it stays open.")
    half_open: HalfOpen = optional("How it closes again.")


class Bulkhead(Model):
    """How many attempts may be under way at once."""

    max_concurrent: Count = default(_BULKHEAD.max_concurrent, "Attempts at the same time.")
    max_queue: int = default(
        _BULKHEAD.max_queue, "Attempts that may wait for a slot; more are refused.", ge=0, le=1_000_000
    )
    max_wait: Duration = lasting(_BULKHEAD.max_wait_s, "How long an attempt waits for a slot.")


class RetryBudget(Model):
    """Retries are at most minRetries + ratio * calls over the window, so that they never add to an outage."""

    ratio: float = default(_BUDGET.ratio, "Retries for each call.", ge=0, le=10)
    window: PositiveDuration = lasting(_BUDGET.window_s, "The time over which both are counted.")
    min_retries: int = default(_BUDGET.min_retries, "Retries that are always allowed in a window.", ge=0, le=1_000_000)


class RateLimit(Model):
    """A token bucket over attempts."""

    rate: Rate = Field(description="Attempts for each second or minute: 20/s, 30/m.")
    burst: Count = optional("Attempts at once after a pause. Left out: one second's worth, at least 1.")
    on_limit: Literal["wait", "reject"] = default(
        "wait", "Wait for a token, no longer than bulkhead.maxWait, or refuse at once."
    )


class Domain(Model):
    """What a fault domain shares: an upstream, or for `local` one agent's one tool."""

    breaker: Breaker = optional("Fails fast while an upstream is down.")
    bulkhead: Bulkhead = optional("How many attempts may be under way at once.")
    retry_budget: RetryBudget = optional("How many retries there may be.")
    rate_limits: list[RateLimit] = default([], "How many attempts there may be over time.", max_length=8)


# ── upstreams ────────────────────────────────────────────────────────────────────────────────────────────────────

_HTTP = plans.HttpUpstream("")
_PROBE = plans.Probe("http")


class HttpUpstream(Model):
    """An HTTP service."""

    url: str = Field(
        description="http:// or https://, a host, and possibly a port and a base path. {env:NAME} may stand in it.",
        max_length=2000,
    )
    headers: dict[HeaderName, str] = optional(
        "Sent with each request. Secrets only as {env:NAME} or {file:/path}.", max_length=50
    )
    ca_file: Text = optional(
        "PEM file of a private certificate authority. A relative path starts at the policy's folder."
    )
    cert_file: Text = optional("PEM file of our client certificate.")
    key_file: Text = optional("PEM file of that certificate's key.")
    use_env_proxy: bool = default(_HTTP.use_env_proxy, "Honour HTTP_PROXY, HTTPS_PROXY and NO_PROXY.")
    safe_statuses: list[Annotated[int, Field(ge=400, le=599)]] = default(
        [], "Statuses by which this upstream proves that nothing ran, for example [503].", max_length=32
    )
    max_response: Size = default(
        _HTTP.max_response_bytes, "The largest answer read.", format_size(_HTTP.max_response_bytes)
    )
    authorization: Literal["forward", "replace", "drop"] = optional(
        "Raw HTTP: what becomes of a client's own Authorization, which is never Outrider's credential. Left out: "
        "replace where headers has one, else drop."
    )

    @model_validator(mode="after")
    def _authorization(self) -> HttpUpstream:
        own = any(name.lower() == "authorization" for name in self.headers or {})
        said = self.authorization if "authorization" in self.model_fields_set else ""
        if said == "replace" and not own:
            raise fault(
                "E53", "authorization: replace, and headers has no Authorization.", "write it into headers, or drop."
            )
        if said in {"forward", "drop"} and own:
            raise fault(
                "E53",
                f"authorization: {said}, and headers has an Authorization, which is sent in its place.",
                "remove one of the two.",
            )
        return self


class Probe(Model):
    """A health probe with the fields and defaults of Kubernetes: exactly one of http and tcp."""

    model_config = exactly_one("http", "tcp")

    http: str = optional("A path below the upstream's url; 200 to 399 is healthy.", pattern=r"^/", max_length=500)
    tcp: str = optional(
        "HOST:PORT that accepts connections, or the word url for the upstream's own.",
        pattern=PROBE_ADDRESS,
        max_length=300,
    )
    period: PositiveDuration = lasting(_PROBE.period_s, "The time between two probes.")
    timeout: PositiveDuration = lasting(_PROBE.timeout_s, "How long a probe waits for an answer.")
    failure_threshold: Count = default(_PROBE.failure_threshold, "Failures in a row that make it unready.")
    success_threshold: Count = default(_PROBE.success_threshold, "Successes in a row that make it ready.")
    initial_delay: Duration = lasting(_PROBE.initial_delay_s, "The wait before the first probe.")

    @model_validator(mode="after")
    def _one(self) -> Probe:
        if len(self.model_fields_set & {"http", "tcp"}) != 1:
            raise fault("E53", "a probe is exactly one of http and tcp.", "write 'http: /healthz' or 'tcp: url'.")
        if self.tcp and self.tcp != "url" and not 0 < int(self.tcp.rpartition(":")[2]) < 65536:
            raise fault("E47", f"'{self.tcp}' has no port from 1 to 65535.", "write HOST:PORT.")
        return self


class Health(Model):
    """An unready upstream fails fast; it recovers by itself."""

    startup: Probe = optional("Asked until it succeeds once; the readiness probe waits for it.")
    readiness: Probe = optional("Asked all the time; while it fails, calls are refused with upstream_unready.")


class Upstream(Model):
    """Where tools live. The name is the group of its tools: ledger.get_balance lives at `ledger`."""

    http: HttpUpstream = optional("An HTTP service.")
    mcp: McpUpstream = optional("An MCP server.")
    health: Health = optional("Health probes.")
    domain: Domain = optional("What this upstream's fault domain shares, over the policy's `domain`.")
