"""The typed document, its part about who agents are. The rest is in ``schema``."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from outrider.policy.fields import (
    LABEL_NAME,
    TRUST_DOMAIN,
    Duration,
    Model,
    PositiveDuration,
    Size,
    Text,
    default,
    exactly_one,
    fault,
    lasting,
    optional,
)
from outrider.policy.identity import CAPTURE, JwtIssuer, KeysFrom
from outrider.policy.units import format_size

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
MAX_LEEWAY_S = 300.0
MAX_BYTES = 64 * 1024
_JWT = JwtIssuer("", "", (), KeysFrom())


def _algorithm(value: Any) -> Any:
    if not isinstance(value, str) or value in ALGORITHMS:
        return value
    known = f"known are {', '.join(ALGORITHMS)}."
    if value.lower() == "none":
        raise fault("E60", "the algorithm 'none' signs nothing.", known)
    if value.upper().startswith("HS"):
        raise fault("E60", f"'{value[:20]}' is symmetric: whoever can check such a token can forge one.", known)
    near = next(iter(get_close_matches(value.upper(), ALGORITHMS, 1)), None)
    raise fault("E44", f"'{value[:40]}' is not an algorithm.", f"did you mean '{near}'?" if near else known)


def _claim(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("/") and (value.endswith("/") or "//" in value):
        raise fault("E48", f"the claim '{value[:60]}' has an empty step.", "write for example /act/sub.")
    return value


def _capturing(value: Any) -> Any:
    if isinstance(value, str) and value.count(CAPTURE) != 1:
        message = f"the pattern '{value[:60]}' must hold {CAPTURE} exactly once: it says which part counts."
        raise fault("E48", message, "write for example spiffe://prod.example/agent/{name}.")
    return value


def _leeway(value: float) -> float:
    if value > MAX_LEEWAY_S:
        raise fault("E52", "must be at most 5m.", "mend the clocks instead; 30s is plenty where they are kept.")
    return value


def _max_size(value: int) -> int:
    if not 0 < value <= MAX_BYTES:
        raise fault("E52", f"must be from 1B to {format_size(MAX_BYTES)}.", "write for example 8KiB.")
    return value


Algorithm = Annotated[str, BeforeValidator(_algorithm), WithJsonSchema({"enum": list(ALGORITHMS)})]
ClaimName = Annotated[Text, BeforeValidator(_claim)]
ClaimPattern = Annotated[Text, BeforeValidator(_capturing)]


class AgentClaim(Model):
    """Which claim names the agent."""

    claim: ClaimName = default("sub", "A claim by its name, or with a leading '/' by its path: /act/sub.")
    pattern: ClaimPattern = optional(
        "The form that the claim must have. {name}, one or more characters but '/' and ':', is the agent's name. Left "
        "out: the whole claim is."
    )


class ClaimText(Model):
    """A text of the JWT, or one that is the same for all: exactly one of claim and value."""

    model_config = exactly_one("claim", "value")

    claim: ClaimName = optional("A claim by its name, or with a leading '/' by its path: /kubernetes.io/namespace.")
    pattern: ClaimPattern = optional("The form that the claim must have; {name} is the part that counts.")
    value: Text = optional("The same text for every token of this issuer.")

    @model_validator(mode="after")
    def _one(self) -> ClaimText:
        if len(self.model_fields_set & {"claim", "value"}) != 1:
            raise fault("E53", "this is exactly one of claim and value.", "write 'claim: NAME' or 'value: TEXT'.")
        if "pattern" in self.model_fields_set and "claim" not in self.model_fields_set:
            raise fault("E53", "a pattern says nothing beside value.", "remove it.")
        return self


class Jwks(Model):
    """Where the issuer's keys are published, as a JSON Web Key Set: exactly one of file and url."""

    model_config = exactly_one("file", "url")

    file: Text = optional("A file, read again when it changes. A relative path starts at the policy's folder.")
    url: Text = optional("https://…, or http:// on loopback only. Fetched in the background; kept while it is down.")
    ca_file: Text = optional("With url: PEM file of a private certificate authority.")
    token_file: Text = optional("With url: a file whose text is sent as bearer, read anew for each fetch.")
    refresh: PositiveDuration = lasting(_JWT.keys.refresh_s, "With url: the time between two fetches.")

    @model_validator(mode="after")
    def _one(self) -> Jwks:
        said = self.model_fields_set
        if len(said & {"file", "url"}) != 1:
            raise fault("E53", "keys come from exactly one of file and url.", "write 'file: PATH' or 'url: https://…'.")
        if "file" in said and (beside := said & {"ca_file", "token_file", "refresh"}):
            keys = ", ".join(sorted(str(type(self).model_fields[name].alias) for name in beside))
            raise fault("E53", f"{keys}: says nothing beside file.", "remove it.")
        return self


class Jwt(Model):
    """Whose JWTs are believed, and what they mean here: exactly one of issuer and trustDomain."""

    model_config = exactly_one("issuer", "trustDomain")

    issuer: Text = optional("What their `iss` must be, exactly.")
    trust_domain: Annotated[str, Field(pattern=TRUST_DOMAIN)] = optional(
        "For SPIFFE JWT-SVIDs, which need no `iss`: their `sub` must begin with spiffe://THIS/."
    )
    audience: list[Text] = Field(
        description="One of these must be in their `aud`: what was issued for somebody else is not for us.",
        min_length=1,
        max_length=16,
    )
    jwks: Jwks = Field(description="Where the keys are published.")
    algorithms: list[Algorithm] = default(
        list(_JWT.algorithms), "The only algorithms that are accepted.", min_length=1, max_length=len(ALGORITHMS)
    )
    leeway: Annotated[Duration, AfterValidator(_leeway)] = lasting(
        _JWT.leeway_s, "How far the issuer's clock may differ from ours; at most 5m."
    )
    max_size: Annotated[Size, AfterValidator(_max_size)] = default(
        _JWT.max_bytes, "The largest token; at most 64KiB.", format_size(_JWT.max_bytes)
    )
    agent: AgentClaim = optional("Which claim names the agent. Left out: `sub`, all of it.")
    owner: ClaimText = optional("Who answers for the agent.")
    labels: dict[Annotated[str, Field(pattern=LABEL_NAME)], ClaimText] = optional(
        "What conditions see as agent.labels.", max_length=32
    )
    on_behalf_of: ClaimText = optional("For whom the agent acts: principal.on_behalf_of, and in the ledger.")

    @model_validator(mode="after")
    def _one(self) -> Jwt:
        if len(self.model_fields_set & {"issuer", "trust_domain"}) != 1:
            message = "a token is known by exactly one of issuer and trustDomain."
            raise fault("E53", message, "write 'issuer: https://…', or for SPIFFE 'trustDomain: prod.example'.")
        return self


class Identity(Model):
    """Whom agents are believed to be."""

    shared_token: Literal["allow", "refuse"] = default(
        "allow",
        "The one token in the data folder, with which any name may be used: for trying things out. refuse: every agent "
        "needs a credential of its own.",
    )
    jwt: list[Jwt] = default([], "Identity providers whose tokens are believed.", max_length=16)
