"""The names that telemetry speaks: one place, because the conventions for generative AI still move.

Source: OpenTelemetry semantic conventions for generative AI, status development, as of 2026-11
(https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/execute-tool.md and mcp.md; moved there from
semantic-conventions 1.42), and the stable HTTP, server, error and service conventions of semantic-conventions 1.42.
The package ``opentelemetry-semantic-conventions`` marks the ``gen_ai.*`` names as moved and lacks the metric, so they
are spelled here. What has no convention yet (decisions, rules, breakers, kills) is ``outrider.*``.

``ATTRIBUTES`` is what docs/telemetry.md is checked against.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "semantic-conventions-genai 2026-11, semantic-conventions 1.42"
SCOPE: Final = "outrider"

# ── generative AI ────────────────────────────────────────────────────────────────────────────────────────────────────
EXECUTE_TOOL: Final = "execute_tool"
"""The operation, and the first word of the call's span name."""
OPERATION_NAME: Final = "gen_ai.operation.name"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_TYPE: Final = "gen_ai.tool.type"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"
AGENT_NAME: Final = "gen_ai.agent.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
FUNCTION: Final = "function"
"""``gen_ai.tool.type`` of a function in the agent's process."""
EXTENSION: Final = "extension"
"""And of a tool that is called over the network for the agent."""
EXECUTE_TOOL_DURATION: Final = "gen_ai.execute_tool.duration"
EXECUTE_TOOL_BUCKETS_S: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip

# ── HTTP, server, error ──────────────────────────────────────────────────────────────────────────────────────────────
ERROR_TYPE: Final = "error.type"
HTTP_METHOD: Final = "http.request.method"
HTTP_STATUS: Final = "http.response.status_code"
HTTP_RESENDS: Final = "http.request.resend_count"
URL_TEMPLATE: Final = "url.template"
URL_SCHEME: Final = "url.scheme"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

# ── MCP ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
MCP_METHOD: Final = "mcp.method.name"
MCP_VERSION: Final = "mcp.protocol.version"
RPC_ID: Final = "jsonrpc.request.id"
RPC_STATUS: Final = "rpc.response.status_code"
TRANSPORT: Final = "network.transport"
CALL_TOOL: Final = "tools/call"
TOOL_ERROR: Final = "tool_error"
"""``error.type`` of a result that says ``isError``."""

# ── ours ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
ATTEMPT: Final = "attempt"
"""First word of the span name of an attempt that is not an HTTP request."""
CALL_ID: Final = "outrider.call.id"
PARENT_CALL_ID: Final = "outrider.parent_call.id"
RUN_ID: Final = "outrider.run.id"
AGENT_OWNER: Final = "outrider.agent.owner"
AGENT_INSTANCE: Final = "outrider.agent.instance"
UPSTREAM: Final = "outrider.upstream"
EFFECT: Final = "outrider.effect"
DECISION: Final = "outrider.decision"
RULE: Final = "outrider.rule"
POLICY_DIGEST: Final = "outrider.policy.digest"
OUTCOME: Final = "outrider.outcome"
STAGE: Final = "outrider.stage"
ATTEMPTS: Final = "outrider.attempts"
ATTEMPT_NUMBER: Final = "outrider.attempt"
BREAKER_STATE: Final = "outrider.breaker.state"
KILL_ID: Final = "outrider.kill.id"
DEGRADED_BY: Final = "outrider.degraded_by"
OBSERVED: Final = "outrider.observed"
BACKOFF_S: Final = "outrider.backoff_s"
FAILURE: Final = "outrider.failure"
FALLBACK_TOOL: Final = "outrider.fallback.tool"

RETRY_EVENT: Final = "outrider.retry"
FALLBACK_EVENT: Final = "outrider.fallback"

Where = tuple[str, ...]
CALL, TRY, EVENT = "call", "attempt", "event"

ATTRIBUTES: Final[dict[str, tuple[Where, str]]] = {
    OPERATION_NAME: ((CALL, TRY), "always `execute_tool`; of an attempt where it is an MCP server's `tools/call`"),
    TOOL_NAME: ((CALL, TRY), "the tool that was asked for; on an attempt the one that was called (a fallback's)"),
    TOOL_TYPE: ((CALL,), "`function` in the agent's process, `extension` elsewhere"),
    TOOL_CALL_ID: ((CALL,), "what the framework calls this call, else Outrider's id"),
    AGENT_NAME: ((CALL,), "the agent"),
    CONVERSATION_ID: ((CALL,), "the session, where one was named"),
    TOOL_ARGUMENTS: ((CALL,), "opt-in: the redacted arguments as JSON, cut"),
    TOOL_RESULT: ((CALL,), "opt-in: the redacted result as JSON, cut"),
    ERROR_TYPE: (
        (CALL, TRY),
        "of a call its code; of an attempt the HTTP status, a JSON-RPC code, `tool_error`, or how it failed",
    ),
    CALL_ID: ((CALL,), "the call's id, as in the ledger"),
    PARENT_CALL_ID: ((CALL,), "the call that surrounds it"),
    RUN_ID: ((CALL,), "the run"),
    AGENT_OWNER: ((CALL,), "who answers for the agent"),
    AGENT_INSTANCE: ((CALL,), "its process"),
    UPSTREAM: ((CALL, TRY), "where the tool lives"),
    EFFECT: ((CALL, TRY), "`read`, `idempotent`, `keyed` or `write`"),
    DECISION: ((CALL,), "what the rules said"),
    RULE: ((CALL,), "the rule that said so"),
    POLICY_DIGEST: ((CALL,), "the policy in force"),
    OUTCOME: ((CALL, TRY), "`ok`, `definite`, `not_executed`, `unknown` or `suspended`"),
    STAGE: ((CALL,), "the stage that ended a call that is not ok"),
    ATTEMPTS: ((CALL,), "how many attempts were made"),
    BREAKER_STATE: ((CALL, TRY), "the breaker at the call's end, and when the attempt began"),
    KILL_ID: ((CALL,), "the kill switch that stopped it"),
    DEGRADED_BY: ((CALL,), "the fallback that answered"),
    OBSERVED: ((CALL,), "`mode: observe`: the codes with which it would have been refused"),
    ATTEMPT_NUMBER: ((TRY, EVENT), "which attempt, from 1"),
    HTTP_METHOD: ((TRY,), "of an HTTP request"),
    HTTP_STATUS: ((TRY,), "of its answer"),
    HTTP_RESENDS: ((TRY,), "how many attempts of this tool came before, where any did"),
    URL_TEMPLATE: ((TRY,), "the path as the policy writes it; the real one holds arguments"),
    URL_SCHEME: ((TRY,), "`http` or `https`"),
    SERVER_ADDRESS: ((TRY,), "the upstream's host"),
    SERVER_PORT: ((TRY,), "and port"),
    MCP_METHOD: ((TRY,), "of a request to an MCP server: `tools/call`, or the method that was passed on"),
    MCP_VERSION: ((TRY,), "the version that is spoken with it"),
    RPC_ID: ((TRY,), "the request's id; every attempt has another"),
    RPC_STATUS: ((TRY,), "the code of the JSON-RPC error that was answered"),
    TRANSPORT: ((TRY,), "`tcp`, or `pipe` where the server is a child of the sidecar"),
    BACKOFF_S: ((EVENT,), "`outrider.retry`: the pause before the next attempt"),
    FAILURE: ((EVENT,), "`outrider.retry`: how the attempt before it failed; `outrider.fallback`: why"),
    FALLBACK_TOOL: ((EVENT,), "`outrider.fallback`: the tool that is tried instead, or `static`"),
}
