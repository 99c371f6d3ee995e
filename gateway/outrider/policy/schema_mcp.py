"""The typed document, its part about MCP servers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from outrider.policy import plans
from outrider.policy.fields import HeaderName, Model, Size, Text, default, exactly_one, fault, optional
from outrider.policy.units import format_size

_MCP = plans.McpUpstream()
_HTTP = plans.HttpUpstream("")
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,199}$"
OF_URL = frozenset({"headers", "ca_file", "cert_file", "key_file", "use_env_proxy"})
OF_COMMAND = frozenset({"env", "cwd", "start"})


class McpUpstream(Model):
    """An MCP server: exactly one of url (streamable HTTP) and command (a child process over stdio)."""

    model_config = exactly_one("url", "command")

    url: str = optional("The server's endpoint, http:// or https://. {env:NAME} may stand in it.", max_length=2000)
    headers: dict[HeaderName, str] = optional(
        "Sent with each request. Secrets only as {env:NAME} or {file:/path}.", max_length=50
    )
    ca_file: Text = optional("PEM file of a private certificate authority.")
    cert_file: Text = optional("PEM file of our client certificate.")
    key_file: Text = optional("PEM file of that certificate's key.")
    use_env_proxy: bool = default(_HTTP.use_env_proxy, "Honour HTTP_PROXY, HTTPS_PROXY and NO_PROXY.")
    command: list[Annotated[str, Field(min_length=1, max_length=4000)]] = optional(
        "The program and its arguments. Outrider starts it, watches it and ends it.", min_length=1, max_length=100
    )
    env: dict[Annotated[str, Field(pattern=ENV_NAME)], str] = optional(
        "Variables of the child beside HOME, LOGNAME, PATH, SHELL, TERM and USER; it gets no others. Secrets only as "
        "{env:NAME} or {file:/path}.",
        max_length=100,
    )
    cwd: Text = optional("The child's folder. A relative path starts at the policy's folder, which is the default.")
    start: Literal["onDemand", "atStart"] = default(
        _MCP.start, "When the child is started: with its first call, or with the sidecar."
    )
    protocol: Literal["auto", "2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"] = default(
        _MCP.protocol, "The version that is spoken. auto: the newest that both know."
    )
    trust_annotations: bool = default(
        _MCP.trust_annotations,
        "Believe readOnlyHint and idempotentHint of its tools where the policy does not say their effect. Without it "
        "they are writes.",
    )
    drift: Literal["allow", "flag", "refuse"] = default(
        _MCP.drift, "What becomes of a tool whose schema or description changed since it was first seen."
    )
    max_response: Size = default(
        _MCP.max_response_bytes, "The largest message read.", format_size(_MCP.max_response_bytes)
    )

    @model_validator(mode="after")
    def _one_kind(self) -> McpUpstream:
        said = self.model_fields_set
        if len(said & {"url", "command"}) != 1:
            raise fault("E53", "an MCP server is exactly one of url and command.", "write one of the two.")
        kind, foreign = ("url", OF_COMMAND) if "url" in said else ("command", OF_URL)
        if odd := sorted(said & foreign):
            alias = type(self).model_fields[odd[0]].alias or odd[0]
            raise fault("E53", f"{alias} says nothing beside {kind}.", "remove it.")
        return self
