"""The typed document: every key of the policy language, its unit, its bounds, its default and what it means.

Keys are spelled ``likeThis``; unknown keys are refused. The defaults are those of ``plans``, so that the schema cannot
say another number than the one in force. Sections are validated one by one (see ``draft``), so that one fault does not
hide another; ``Policy`` as a whole is what ``json_schema`` shows to editors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.json_schema import GenerateJsonSchema

from outrider.policy import plans
from outrider.policy.fields import (
    POLICY_NAME,
    UPSTREAM_NAME,
    Count,
    Duration,
    HeaderName,
    Model,
    Pattern,
    PositiveDuration,
    RedactPath,
    RetryWord,
    Size,
    Text,
    ToolName,
    ToolPattern,
    default,
    exactly_one,
    fault,
    lasting,
    optional,
)
from outrider.policy.schema_agents import Agents
from outrider.policy.schema_identity import Identity
from outrider.policy.schema_runs import Runs
from outrider.policy.schema_upstreams import Domain, Upstream
from outrider.policy.units import format_size

API_VERSION = "outrider.dev/v1alpha1"
KIND = "Policy"

Mode = Literal["enforce", "observe"]

# ── how a tool is called ─────────────────────────────────────────────────────────────────────────────────────────

_TIMEOUTS = plans.Timeouts()
_RETRY = plans.Retry()


class Timeouts(Model):
    """How long a call and its attempts may take."""

    total: PositiveDuration = lasting(
        _TIMEOUTS.total_s, "The whole call, with its retries, waits and fallbacks. A caller may only shorten it."
    )
    per_try: PositiveDuration = lasting(_TIMEOUTS.per_try_s, "One attempt. Must be less than total.")
    connect: PositiveDuration = lasting(
        _TIMEOUTS.connect_s, "Connecting to an HTTP upstream; an attempt that ends here was not executed."
    )
    idle: PositiveDuration = lasting(
        _TIMEOUTS.idle_s, "Raw HTTP: how long nothing of a body that is streamed may move, in either direction."
    )


class Backoff(Model):
    """The wait before attempt n + 1: a random time between 0 and min(max, initial * multiplier^(n-1))."""

    initial: PositiveDuration = lasting(_RETRY.initial_s, "The longest wait before the second attempt.")
    multiplier: float = default(_RETRY.multiplier, "What the longest wait grows by.", ge=1, le=10)
    max: PositiveDuration = lasting(_RETRY.max_s, "The longest wait before any attempt.")


class RetryAfter(Model):
    """What an upstream's Retry-After does."""

    honor: bool = default(_RETRY.honor_retry_after, "Wait as long as the upstream asks, never less.")
    max: Duration = lasting(
        _RETRY.retry_after_max_s,
        "Asked to wait longer than this, the call fails at once and is told when to come back.",
    )


class Retry(Model):
    """When a failed attempt is followed by another."""

    max_attempts: int = default(
        _RETRY.max_attempts, "How many attempts a call has, the first included. 1 disables retries.", ge=1, le=10
    )
    backoff: Backoff = optional("The waits between attempts.")
    retry_on: list[RetryWord] = default(
        list(_RETRY.retry_on),
        "Which failures are retried: not_executed, reset, timeout, protocol, raised, http-503, http-5xx, or an "
        "exception's qualified name. What a write may not repeat is left out by itself.",
        max_length=64,
    )
    retry_after: RetryAfter = optional("What an upstream's Retry-After does.")


class IdempotencySend(Model):
    """Where the key travels: exactly one of the two."""

    model_config = exactly_one("header", "argument")

    header: HeaderName = optional("The name of the HTTP header that carries the key.")
    argument: Text = optional("The name of the argument that carries the key.")

    @model_validator(mode="after")
    def _one(self) -> IdempotencySend:
        if len(self.model_fields_set) != 1:
            raise fault("E53", "the key is sent in exactly one place.", "write either header or argument.")
        return self


class Idempotency(Model):
    """How an upstream that deduplicates learns the call's key. The key is the call's id, the same for each attempt."""

    send: IdempotencySend = Field(description="Where the key travels.")


class StaticFallback(Model):
    """A value instead of an answer."""

    value: Any = Field(description="The result that the caller gets, marked as degraded. Any JSON value, null too.")


class Fallback(Model):
    """One way out after failure: exactly one of tool and static."""

    model_config = exactly_one("tool", "static")

    tool: ToolName = optional("Another tool, called with the same arguments and governed by its own plan and rules.")
    static: StaticFallback = optional("A fixed value.")
    only_if: Literal["not_executed"] = optional("Only when the failed attempts provably never ran.")

    @model_validator(mode="after")
    def _one(self) -> Fallback:
        if len(self.model_fields_set & {"tool", "static"}) != 1:
            raise fault(
                "E53",
                "a fallback is exactly one of tool and static.",
                "write '- tool: NAME' or '- static: {value: …}'.",
            )
        return self


class HttpTemplate(Model):
    """How the arguments become an HTTP request. {args.name} names an argument; nothing else can be named."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = default("POST", "The method.")
    path: str = optional(
        "The path below the upstream's url; values are percent-encoded, '/' too. Left out: /OPERATION.", max_length=2000
    )
    query: dict[str, str] = optional(
        "Parameters of the query; one whose argument is missing is left out.", max_length=100
    )
    headers: dict[HeaderName, str] = optional(
        "Headers of this tool. Secrets belong to the upstream's headers.", max_length=50
    )
    body: Any = optional(
        "The JSON body. A text that is one {args.name} becomes that value with its type. Left out: the arguments that "
        "are not used elsewhere."
    )


class PlanKeys(Model):
    """What both `defaults` and an entry of `tools` may say."""

    effect: Literal["read", "idempotent", "keyed", "write"] = default(
        "write",
        "What repeating the tool would do: read changes nothing, idempotent and keyed may be repeated, write may not.",
    )
    timeouts: Timeouts = optional("How long a call and its attempts may take.")
    retry: Retry = optional("When a failed attempt is followed by another.")
    idempotency: Idempotency = optional("Needed for effect keyed: where the key travels.")
    redact: list[RedactPath] = default(
        [], "What is blotted out in the ledger: paths such as $.args.iban and $.result.items[*].secret.", max_length=256
    )
    placement: Literal["thread", "caller"] = default(
        "thread",
        "Where a synchronous in-process function runs. caller: in the thread that called it; its timeout is then "
        "observed, not enforced.",
    )
    connect_errors: Literal["not_executed", "unknown"] = default(
        "not_executed",
        "What it proves when an in-process write or keyed function raises that a connection failed. unknown: nothing, "
        "for a function that does several things one after the other.",
    )


class Defaults(PlanKeys):
    """The lowest layer of every plan."""


class Tool(PlanKeys):
    """One layer: what it says applies to every tool that it matches, over `defaults` and less specific entries."""

    match: ToolPattern = Field(description="A tool's exact name, or a prefix with '*' at the end.", max_length=200)
    fallback: list[Fallback] = default(
        [], "Ways out after failure, in order. A longer layer's list replaces a shorter one's.", max_length=8
    )
    http: HttpTemplate = optional("How the arguments become an HTTP request.")
    composite: bool = default(
        False,
        "An in-process tool that calls other tools (an agent as a tool): holds no slot, has no per-try timeout, "
        "is not retried.",
    )


# ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Rule(Model):
    """Who may call what, under which condition. Order never decides: deny over require_approval over allow."""

    name: Text = Field(description="What the rule is called in decisions, problems and the ledger. Unique.")
    tools: list[ToolPattern] = Field(
        description="Tools that it speaks of: exact names or prefixes with '*'.", min_length=1, max_length=256
    )
    agents: list[Pattern] = default(
        ["*"], "Agents that it speaks of. Left out: everyone.", min_length=1, max_length=256
    )
    when: Annotated[str, Field(min_length=1)] = optional(
        "A condition in CEL over tool, args, agent, run, session, principal and now. Left out: always."
    )
    then: Literal["allow", "deny", "require_approval"] = Field(description="What follows.")
    reason: Text = optional("The sentence that a refused caller reads.")
    approvers: list[Text] = optional("Who may approve; only with then: require_approval.", min_length=1, max_length=64)
    mode: Mode = default("enforce", "observe: never decides, is recorded where it would have decided otherwise.")

    @model_validator(mode="after")
    def _approvers(self) -> Rule:
        if "approvers" in self.model_fields_set and self.then != "require_approval":
            raise fault(
                "E53",
                f"approvers say nothing beside then: {self.then}.",
                "remove them, or write then: require_approval.",
            )
        return self


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────

_LIMITS = plans.Limits()
_LEDGER = plans.LedgerSettings()
_KILLS = plans.KillSettings()


class Metadata(Model):
    """What the policy is called."""

    name: str = optional("The policy's name. Left out: the folder's.", pattern=POLICY_NAME)
    description: Text = optional("A sentence for people.")


class Limits(Model):
    """What a client can make grow, capped."""

    max_inflight: Count = default(_LIMITS.max_inflight, "Calls under way at once; more are refused as overloaded.")
    max_body: Size = default(_LIMITS.max_body_bytes, "The largest request body.", format_size(_LIMITS.max_body_bytes))
    max_depth: int = default(_LIMITS.max_depth, "How deep arguments may nest.", ge=1, le=128)
    max_nodes: Count = default(_LIMITS.max_nodes, "How many values arguments may hold.")
    max_agents: Count = default(_LIMITS.max_agents, "Agents that are told apart.")
    max_runs: Count = default(_LIMITS.max_runs, "Runs that are told apart; see `runs`.")
    max_domains: Count = default(_LIMITS.max_domains, "Fault domains of in-process tools that are told apart.")
    max_channels: Count = default(_LIMITS.max_channels, "Agents' processes connected at once.")
    suspect_for: PositiveDuration = lasting(
        _LIMITS.suspect_s, "How long a lost agent's attempts stay suspect before they become unknown."
    )
    start_by: PositiveDuration = lasting(_LIMITS.start_by_s, "How long an in-process function may take to begin.")


class LedgerSection(Model):
    """The append-only audit log."""

    durability: Literal["group", "strict"] = default(
        _LEDGER.durability,
        "group: the start of an attempt with effects is on disk before it is sent. strict: so is its end, before it "
        "is answered.",
    )
    max_size: Size = default(_LEDGER.max_bytes, "The size past which whenFull applies.", format_size(_LEDGER.max_bytes))
    when_full: Literal["warn", "refuse"] = default(_LEDGER.when_full, "Warn, or refuse calls with effects.")
    record_args: bool = default(_LEDGER.record_args, "Keep arguments (redacted, erasable) beside their digest.")
    record_results: bool = default(_LEDGER.record_results, "Keep results (redacted, erasable) beside their digest.")
    redact_keys: list[Text] = default(
        [], "Keys blotted out wherever they stand, besides token, password, authorization and the like.", max_length=256
    )
    unknown_for: PositiveDuration = lasting(
        _LEDGER.unknown_ttl_s, "How long the same call stays refused after an unknown outcome."
    )


class Kills(Model):
    """Kill switches."""

    abort_timeout: PositiveDuration = lasting(
        _KILLS.abort_timeout_s, "How long a receipt waits for processes that were told to abort."
    )
    file: bool = default(_KILLS.file, "Watch for the file DATA/KILL, which engages a global kill.")


def _mode() -> Any:
    return default(
        "enforce",
        "observe: everything is decided and recorded, and nothing is refused by the policy. Kill switches always act.",
    )


class Head(Model):
    """What one file says for all of them, besides the sections."""

    mode: Mode = _mode()


class Policy(Model):
    """An Outrider policy. All files of a folder together are one policy; each begins with apiVersion and kind."""

    api_version: Literal["outrider.dev/v1alpha1"] = Field(description="The version of the language.")
    kind: Literal["Policy"] = Field(description="Always Policy.")
    metadata: Metadata = optional("What the policy is called.")
    mode: Mode = _mode()
    defaults: Defaults = optional("The lowest layer of every plan.")
    domain: Domain = optional("What every fault domain shares, unless its upstream says otherwise.")
    upstreams: dict[Annotated[str, Field(pattern=UPSTREAM_NAME)], Upstream] = optional(
        "Where tools live, by name. `local`, the agents' own processes, always exists."
    )
    tools: list[Tool] = optional("How tools are called, in layers.")
    rules: list[Rule] = optional("Who may call what.")
    limits: Limits = optional("What a client can make grow, capped.")
    ledger: LedgerSection = optional("The audit log.")
    kills: Kills = optional("Kill switches.")
    runs: Runs = optional("What one run, with all its nested agents, may do altogether.")
    identity: Identity = optional("Whom agents are believed to be.")
    agents: Agents = optional("Who is expected, and what becomes of everybody else.")


class _WithoutTitles(GenerateJsonSchema):
    """Field titles would only repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a policy file, for editors."""
    schema = Policy.model_json_schema(by_alias=True, schema_generator=_WithoutTitles)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://outrider.dev/schema/v1alpha1/policy.json",
        **schema,
    }
